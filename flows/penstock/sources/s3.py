"""S3Source: the lines of all objects below a prefix, each object once."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from penstock.backends.extras import require_extra
from penstock.backends.server_url import check_s3_url, parse_server_url
from penstock.errors import FlowDefinitionError
from penstock.formats.format import Format, named_format
from penstock.formats.ndjson_reader import LINE_LIMIT
from penstock.sources.file import check_reading
from penstock.sources.source import Emitter, Source
from penstock.support.environment import substitute

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


@dataclass(unsafe_hash=True)
class S3Source(Source[bytes]):
    """The lines of the objects below a prefix of a bucket, in the order of their keys.

    `url` is `s3://BUCKET/PREFIX[?endpoint=URL&region=REGION]` and may contain variables. The names of the objects
    indicate their formats: `.ndjson`, `.jsonl`, `.csv`, each also with `.gz` or `.zst`; `format` is for others. Names
    that begin with `_` or `.` are hidden. `limit` is the maximum of bytes of a line, `delimiter` separates the cells of
    CSV, as for `from_file`. At most 2 MiB of an object are read ahead.

    Each object is processed once. What is settled is recorded about once per second, and at the end of a run, in the
    object `PREFIX/_checkpoints/NAME.json`, where NAME is `checkpoint`. The next run reads new objects, and continues
    where an interrupted run was; after a kill it repeats at most the elements of the last second and those that were in
    flight (at least once). A failed element counts as settled. An object that is replaced is read again. One that
    cannot be read to its end, because its compression or its header is damaged, is logged (`s3.object_failed`) and
    recorded as failed.

    A run ends after the objects that it found at its start: give it to a worker with a schedule to process later ones.
    A checkpoint has one run at a time; a second one fails. A prefix may have at most 200,000 objects.

    Raises `FlowDefinitionError` for invalid settings. The package of `penstock[s3]` is needed.

    >>> source = S3Source("s3://uploads/orders/2025?region=eu-central-1")
    """

    name = "s3"

    url: str
    format: Format | None = field(default=None, kw_only=True)
    checkpoint: str = field(default="penstock", kw_only=True)
    limit: int = field(default=LINE_LIMIT, kw_only=True)
    delimiter: str = field(default=",", kw_only=True)

    def __post_init__(self) -> None:
        super().__init__()
        require_extra("s3", "S3Source")
        check_s3_url(self.url, "S3Source")
        self.format = None if self.format is None else named_format(self.format)
        check_reading(self.format, self.limit, self.delimiter)
        if not _NAME.fullmatch(self.checkpoint):
            raise FlowDefinitionError(f"checkpoint: expected letters, digits, . - and _, got {self.checkpoint!r}")

    async def produce(self, emitter: Emitter[bytes]) -> None:
        from penstock.sources.s3_reader import S3Reader  # imports the client

        reader = S3Reader(
            parse_server_url(substitute(self.url), self.url, subject="S3Source"),
            emitter,
            format=self.format,
            checkpoint=self.checkpoint,
            limit=self.limit,
            delimiter=self.delimiter,
        )
        await reader.read()
