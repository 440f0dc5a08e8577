"""Outputs of `penstock run`: a pipe or a terminal, whose reader may be slow, or a file with one writer.

Also finds conflicts between the files of a run, by any path. A file that is overwritten must not be one that the run
reads or appends to: opening it would empty it. And a file that is appended to must not be one that the run reads: the
run would never end.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from penstock.checkpoints.output_file import FileOutput, Output, is_regular
from penstock.deadletters.store import SQLITE
from penstock.deadletters.stores import normalize_url
from penstock.errors import FlowDefinitionError, OutputUnusable, ReaderDisconnected
from penstock.flow.flow import Flow
from penstock.sinks import files_written
from penstock.sinks.stdout import PIPE_CHUNK, send
from penstock.support.text import bytes_for_terminal
from penstock.support.used_files import UsedFile, same_regular_file

SQLITE_SUFFIXES = ("-wal", "-shm", "-journal")
"""Suffixes of the files that SQLite keeps beside a database. They may contain letters."""


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


def check_not_written(name: str, file: str | int, files: Iterable[UsedFile], advice: str = "name another file") -> None:
    """Raise `FlowDefinitionError` if a path or descriptor that is to be written is one of these files."""
    for description, used in files:
        if same_regular_file(file, used):
            raise FlowDefinitionError(f"{name} is the same file as {description}, which would be overwritten; {advice}")


def appended_files(flow: Flow[Any]) -> Iterator[UsedFile]:
    """Yield the files that the steps of a flow write to, and those of its dead letters. Not standard output."""
    yield from (used for used in files_written(flow.all_sinks.values()) if not isinstance(used.file, int))
    url = flow.dead_letter_url
    if url is not None and (path := normalize_url(url)).startswith(SQLITE):
        for suffix in ("", *SQLITE_SUFFIXES):
            yield UsedFile(f"the dead letters at {url}", path.removeprefix(SQLITE) + suffix)


def writes_to_stdout(flow: Flow[Any]) -> bool:
    """Return whether a step writes to standard output."""
    return any(isinstance(used.file, int) for used in files_written(flow.all_sinks.values()))


def flow_files(paths: Iterable[Path]) -> list[UsedFile]:
    """Return the files that a flow was loaded from."""
    return [UsedFile(f"{path}, from which the flow is loaded", str(path)) for path in paths]
