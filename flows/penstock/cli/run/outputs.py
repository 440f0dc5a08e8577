"""Outputs of `penstock run`: a pipe or a terminal, whose reader may be slow, or a file with one writer."""

from __future__ import annotations

import os

from penstock.checkpoints.output_file import FileOutput, Output, is_regular
from penstock.errors import OutputUnusable, ReaderDisconnected
from penstock.sinks.stdout import PIPE_CHUNK, send
from penstock.support.text import bytes_for_terminal

try:
    import fcntl
except ImportError:  # on Windows, where the user has to prevent two writers of one file
    fcntl = None  # type: ignore[assignment]  # no module there


class PipeOutput:
    """A pipe, a terminal, a socket or a device. With `path` None, one that is already open and is not closed."""

    def __init__(self, descriptor: int, path: str | None = None) -> None:
        self._descriptor = descriptor
        self._path = path
        self._terminal = os.isatty(descriptor)

    async def write(self, data: bytes) -> None:
        """Write all data at the speed of the reader. Raises `ReaderDisconnected`, `OutputUnusable`."""
        left = memoryview(bytes_for_terminal(data) if self._terminal else data)
        try:
            while left:
                left = left[await send(self._descriptor, bytes(left[:PIPE_CHUNK])) :]
        except BrokenPipeError:
            raise ReaderDisconnected from None
        except OSError as error:
            raise OutputUnusable(self._path or "standard output", error.strerror or str(error)) from error

    def close(self) -> None:
        """Close the descriptor, if this object opened it."""
        if self._path is not None:
            os.close(self._descriptor)


def open_output(path: str) -> Output:
    """Open a file to overwrite, or a pipe or a device to write to. Raises `OutputUnusable`."""
    if os.path.exists(path) and not os.path.isfile(path):
        try:
            return PipeOutput(os.open(path, os.O_WRONLY), path)
        except OSError as error:
            raise OutputUnusable(path, error.strerror or str(error)) from error
    output = FileOutput.open(path)
    output.truncate(0)
    return output


def is_stdout(path: str | None, descriptor: int = 1) -> bool:
    """Return whether results go to standard output: no output, `-`, or another name of the same file.

    The null device does not count, because it can be shared.
    """
    if path is None or path == "-":
        return True
    try:
        facts = os.stat(path)
    except OSError:  # it does not exist yet
        return False
    return os.path.samestat(facts, os.fstat(descriptor)) and not os.path.samestat(facts, os.stat(os.devnull))


def open_stdout(descriptor: int = 1) -> Output:
    """Open standard output, a file or a pipe."""
    return FileOutput(descriptor) if is_regular(descriptor) else PipeOutput(descriptor)
