"""The result file of a run, which has one writer at a time."""

from __future__ import annotations

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]  # no module there

import os
import stat
from functools import partial
from typing import Protocol

from penstock.errors import OutputUnusable
from penstock.formats.format import is_compressed
from penstock.support.tasks import to_thread_uncancellable


class Output(Protocol):
    """Writes lines. `write` returns when more can be written."""

    async def write(self, data: bytes) -> None: ...

    def close(self) -> None: ...


class FileOutput:
    """A regular file. With `path` None, a file that is already open, such as standard output."""

    def __init__(self, descriptor: int, path: str | None = None) -> None:
        self.descriptor = descriptor
        self.path = path
        self.offset = 0
        """Bytes in the file up to the end of the last completed write."""

    @classmethod
    def open(cls, path: str) -> FileOutput:
        """Open a file and lock it, but keep its content. Raises `OutputUnusable`."""
        if is_compressed(path):
            raise OutputUnusable(path, f"results are not compressed; remove --output and use: … | gzip > {path}")
        flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0) | getattr(os, "O_NONBLOCK", 0)
        try:
            output = cls(os.open(path, flags, 0o666), path)
        except OSError as error:
            raise OutputUnusable(path, _reason(path, error)) from error
        try:
            output.lock()
        except BaseException:
            output.close()
            raise
        return output

    def lock(self) -> None:
        """Lock the file, so that it has one writer. Raises `OutputUnusable`."""
        if not is_regular(self.descriptor):
            raise OutputUnusable(self.path or "", "it is not a regular file")
        if fcntl is not None:
            try:
                fcntl.flock(self.descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise OutputUnusable(self.path or "", "another process is writing to it") from None

    @property
    def size(self) -> int:
        """The size of the file in bytes."""
        return os.fstat(self.descriptor).st_size

    def truncate(self, size: int) -> None:
        """Truncate the file to a size and continue from there."""
        os.ftruncate(self.descriptor, size)
        os.lseek(self.descriptor, size, os.SEEK_SET)
        self.offset = size

    async def write(self, data: bytes) -> None:
        """Write all data. Raises `OutputUnusable`."""
        if data:
            await to_thread_uncancellable(partial(self._write, data))
            self.offset += len(data)

    def sync(self) -> None:
        """Sync the file to disk."""
        os.fsync(self.descriptor)

    def check_not_replaced(self) -> None:
        """Raise `OutputUnusable` if the file at the path is no longer the one that is open."""
        if self.path is None:
            return
        try:
            current = os.path.samestat(os.stat(self.path), os.fstat(self.descriptor))
        except FileNotFoundError:
            current = False
        if not current:
            raise OutputUnusable(self.path, "it was removed or replaced while it was written")

    def close(self) -> None:
        """Close the file, if this object opened it."""
        if self.path is not None:
            os.close(self.descriptor)

    def _write(self, data: bytes) -> None:
        left = memoryview(data)
        try:
            while left:
                left = left[os.write(self.descriptor, left) :]
        except OSError as error:
            raise OutputUnusable(self.path or "standard output", error.strerror or str(error)) from error


def _reason(path: str, error: OSError) -> str:
    """Say why a file cannot be opened, and what to do if its folder does not exist."""
    folder = os.path.dirname(path)
    if isinstance(error, FileNotFoundError) and folder and not os.path.exists(folder):
        return f"the folder {folder} does not exist; create it, or name another file"
    return error.strerror or str(error)


def is_regular(descriptor: int) -> bool:
    """Return whether a descriptor is that of a regular file."""
    return stat.S_ISREG(os.fstat(descriptor).st_mode)
