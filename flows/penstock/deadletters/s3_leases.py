"""Leases and done markers of objects, by conditional requests to S3.

For each object that was redriven, or is being redriven, there is an object `PREFIX/.penstock-redrive/NAME.json`: either
a lease, with its owner and its end, or the marker that it is done. Processes need clocks that agree within `SKEW`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from typing import Any

import msgspec
from msgspec import Struct
from obstore.exceptions import AlreadyExistsError, BaseError, PreconditionError

from penstock.deadletters.dead_letter_queue import LEASE_SECONDS
from penstock.deadletters.log import CONSUMER_GROUP
from penstock.errors import StoreError, describe
from penstock.support.ids import new_id
from penstock.support.logger import get_logger

log = get_logger()

MARKERS = f".{CONSUMER_GROUP}"
"""The folder of leases and markers."""

SKEW = 5.0
"""Seconds by which the clocks of two processes may differ."""

RELEASE_SECONDS = 5.0
"""Time to give up a lease."""

_LOST = (AlreadyExistsError, PreconditionError, FileNotFoundError)


class Lease(Struct, frozen=True):
    """The content of a marker of an object that is not done."""

    owner: str
    until: float
    """When the lease ends, in seconds since 1970."""


DONE = b"done"
"""The content of a marker of an object that is done. Its size tells it from a lease in a listing."""


class ObjectLeases:
    """The leases of one consumer. A task extends them until they are finished or closed."""

    def __init__(self, bucket: Any, prefix: str, *, lease: float = LEASE_SECONDS) -> None:
        self._bucket = bucket
        self._folder = f"{prefix}{MARKERS}/"
        self._lease = lease
        self._owner = new_id()
        self._held: dict[str, str | None] = {}
        """The version (ETag) of each lease, by name."""
        self._lock = asyncio.Lock()
        """Held while a lease is changed, because each change needs the version of the one before."""
        self._extending: asyncio.Task[None] | None = None

    async def done(self, folder: str) -> AsyncGenerator[str, None]:
        """List the objects of a folder that are done, in the order of their names."""
        async for chunk in self._bucket.list(f"{self._folder}{folder}"):
            for found in chunk:
                if found["size"] == len(DONE):
                    yield found["path"].removeprefix(self._folder).removesuffix(".json")

    async def acquire(self, name: str) -> bool:
        """Take the lease of an object, unless it is done or another process holds it."""
        try:
            found = await self._bucket.put_async(self._path(name), self._content(), mode="create")
        except AlreadyExistsError:
            version = await self._expired(name)
            if version is None:
                return False
            try:
                found = await self._bucket.put_async(self._path(name), self._content(), mode={"e_tag": version})
            except _LOST:
                return False
        self._held[name] = found["e_tag"]
        if self._extending is None:
            self._extending = asyncio.get_running_loop().create_task(self._extend_all(), name="dead letters: leases")
        return True

    async def finish(self, name: str) -> None:
        """Mark an object as done. Raises `StoreError` if the lease was lost to another process."""
        lost = StoreError(f"the lease of {name} was lost to another process; its letters may be redriven again")
        async with self._lock:
            if name not in self._held:
                raise lost
            try:
                await self._replace(name, DONE)
            except _LOST:
                del self._held[name]
                raise lost from None
            except BaseError as error:
                raise StoreError(f"cannot mark {name} as done: {describe(error)}") from error
            del self._held[name]

    async def release(self, name: str) -> None:
        """Give up the lease of an object that is not done."""
        async with self._lock:
            if name not in self._held:
                return
            try:
                async with asyncio.timeout(RELEASE_SECONDS):
                    await self._replace(name, msgspec.json.encode(Lease(self._owner, 0)))
            except Exception as error:  # the lease expires
                log.warning("store.lease_not_released", name=name, error=describe(error))
            del self._held[name]

    async def aclose(self) -> None:
        """Give up the leases of objects that are not done."""
        if self._extending is not None:
            self._extending.cancel()
            await asyncio.gather(self._extending, return_exceptions=True)
        for name in list(self._held):
            await self.release(name)

    async def _extend_all(self) -> None:
        while True:
            await asyncio.sleep(self._lease / 3)
            for name in list(self._held):
                async with self._lock:
                    if name not in self._held:
                        continue
                    try:
                        await self._replace(name, self._content())
                    except _LOST:
                        del self._held[name]
                        log.warning("store.lease_lost", name=name)
                    except Exception as error:  # try again in a moment: two attempts fit into a lease
                        log.warning("store.lease_not_extended", name=name, error=describe(error))

    async def _replace(self, name: str, content: bytes) -> None:
        version = self._held[name]
        try:
            found = await self._bucket.put_async(self._path(name), content, mode={"e_tag": version})
        except PreconditionError:
            # A request that was repeated because its reply was lost fails, although the first one has succeeded.
            response = await self._bucket.get_async(self._path(name))
            if bytes(await response.bytes_async()) != content:
                raise
            self._held[name] = response.meta["e_tag"]
        else:
            self._held[name] = found["e_tag"]

    async def _expired(self, name: str) -> str | None:
        """Return the version of a lease that has expired; None if it has not, or the object is done."""
        try:
            response = await self._bucket.get_async(self._path(name))
            content = bytes(await response.bytes_async())
            if content == DONE:
                return None
            lease = msgspec.json.decode(content, type=Lease)
        except FileNotFoundError:
            return None
        except msgspec.DecodeError as error:
            log.warning("store.record_skipped", position=self._path(name), error=describe(error))
            return None
        expired = time.time() >= lease.until + (SKEW if lease.until else 0)
        return response.meta["e_tag"] if expired else None

    def _content(self) -> bytes:
        return msgspec.json.encode(Lease(self._owner, time.time() + self._lease))

    def _path(self, name: str) -> str:
        return f"{self._folder}{name}.json"
