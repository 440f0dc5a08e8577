"""Read the objects of a prefix, in the order of their keys, and record in a checkpoint what is settled."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple, cast

from obstore.exceptions import PreconditionError

from penstock.backends.s3 import advice_of, open_bucket, repeat
from penstock.backends.server_url import ServerUrl
from penstock.core.leases import Answer
from penstock.errors import FileReadFailed, FlowDefinitionError, describe
from penstock.formats.format import Format, known_format
from penstock.sources.file import make_splitter
from penstock.sources.s3_checkpoint import FOLDER, Checkpoint
from penstock.sources.source import Emitter
from penstock.support.decompression import BodyDecodeFailed, decompressed
from penstock.support.logger import get_logger
from penstock.support.text import sanitize

log = get_logger()

CHUNK = 2 * 1024 * 1024
"""Bytes of one request. A long response would time out while the flow is slow."""

SAVE_SECONDS = 1.0
"""Minimum time between two saves of the checkpoint."""

MAX_OBJECTS = 200_000
"""Maximum of objects below a prefix: the checkpoint names all of them, and is in memory."""

ENCODINGS = {".gz": "gzip", ".zst": "zstd"}


class Found(NamedTuple):
    """An object of the listing."""

    key: str
    size: int
    etag: str | None
    modified: str

    @property
    def version(self) -> str:
        """What changes when the object is replaced."""
        return self.etag or f"{self.size} {self.modified}"


@dataclass(eq=False, slots=True)
class Progress:
    """An object whose elements are not all settled."""

    found: Found
    settled: int
    """The number of settled lines, from the first on."""
    emitted: int
    skip: int
    """Lines of the beginning that an earlier run has settled, and that are still to come."""
    complete: bool = False
    """Whether all of its lines were emitted."""
    error: str | None = None
    ahead: set[int] = field(default_factory=set[int])
    """Settled lines after the first one that is not. The window limits them."""

    def settle(self, line: int) -> None:
        """Count a line as settled."""
        self.ahead.add(line)
        while self.settled in self.ahead:
            self.ahead.remove(self.settled)
            self.settled += 1

    @property
    def finished(self) -> bool:
        """Whether the object is done, or failed, and all its elements are settled."""
        return self.complete and self.settled == self.emitted


class Line(NamedTuple):
    """The lease of an element."""

    progress: Progress
    number: int
    """From 0."""


class S3Reader:
    """One run of an S3 source. It is the lessor of its elements."""

    def __init__(
        self,
        url: ServerUrl,
        emitter: Emitter[bytes],
        *,
        format: Format | None,
        checkpoint: str,
        limit: int,
        delimiter: str,
    ) -> None:
        self._bucket: Any = open_bucket(url.name, url.options)
        self._bucket_name = url.name
        self._prefix = url.prefix
        self._emitter = emitter
        self._format = format
        self._limit = limit
        self._delimiter = delimiter
        self._checkpoint = Checkpoint(self._bucket, "/".join(filter(None, (url.prefix, FOLDER, f"{checkpoint}.json"))))
        self._changed = asyncio.Event()
        """Set when the checkpoint has to be saved."""
        self._log = log.bind(bucket=url.name)

    async def read(self) -> None:
        """Emit the lines of all objects that are not done. Raises `FileReadFailed`."""
        try:
            await self._checkpoint.load()
            found = await self._list()
        except Exception as error:
            raise self._failed(self._prefix, error) from error
        self._emitter.lease_from(self)
        self._emitter.spawn(self._save_regularly(), "s3:checkpoint")
        for each in found:
            await self._read(each)

    def settle(self, answers: Sequence[tuple[Line, Answer]]) -> None:
        """Record which lines are settled. A failed element without a dead letter was reported, so it is settled too."""
        for (progress, number), answer in answers:
            if answer is Answer.RELEASED:
                continue
            progress.settle(number)
            self._record(progress)

    def origin(self, lease: Line) -> str:
        found = lease.progress.found
        return f"s3/{self._bucket_name}/{found.key}#{found.version}/{lease.number}"

    async def close(self) -> None:
        """Save the checkpoint."""
        if self._changed.is_set():
            await self._save()

    async def _list(self) -> list[Found]:
        """Return the objects that are not done, by key. Names that begin with `_` or `.` are hidden."""

        async def collect() -> list[Found]:
            found: list[Found] = []
            async for chunk in self._bucket.list(self._prefix or None, chunk_size=1000):
                for each in chunk:
                    path = each["path"].removeprefix(f"{self._prefix}/")
                    if any(part.startswith(("_", ".")) for part in path.split("/")):
                        continue
                    modified = each["last_modified"].isoformat()
                    found.append(Found(each["path"], each["size"], each["e_tag"], modified))
                if len(found) > MAX_OBJECTS:
                    raise FlowDefinitionError(f"more than {MAX_OBJECTS:,} objects; name a longer prefix")
            return found

        found = await repeat(collect)
        state = self._checkpoint.state
        state.keep({each.key for each in found})
        new = [each for each in found if not state.is_finished(each.key, each.version)]
        return sorted(new, key=lambda each: each.key.encode())

    async def _read(self, found: Found) -> None:
        """Emit the lines of an object. One that cannot be read to its end fails alone."""
        name, encoding = _split_encoding(found.key)
        format = self._format or known_format(name)
        if format is None:
            self._log.warning("s3.unknown_format", object=sanitize(found.key), hint="set the format to ndjson or csv")
            return
        settled = self._checkpoint.state.lines_of(found.key, found.version)
        progress = Progress(found, settled, settled, settled)
        splitter = make_splitter(format, self._limit, self._delimiter)
        try:
            raw = self._chunks(found)
            chunks = cast("AsyncGenerator[bytes, None]", decompressed(raw, encoding))
            async with aclosing(raw), aclosing(chunks):
                async for chunk in chunks:
                    await self._emit(progress, splitter.feed(chunk))
                    await self._emitter.wait_for_capacity()
            await self._emit(progress, splitter.finish())
        except (FileNotFoundError, PreconditionError):
            self._log.warning(
                "s3.object_replaced", object=sanitize(found.key), consequence="a later run reads it again"
            )
            return
        except (BodyDecodeFailed, ValueError) as error:  # its compression or its header
            progress.error = describe(error)
            self._log.error("s3.object_failed", object=sanitize(found.key), error=progress.error)
        except Exception as error:
            raise self._failed(found.key, error) from error
        progress.complete = True
        self._record(progress)

    async def _chunks(self, found: Found) -> AsyncGenerator[bytes, None]:
        """Read an object in ranges, all of the same version."""
        for start in range(0, found.size, CHUNK):
            yield await repeat(partial(self._get, found, start, min(start + CHUNK, found.size)))

    async def _get(self, found: Found, start: int, end: int) -> bytes:
        options: dict[str, Any] = {"range": (start, end)}
        if found.etag is not None:
            options["if_match"] = found.etag
        response = await self._bucket.get_async(found.key, options=options)
        return bytes(await response.bytes_async())

    async def _emit(self, progress: Progress, lines: list[bytes]) -> None:
        """Emit lines, except those that an earlier run has settled."""
        skipped = min(len(lines), progress.skip)
        progress.skip -= skipped
        lines = lines[skipped:]
        if lines:
            leases = [Line(progress, number) for number in range(progress.emitted, progress.emitted + len(lines))]
            progress.emitted += len(lines)
            await self._emitter.send(lines, list(map(len, lines)), leases)

    def _record(self, progress: Progress) -> None:
        found, state = progress.found, self._checkpoint.state
        if progress.finished:
            state.finish(found.key, found.version, progress.error)
        else:
            state.advance(found.key, found.version, progress.settled)
        self._changed.set()

    async def _save_regularly(self) -> None:
        while True:
            await self._changed.wait()
            await self._save()
            await asyncio.sleep(SAVE_SECONDS)

    async def _save(self) -> None:
        self._changed.clear()
        try:
            await self._checkpoint.save()
        except BaseException:
            self._changed.set()
            raise

    def _failed(self, key: str, error: Exception) -> FileReadFailed:
        known = advice_of(error, self._bucket_name)
        return FileReadFailed(f"s3://{self._bucket_name}/{key}", known[0] if known is not None else describe(error))


def _split_encoding(key: str) -> tuple[str, str]:
    """Return a key without the suffix of its compression, and the compression.

    >>> _split_encoding("a.ndjson.gz")
    ('a.ndjson', 'gzip')
    """
    for suffix, encoding in ENCODINGS.items():
        if key.lower().endswith(suffix):
            return key[: -len(suffix)], encoding
    return key, "identity"
