"""Write values to objects of a bucket, and list the complete ones in manifests."""

from __future__ import annotations

import asyncio
import gzip
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any

import msgspec
from msgspec import Struct

from penstock.backends.s3 import advice_of, is_unreachable, open_bucket, repeat
from penstock.backends.server_url import ServerUrl
from penstock.errors import SinkUnreachable, SinkWriteFailed, describe
from penstock.formats.writers import NdjsonWriter, WriteErrors
from penstock.support.ids import new_id, new_ids, now
from penstock.support.logger import get_logger
from penstock.support.tasks import to_thread_uncancellable

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

log = get_logger()

MANIFESTS = "_manifests"
"""The folder of manifests. Names that begin with `_` are hidden from Hadoop, Spark, Athena and `S3Source`."""

MANIFEST_OBJECTS = 500
"""Maximum of objects in a manifest. It is written again for each of them; then the next one begins."""

PART_BYTES = 8 * 1024 * 1024
"""The size of the parts of a multipart upload. A smaller object is one request."""

CANCEL_SECONDS = 0.8
"""Timeout of deleting the objects of a cancelled write. The step `to` waits for a second."""

SUFFIXES = {None: "", "gzip": ".gz", "zstd": ".zst"}


class ListedObject(Struct, frozen=True):
    """A complete object, in a manifest."""

    key: str
    values: int
    bytes: int
    """Its size as it is stored."""


class Manifest(Struct):
    """The objects that one session of a sink has written: from its opening to its closing."""

    session: str
    number: int
    """From 1."""
    started: str
    sealed: bool
    """Whether no more objects will be added. False in the last manifest of a session that was killed."""
    last: bool
    """Whether this is the last manifest of its session."""
    objects: list[ListedObject]


@dataclass(frozen=True, slots=True)
class Encoded:
    """The content of one object, and the positions of its values in the write."""

    content: bytes
    positions: Sequence[int]


class ObjectWriter:
    """One session. `title` is for messages; one call at a time."""

    def __init__(self, url: ServerUrl, title: str, template: str, compression: str | None, max_bytes: int) -> None:
        self._bucket: Any = open_bucket(url.name, url.options)
        self._bucket_name = url.name
        self._prefix = f"{url.prefix}/" if url.prefix else ""
        self._title = title
        self._template = template
        self._compression = compression
        self._max_bytes = max_bytes
        self._manifest = Manifest(new_id(), 1, now().isoformat(), sealed=False, last=False, objects=[])

    async def open(self) -> None:
        """Write the first manifest, to find out whether the bucket can be written to. Raises `SinkWriteFailed`."""
        try:
            await self._put_manifest()
        except Exception as error:
            raise self._failed(error) from error

    async def write(self, values: Sequence[Any]) -> Sequence[Exception | None] | None:
        """Write values to complete objects, and list these in the manifest. Return the errors of the other values."""
        encoded, refused = await to_thread_uncancellable(
            partial(encode_objects, values, self._max_bytes, self._compression)
        )
        errors: list[Exception | None] = list(refused or [None] * len(values))
        if len(self._manifest.objects) >= MANIFEST_OBJECTS:
            await self._next_manifest()
        known = len(self._manifest.objects)
        keys = [self._new_key() for _ in encoded]
        try:
            for key, each in zip(keys, encoded, strict=True):
                try:
                    self._manifest.objects.append(await self._put(key, each))
                except Exception as error:
                    failure = self._failed(error)
                    failure.__cause__ = error
                    for position in each.positions:
                        errors[position] = failure
            if len(self._manifest.objects) > known:
                await self._put_manifest()
        except BaseException as error:
            del self._manifest.objects[known:]
            await self._delete(keys)
            if isinstance(error, Exception):
                raise self._failed(error) from error
            raise
        return errors if any(errors) else None

    async def aclose(self) -> None:
        """Seal the manifest. One without objects is deleted. Raises `SinkWriteFailed`."""
        try:
            if self._manifest.objects:
                self._manifest.sealed = self._manifest.last = True
                await self._put_manifest()
            else:
                await self._bucket.delete_async(self._manifest_key)
        except Exception as error:
            raise self._failed(error) from error

    async def _next_manifest(self) -> None:
        full = self._manifest
        full.sealed = True
        try:
            await self._put_manifest()
        except Exception as error:
            full.sealed = False
            raise self._failed(error) from error
        self._manifest = Manifest(full.session, full.number + 1, full.started, sealed=False, last=False, objects=[])

    def _new_key(self) -> str:
        return self._prefix + key_of(self._template, now()) + SUFFIXES[self._compression]

    async def _put(self, key: str, encoded: Encoded) -> ListedObject:
        attributes = {"Content-Type": f"application/{self._compression or 'x-ndjson'}"}
        content = encoded.content
        await repeat(lambda: self._bucket.put_async(key, content, attributes=attributes, chunk_size=PART_BYTES))
        return ListedObject(key, len(encoded.positions), len(encoded.content))

    async def _delete(self, keys: Sequence[str]) -> None:
        """Delete the objects of a write that was cancelled or failed, if that is possible now."""
        try:
            async with asyncio.timeout(CANCEL_SECONDS):
                await self._bucket.delete_async(keys)
        except Exception as error:  # they stay, and no manifest lists them
            log.warning("sink.objects_left", sink=self._title, objects=list(keys), error=describe(error))

    async def _put_manifest(self) -> None:
        content = msgspec.json.format(msgspec.json.encode(self._manifest), indent=1)
        attributes = {"Content-Type": "application/json"}
        key = self._manifest_key
        await repeat(lambda: self._bucket.put_async(key, content, attributes=attributes, use_multipart=False))

    @property
    def _manifest_key(self) -> str:
        return f"{self._prefix}{MANIFESTS}/{self._manifest.session}-{self._manifest.number:06}.json"

    def _failed(self, error: Exception) -> SinkWriteFailed:
        if isinstance(error, SinkWriteFailed):
            return error
        known = advice_of(error, self._bucket_name)
        kind = SinkUnreachable if is_unreachable(error) else SinkWriteFailed
        return kind(self._title, known[0] if known is not None else describe(error))


def key_of(template: str, at: datetime) -> str:
    """Return a new key: `{date}` is the day, `{hour}` the hour of the day, `{id}` a UUID of version 7; all in UTC."""
    return template.format(date=f"{at:%Y-%m-%d}", hour=f"{at:%H}", id=new_ids(1, at)[0])


def encode_objects(
    values: Sequence[Any], max_bytes: int, compression: str | None
) -> tuple[Sequence[Encoded], WriteErrors]:
    """Encode values as NDJSON, in objects of up to `max_bytes` before compression. Blocks: call it in a thread."""
    writer = NdjsonWriter()
    data, errors = writer.write(values)
    if not data:
        return [], errors
    if errors is None and len(data) <= max_bytes:
        return [Encoded(_compress(data, compression), range(len(values)))], None
    objects: list[Encoded] = []
    lines: list[bytes] = []
    positions: list[int] = []
    size = 0
    for position, value in enumerate(values):
        if errors is not None and errors[position] is not None:
            continue
        line, _ = writer.write([value])
        if lines and size + len(line) > max_bytes:
            objects.append(Encoded(_compress(b"".join(lines), compression), positions))
            lines, positions, size = [], [], 0
        lines.append(line)
        positions.append(position)
        size += len(line)
    objects.append(Encoded(_compress(b"".join(lines), compression), positions))
    return objects, errors


def _compress(data: bytes, compression: str | None) -> bytes:
    if compression == "gzip":
        return gzip.compress(data, 6)
    return zstd.compress(data) if compression == "zstd" else data
