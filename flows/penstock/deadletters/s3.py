"""The S3 dead-letter store: compressed NDJSON objects, which no one overwrites or deletes.

The key of an object is `PREFIX/FLOW/DATE/ID.ndjson.zst`. The date is the day on which it was written, in UTC, and the
id is a UUID of version 7, so that the objects of a flow sort by time.
"""

from __future__ import annotations

import asyncio
import re
import sys
from collections import defaultdict
from collections.abc import AsyncGenerator, Sequence
from datetime import UTC
from functools import partial
from typing import Any

from obstore.exceptions import AlreadyExistsError

from penstock.backends.s3 import advice_of, open_bucket
from penstock.backends.server_url import parse_server_url
from penstock.deadletters.dead_letter import DeadLetter
from penstock.deadletters.log import LogBatch
from penstock.deadletters.log_base import BaseLog, Record
from penstock.deadletters.log_consumer import Batches
from penstock.deadletters.recent import Recent
from penstock.deadletters.s3_leases import MARKERS, ObjectLeases
from penstock.deadletters.store import DeadLetterQuery
from penstock.errors import StoreMissing, describe
from penstock.support.ids import id_at, new_ids, now

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

SUFFIX = ".ndjson.zst"

MAX_LINE = 64 * 1024 * 1024
"""Maximum bytes of a letter."""

_UNSAFE = re.compile(r"[^A-Za-z0-9._-]")


class S3Store(BaseLog):
    """Writes letters to objects of a bucket. The objects are created by conditional requests, never overwritten.

    `display_url` is the URL for messages.
    """

    concurrency = 8

    def __init__(
        self, url: str, *, create: bool = True, display_url: str | None = None, read_only: bool = False
    ) -> None:
        super().__init__(display_url or url, create=create, read_only=read_only)
        parts = parse_server_url(url, self.url)
        self._prefix = f"{parts.prefix}/" if parts.prefix else ""
        self._name = parts.name
        self._bucket: Any = open_bucket(parts.name, parts.options)

    async def _connect(self) -> None:
        try:
            await self._ping()
        except FileNotFoundError:
            raise StoreMissing(self.url) from None

    async def _disconnect(self) -> None:
        pass

    async def _ping(self) -> None:
        await self._bucket.list_with_delimiter_async(f"{self._prefix}{MARKERS}")

    async def _append(self, letters: list[DeadLetter]) -> None:
        by_flow: dict[str, list[DeadLetter]] = defaultdict(list)
        for letter in letters:
            by_flow[letter.flow].append(letter)
        await asyncio.gather(*(self._put(flow, group) for flow, group in by_flow.items()))

    async def _put(self, flow: str, letters: list[DeadLetter]) -> None:
        data = b"".join(self._encode(letter, MAX_LINE) + b"\n" for letter in letters)
        written_at = now()
        key = f"{self._prefix}{folder_of(flow)}/{written_at:%Y-%m-%d}/{new_ids(1, written_at)[0]}{SUFFIX}"
        content = zstd.compress(data)
        attributes = {"Content-Type": "application/x-ndjson", "Content-Encoding": "zstd"}
        try:
            await self._bucket.put_async(key, content, mode="create", attributes=attributes, use_multipart=False)
        except AlreadyExistsError:  # the id is ours alone: the client has repeated a request whose reply was lost
            pass

    async def _read(self, query: DeadLetterQuery, after: str | None, /) -> AsyncGenerator[Record, None]:
        key, _, count = (after or "").partition("#")
        if after is not None and not (key.endswith(SUFFIX) and key.startswith(self._prefix) and count.isdecimal()):
            raise self._invalid_cursor()
        start_flow = key.removeprefix(self._prefix).partition("/")[0]
        until = self._end()
        for flow in await self._flows():
            if flow < start_flow or (query.flow is not None and flow != folder_of(query.flow)):
                continue
            offset = ""
            if flow == start_flow:
                offset = key
                async for record in self._records(key, int(count)):
                    yield record
            elif query.since is not None:  # letters failed before they were written
                offset = f"{self._prefix}{flow}/{query.since.astimezone(UTC):%Y-%m-%d}"
            async for each in self._keys(flow, offset, until):
                async for record in self._records(each, 0):
                    yield record

    async def _records(self, key: str, start: int) -> AsyncGenerator[Record, None]:
        for number, letter in enumerate(await self._letters(key)):
            if number >= start:
                yield f"{key}#{number + 1}", letter

    async def _letters(self, key: str) -> list[DeadLetter | None]:
        """Read one object. One that was deleted meanwhile is empty."""
        try:
            response = await self._bucket.get_async(key)
            content = bytes(await response.bytes_async())
        except FileNotFoundError:
            return []
        return await asyncio.to_thread(self._decode_all, key, content)

    def _decode_all(self, key: str, content: bytes) -> list[DeadLetter | None]:
        lines = zstd.decompress(content).split(b"\n")
        return [self._decode(line, f"{key}:{number}") for number, line in enumerate(lines, 1) if line]

    async def _flows(self) -> list[str]:
        """Return the folders of flows, sorted as texts: servers do not agree on their order."""
        found = await self._bucket.list_with_delimiter_async(self._prefix.rstrip("/") or None)
        names = (path.rstrip("/").rpartition("/")[2] for path in found["common_prefixes"])
        return sorted(name for name in names if name != MARKERS)

    async def _keys(self, flow: str, offset: str, until: str) -> AsyncGenerator[str, None]:
        """List the objects of a flow that are behind a key and were written before the end, in their order."""
        listing = self._bucket.list(f"{self._prefix}{flow}", offset=offset or None)
        async for chunk in listing:
            for found in chunk:
                key = found["path"]
                if key.endswith(SUFFIX) and key.rpartition("/")[2] < until:
                    yield key

    def _end(self) -> str:
        """Return the name before which all objects were written that exist now."""
        return f"{id_at(now())}~"

    async def _consume(self) -> Batches:
        leases = ObjectLeases(self._bucket, self._prefix)
        recent = Recent()
        until = self._end()
        try:
            for flow in await self._flows():
                markers = leases.done(flow)
                done = await anext(markers, None)
                async for key in self._keys(flow, "", until):
                    name = key.removeprefix(self._prefix).removesuffix(SUFFIX)
                    while done is not None and done < name:  # both listings are sorted by date and id
                        done = await anext(markers, None)
                    if name == done or not await leases.acquire(name):
                        continue
                    if letters := recent.unseen(await self._letters(key)):
                        yield LogBatch(letters, partial(self._finish, leases, name, len(letters)))
                    else:
                        await leases.finish(name)
            yield None
        finally:
            await leases.aclose()

    async def _finish(self, leases: ObjectLeases, name: str, count: int, again: Sequence[DeadLetter]) -> None:
        if len(again) == count:
            await leases.release(name)
            return
        if again:
            await self.add(again)
        await leases.finish(name)

    def _advice(self, error: Exception) -> tuple[str, bool]:
        if (known := advice_of(error, self._name)) is not None:
            return known
        if isinstance(error, zstd.ZstdError):
            return f"an object cannot be decompressed: {describe(error)}", False
        return describe(error), False


def folder_of(flow: str) -> str:
    """Return the folder for the letters of a flow. Characters that are unusual in keys become `_`."""
    name = _UNSAFE.sub("_", flow)
    return f"_{name}" if not name.strip(".") or name == MARKERS else name
