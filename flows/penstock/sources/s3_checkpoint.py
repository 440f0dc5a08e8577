"""The checkpoint of an S3 source: an object that lists which objects were processed, and how far others are."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import msgspec
from msgspec import Struct, field
from obstore.exceptions import AlreadyExistsError, PreconditionError

from penstock.backends.s3 import repeat
from penstock.errors import PenstockError

FOLDER = "_checkpoints"
"""The folder of checkpoints. It is hidden, like all names that begin with `_`."""

Key = str
Version = str

_CHANGED = (AlreadyExistsError, PreconditionError, FileNotFoundError)
"""Errors of a conditional request."""


class CheckpointInUse(PenstockError):
    """Another run has changed the checkpoint meanwhile."""

    def __init__(self, key: str) -> None:
        super().__init__(
            f"another run changed the checkpoint {key}; give each source that runs at the same time its own prefix, or "
            "its own name of the checkpoint"
        )


class Failed(Struct, frozen=True):
    """An object that could not be read to its end. It is not read again, unless it is replaced."""

    version: Version
    error: str


class Partial(Struct, frozen=True):
    """An object that was read partly."""

    version: Version
    lines: int
    """How many of its lines are settled, from the first on."""


class State(Struct):
    """The content of a checkpoint, by keys of objects."""

    done: dict[Key, Version] = field(default_factory=dict[Key, Version])
    failed: dict[Key, Failed] = field(default_factory=dict[Key, Failed])
    partial: dict[Key, Partial] = field(default_factory=dict[Key, Partial])

    def is_finished(self, key: Key, version: Version) -> bool:
        """Return whether this version of an object is done, or has failed."""
        failed = self.failed.get(key)
        return self.done.get(key) == version or (failed is not None and failed.version == version)

    def lines_of(self, key: Key, version: Version) -> int:
        """Return how many lines of an object are settled."""
        partial = self.partial.get(key)
        return partial.lines if partial is not None and partial.version == version else 0

    def finish(self, key: Key, version: Version, error: str | None) -> None:
        """Record that an object is done, or has failed."""
        self._forget(key)
        if error is None:
            self.done[key] = version
        else:
            self.failed[key] = Failed(version, error)

    def advance(self, key: Key, version: Version, lines: int) -> None:
        """Record how many lines of an object are settled."""
        self._forget(key)
        self.partial[key] = Partial(version, lines)

    def keep(self, keys: Collection[Key]) -> None:
        """Forget objects that do not exist any more."""
        for known in (self.done, self.failed, self.partial):
            for key in known.keys() - keys:
                del known[key]

    def _forget(self, key: Key) -> None:
        self.done.pop(key, None)
        self.failed.pop(key, None)
        self.partial.pop(key, None)


class Checkpoint:
    """The state of one run, and the object that it is saved to, by conditional requests: it has one writer."""

    def __init__(self, bucket: Any, key: str) -> None:
        self.state = State()
        self.key = key
        self._bucket = bucket
        self._saved: str | None = None
        """The ETag of the saved object."""
        self._unconfirmed: bytes | None = None
        """The content of a save that was cancelled: it may have been written."""

    async def load(self) -> None:
        """Read the state. Raises an error of the client, or of msgspec."""
        try:
            content, self._saved = await self._read()
        except FileNotFoundError:
            return
        self.state = msgspec.json.decode(content, type=State)

    async def save(self) -> None:
        """Write the state. Raises `CheckpointInUse`, or an error of the client."""
        content = msgspec.json.encode(self.state)
        earlier, self._unconfirmed = self._unconfirmed, content
        try:
            await self._put(content)
        except _CHANGED:  # by another run, or by an attempt of this one whose response was lost
            found, version = await self._read()
            if found not in (content, earlier):
                raise CheckpointInUse(self.key) from None
            self._saved = version
            if found != content:
                await self._put(content)
        self._unconfirmed = None

    async def _put(self, content: bytes) -> None:
        mode: Any = "create" if self._saved is None else {"e_tag": self._saved}
        put = await repeat(lambda: self._bucket.put_async(self.key, content, mode=mode, use_multipart=False))
        self._saved = put["e_tag"]

    async def _read(self) -> tuple[bytes, str | None]:
        async def read() -> tuple[bytes, str | None]:
            response = await self._bucket.get_async(self.key)
            return bytes(await response.bytes_async()), response.meta["e_tag"]

        return await repeat(read)
