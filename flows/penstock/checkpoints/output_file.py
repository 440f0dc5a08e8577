"""The result file of a run: one writer at a time."""

from __future__ import annotations

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

import os
import stat
from functools import partial
from typing import Protocol

from penstock.errors import OutputUnusable
from penstock.formats.format import is_compressed
from penstock.support.tasks import to_thread_uncancellable


class Output(Protocol):
    """Takes lines, and returns when it can take more."""

    async def write(self, data: bytes) -> None: ...

    def close(self) -> None: ...


class FileOutput:
    """A regular file. `path` None: one that is open already, such as standard output."""

    def __init__(self, descriptor: int, path: str | None = None) -> None:
        self.descriptor = descriptor
        self.path = path
        self.offset = 0
        """Bytes in the file up to the end of the last write that has returned."""

    @classmethod
    def open(cls, path: str) -> FileOutput:
        """Open a file, and be its only writer, but leave what is in it. Raises `OutputUnusable`."""
        if is_compressed(path):
            raise OutputUnusable(path, f"it would not be compressed; leave --output out: … | gzip > {path}")
        flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0) | getattr(os, "O_NONBLOCK", 0)
        try:
            output = cls(os.open(path, flags, 0o666), path)
        except OSError as error:
            raise OutputUnusable(path, error.strerror or str(error)) from error
        try:
            output.claim()
        except BaseException:
            output.close()
            raise
        return output

    def claim(self) -> None:
        """Be the only writer. Raises `OutputUnusable`."""
        if not is_regular(self.descriptor):
            raise OutputUnusable(self.path or "", "it is no regular file")
        if fcntl is not None:
            try:
                fcntl.flock(self.descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise OutputUnusable(self.path or "", "somebody else is writing to it") from None

    @property
    def size(self) -> int:
        """Bytes in the file."""
        return os.fstat(self.descriptor).st_size

    def cut(self, size: int) -> None:
        """Keep the first bytes of the file, and go on behind them."""
        os.ftruncate(self.descriptor, size)
        os.lseek(self.descriptor, size, os.SEEK_SET)
        self.offset = size

    async def write(self, data: bytes) -> None:
        """Write all of it. Raises `OutputUnusable`."""
        if data:
            await to_thread_uncancellable(partial(self._write, data))
            self.offset += len(data)

    def sync(self) -> None:
        """Have everything on the disk."""
        os.fsync(self.descriptor)

    def check_place(self) -> None:
        """Raise `OutputUnusable` if what was written is not in the file of that name any more."""
        if self.path is None:
            return
        try:
            there = os.path.samestat(os.stat(self.path), os.fstat(self.descriptor))
        except FileNotFoundError:
            there = False
        if not there:
            raise OutputUnusable(self.path, "it was removed or replaced while it was written")

    def close(self) -> None:
        """Let go of the file, if it is ours."""
        if self.path is not None:
            os.close(self.descriptor)

    def _write(self, data: bytes) -> None:
        left = memoryview(data)
        try:
            while left:
                left = left[os.write(self.descriptor, left) :]
        except OSError as error:
            raise OutputUnusable(self.path or "standard output", error.strerror or str(error)) from error


def is_regular(descriptor: int) -> bool:
    """Whether a descriptor is that of a file on a disk."""
    return stat.S_ISREG(os.fstat(descriptor).st_mode)
