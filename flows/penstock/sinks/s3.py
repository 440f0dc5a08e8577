"""S3Sink: writes values to objects of a bucket, as NDJSON, compressed or not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import isfinite
from string import Formatter
from typing import TYPE_CHECKING, Any, Literal, get_args

from penstock.backends.extras import require_extra
from penstock.backends.server_url import check_s3_url, hide_password, parse_server_url
from penstock.errors import FlowDefinitionError, SinkWriteFailed
from penstock.support.environment import display_text, substitute

if TYPE_CHECKING:
    from penstock.sinks.s3_objects import ObjectWriter

Compression = Literal["gzip", "zstd"]

FIELDS = ("date", "hour", "id")
"""The fields of a template."""


@dataclass(unsafe_hash=True)
class S3Sink:
    """Writes values to objects of a bucket of S3 or a compatible server, as NDJSON.

    `url` is `s3://BUCKET/PREFIX[?endpoint=URL&region=REGION]` and may contain variables. Keys come from the variables
    and roles that AWS tools use. `template` makes the keys below the prefix: `{id}` is a UUID that sorts by time,
    `{date}` and `{hour}` are those of the upload, in UTC. No object is overwritten. `compression` is `gzip` or `zstd`,
    and appends `.gz` or `.zst`.

    An object is visible only when it is complete. Elements are accepted when their object is, so they wait in the
    window of the run: the step `to` collects up to `max_values` of them, for up to `max_wait` seconds, and an object
    never has more values than the window. For large objects make the window large: `Flow.window(50_000)`. An object
    over `max_bytes`, before compression, is divided. Large objects are uploaded in parts.

    Manifests in `PREFIX/_manifests/SESSION-NUMBER.json` list the objects that were accepted. A session lasts from the
    first value until no run uses the sink; its last manifest has `"last": true`. An object that no manifest lists is
    from a write that failed or was cancelled; its elements failed or were cancelled too. A server keeps the parts of
    uploads that were cut off: let a lifecycle rule of the bucket delete incomplete multipart uploads.

    While the server cannot be reached, values wait, and are written to new objects then.

    Raises `FlowDefinitionError` for invalid settings. The package of `penstock[s3]` is needed.

    >>> sink = S3Sink("s3://results/orders?region=eu-central-1", compression="zstd", max_wait=60)
    """

    url: str
    template: str = field(default="{date}/{id}.ndjson", kw_only=True)
    compression: Compression | None = field(default=None, kw_only=True)
    max_values: int = field(default=10_000, kw_only=True)
    max_bytes: int = field(default=64 * 1024 * 1024, kw_only=True)
    max_wait: float = field(default=5.0, kw_only=True)
    name: str = field(default="", kw_only=True, compare=False)
    _writer: ObjectWriter | None = field(default=None, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        require_extra("s3", "S3Sink")
        check_s3_url(self.url, "S3Sink")
        _check_template(self.template)
        if self.compression not in (None, *get_args(Compression)):
            raise FlowDefinitionError(f"compression: expected gzip or zstd, got {self.compression!r}")
        for setting in ("max_values", "max_bytes"):
            if getattr(self, setting) < 1:
                raise FlowDefinitionError(f"{setting}: expected an integer >= 1, got {getattr(self, setting)!r}")
        if not (isfinite(self.max_wait) and self.max_wait >= 0):
            raise FlowDefinitionError(f"max_wait: expected a number of seconds >= 0, got {self.max_wait!r}")

    repeatable = True

    @property
    def title(self) -> str:
        """The URL, for messages."""
        return hide_password(display_text(self.url))

    async def open(self) -> None:
        """Begin a session. Raises `SinkWriteFailed` if the bucket cannot be written to."""
        from penstock.sinks.s3_objects import ObjectWriter  # imports the client

        url = parse_server_url(substitute(self.url), self.url, subject="S3Sink")
        writer = ObjectWriter(url, self.title, self.template, self.compression, self.max_bytes)
        await writer.open()
        self._writer = writer

    async def write(self, values: Sequence[Any]) -> Sequence[Exception | None] | None:
        """Write values to complete objects. Return the errors of those that cannot be written."""
        if self._writer is None:
            raise SinkWriteFailed(self.title, "it is not open")
        return await self._writer.write(values)

    async def aclose(self) -> None:
        """End the session: seal its last manifest."""
        writer, self._writer = self._writer, None
        if writer is not None:
            await writer.aclose()


def _check_template(template: str) -> None:
    """Raise `FlowDefinitionError` for a template that cannot make keys, or does not make different ones."""
    expected = f"template: expected text with {{id}}, and maybe {{date}} and {{hour}}, got {template!r}"
    try:
        parts = list(Formatter().parse(template))
    except ValueError as error:
        raise FlowDefinitionError(f"{expected}: {error}") from None
    fields = [name for _, name, _, _ in parts if name is not None]
    if "id" not in fields or not set(fields) <= set(FIELDS) or any(form or cast for _, _, form, cast in parts):
        raise FlowDefinitionError(expected)
    first = template.lstrip("/").split("/")[0]
    if template.startswith("/") or template.endswith("/") or "//" in template or first.startswith(("_", ".")):
        raise FlowDefinitionError(f"{expected}; it may not begin with /, _ or ., or end with /")
