"""Where the results of a run go: a pipe or a terminal, whose reader may be slow, or a file with one writer."""

from __future__ import annotations

import os

from penstock.checkpoints.output_file import FileOutput, Output, is_regular
from penstock.errors import OutputUnusable, ReaderDisconnected
from penstock.sinks.stdout import PIPE_CHUNK, send
from penstock.support.text import bytes_for_terminal

try:
    import fcntl
except ImportError:  # on Windows, where whoever starts two writers of one file has to keep them apart
    fcntl = None  # type: ignore[assignment]  # no module there


class PipeOutput:
    """A pipe, a terminal, a socket, a device. `path` None: one that is open already, and not to be closed."""

    def __init__(self, descriptor: int, path: str | None = None) -> None:
        self._descriptor = descriptor
        self._path = path
        self._terminal = os.isatty(descriptor)

    async def write(self, data: bytes) -> None:
        """Write all of it, as the reader takes it. Raises `ReaderDisconnected`, `OutputUnusable`."""
        left = memoryview(bytes_for_terminal(data) if self._terminal else data)
        try:
            while left:
                left = left[await send(self._descriptor, bytes(left[:PIPE_CHUNK])) :]
        except BrokenPipeError:
            raise ReaderDisconnected from None
        except OSError as error:
            raise OutputUnusable(self._path or "standard output", error.strerror or str(error)) from error

    def close(self) -> None:
        """Let go of it, if it is ours."""
        if self._path is not None:
            os.close(self._descriptor)


def open_output(path: str) -> Output:
    """A file that is written anew, or a pipe or a device that is written to. Raises `OutputUnusable`."""
    if os.path.exists(path) and not os.path.isfile(path):
        try:
            return PipeOutput(os.open(path, os.O_WRONLY), path)
        except OSError as error:
            raise OutputUnusable(path, error.strerror or str(error)) from error
    output = FileOutput.open(path)
    output.cut(0)
    return output


def is_stdout(path: str | None, descriptor: int = 1) -> bool:
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


def open_stdout(descriptor: int = 1) -> Output:
    """Standard output, whatever it is."""
    return FileOutput(descriptor) if is_regular(descriptor) else PipeOutput(descriptor)
