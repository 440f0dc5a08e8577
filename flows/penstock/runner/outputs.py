"""Where the results of a run go: a pipe or a terminal, whose reader may be slow, or a file with one writer."""

from __future__ import annotations

import os
import stat
from functools import partial
from typing import Protocol

from penstock.errors import OutputRefused, ReaderGone
from penstock.formats import is_compressed
from penstock.outlets.standard import PIECE, send
from penstock.support.text import bytes_for_terminal
from penstock.threads import in_thread

try:
    import fcntl
except ImportError:  # on Windows, where whoever starts two writers of one file has to keep them apart
    fcntl = None  # type: ignore[assignment]  # no module there


class Output(Protocol):
    """Takes lines, and returns when it can take more."""

    async def write(self, data: bytes) -> None: ...

    def close(self) -> None: ...


class PipeOutput:
    """A pipe, a terminal, a socket, a device. `path` None: one that is open already, and not to be closed."""

    def __init__(self, descriptor: int, path: str | None = None) -> None:
        self._descriptor = descriptor
        self._path = path
        self._terminal = os.isatty(descriptor)

    async def write(self, data: bytes) -> None:
        """Write all of it, as the reader takes it. Raises `ReaderGone`, `OutputRefused`."""
        left = memoryview(bytes_for_terminal(data) if self._terminal else data)
        try:
            while left:
                left = left[await send(self._descriptor, bytes(left[:PIECE])) :]
        except BrokenPipeError:
            raise ReaderGone from None
        except OSError as error:
            raise OutputRefused(self._path or "standard output", error.strerror or str(error)) from error

    def close(self) -> None:
        """Let go of it, if it is ours."""
        if self._path is not None:
            os.close(self._descriptor)


class FileOutput:
    """A regular file. `path` None: one that is open already, such as standard output."""

    def __init__(self, descriptor: int, path: str | None = None) -> None:
        self.descriptor = descriptor
        self.path = path
        self.offset = 0
        """Bytes in the file up to the end of the last write that has returned."""

    @classmethod
    def open(cls, path: str) -> FileOutput:
        """Open a file, and be its only writer, but leave what is in it. Raises `OutputRefused`."""
        if is_compressed(path):
            raise OutputRefused(path, f"it would not be compressed; leave --output out: … | gzip > {path}")
        flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0) | getattr(os, "O_NONBLOCK", 0)
        try:
            output = cls(os.open(path, flags, 0o666), path)
        except OSError as error:
            raise OutputRefused(path, error.strerror or str(error)) from error
        try:
            output.claim()
        except BaseException:
            output.close()
            raise
        return output

    def claim(self) -> None:
        """Be the only writer. Raises `OutputRefused`."""
        if not is_regular(self.descriptor):
            raise OutputRefused(self.path or "", "it is no regular file")
        if fcntl is not None:
            try:
                fcntl.flock(self.descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise OutputRefused(self.path or "", "somebody else is writing to it") from None

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
        """Write all of it. Raises `OutputRefused`."""
        if data:
            await in_thread(partial(self._write, data))
            self.offset += len(data)

    def sync(self) -> None:
        """Have everything on the disk."""
        os.fsync(self.descriptor)

    def check_place(self) -> None:
        """Raise `OutputRefused` if what was written is not in the file of that name any more."""
        if self.path is None:
            return
        try:
            there = os.path.samestat(os.stat(self.path), os.fstat(self.descriptor))
        except FileNotFoundError:
            there = False
        if not there:
            raise OutputRefused(self.path, "it was removed or replaced while it was written")

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
            raise OutputRefused(self.path or "standard output", error.strerror or str(error)) from error


def open_output(path: str) -> Output:
    """A file that is written anew, or a pipe or a device that is written to. Raises `OutputRefused`."""
    if os.path.exists(path) and not os.path.isfile(path):
        try:
            return PipeOutput(os.open(path, os.O_WRONLY), path)
        except OSError as error:
            raise OutputRefused(path, error.strerror or str(error)) from error
    output = FileOutput.open(path)
    output.cut(0)
    return output


def means_standard_output(path: str | None, descriptor: int = 1) -> bool:
    """Whether results would go where standard output goes: none was named, `-`, or another name of the same thing.

    What goes to the null device goes nowhere, whoever else writes there.
    """
    if path is None or path == "-":
        return True
    try:
        facts = os.stat(path)
    except OSError:  # it is not there yet
        return False
    return os.path.samestat(facts, os.fstat(descriptor)) and not os.path.samestat(facts, os.stat(os.devnull))


def standard_output(descriptor: int = 1) -> Output:
    """Standard output, whatever it is."""
    return FileOutput(descriptor) if is_regular(descriptor) else PipeOutput(descriptor)


def is_regular(descriptor: int) -> bool:
    """Whether a descriptor is that of a file on a disk."""
    return stat.S_ISREG(os.fstat(descriptor).st_mode)
