"""Outputs of `penstock run`: a pipe or a terminal, whose reader may be slow, or a file with one writer.

Also finds conflicts between the files of a run, by any path. A file that is overwritten must not be one that the run
reads or appends to: opening it would empty it. And a file that is appended to must not be one that the run reads: the
run would never end.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from penstock.checkpoints.output_file import FileOutput, Output, is_regular
from penstock.cli.run.inputs import FileInput, PipeInput
from penstock.deadletters.store import SQLITE
from penstock.deadletters.stores import normalize_url
from penstock.errors import FlowDefinitionError, OutputUnusable, ReaderDisconnected
from penstock.flow.flow import Flow
from penstock.sinks import FileSink
from penstock.sinks.stdout import PIPE_CHUNK, send
from penstock.sources import Source
from penstock.sources.byte_stream import StdinSource
from penstock.sources.directory import Directory
from penstock.sources.file import File
from penstock.support.environment import substitute
from penstock.support.text import bytes_for_terminal

SQLITE_SUFFIXES = ("-wal", "-shm", "-journal")
"""Suffixes of the files that SQLite keeps beside a database. They may contain letters."""


class FileRole(NamedTuple):
    """A file that a run reads or appends to: its role, and its path or descriptor."""

    role: str
    file: str | int


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


def check_not_written(name: str, file: str | int, files: Iterable[FileRole], advice: str = "name another file") -> None:
    """Raise `FlowDefinitionError` if a path or descriptor that is to be written is one of these files."""
    for role, used in files:
        if same_regular_file(file, used):
            raise FlowDefinitionError(f"{name} is the same file as {role}, which would be overwritten; {advice}")


def same_regular_file(file: str | int, other: str | int) -> bool:
    """Return whether two paths or descriptors name the same regular file, or will once it exists."""
    status, other_status = file_at(file), file_at(other)
    if status is not None and other_status is not None:
        return os.path.samestat(status, other_status)
    if isinstance(file, int) or isinstance(other, int) or os.path.exists(file) or os.path.exists(other):
        return False
    return os.path.realpath(file) == os.path.realpath(other)


def file_at(file: str | int) -> os.stat_result | None:
    """Return the status of a regular file; None for anything else, or if no file exists."""
    try:
        status = os.stat(file)
    except OSError:
        return None
    return status if stat.S_ISREG(status.st_mode) else None


def appended_files(flow: Flow[Any]) -> Iterator[FileRole]:
    """Yield the files that the steps of a flow write to, and those of its dead letters."""
    for sink in flow.all_sinks.values():
        if isinstance(sink, FileSink):
            yield FileRole(f"the sink {sink.path} of a step", substitute(sink.path))
    url = flow.dead_letter_url
    if url is not None and (path := normalize_url(url)).startswith(SQLITE):
        for suffix in ("", *SQLITE_SUFFIXES):
            yield FileRole(f"the dead letters at {url}", path.removeprefix(SQLITE) + suffix)


def flow_file_roles(paths: Iterable[Path]) -> list[FileRole]:
    """Return the files that a flow was loaded from."""
    return [FileRole(f"{path}, from which the flow is loaded", str(path)) for path in paths]


def files_read(source: Source[Any]) -> Iterator[FileRole]:
    """Yield the files that a source will read, as far as they are known before the run."""
    match source:
        case FileInput():
            yield FileRole("the input", source.path)
        case PipeInput() | StdinSource():
            yield FileRole("standard input", source.descriptor)
        case File():
            yield FileRole(f"the source {source.path}", substitute(source.path))
        case Directory():
            for name in filter(partial(fnmatchcase, pat=source.pattern), file_names(substitute(source.path))):
                yield FileRole(f"{name} in the source {source.path}", os.path.join(substitute(source.path), name))
        case _:
            return


def file_names(folder: str) -> list[str]:
    """Return the names in a folder; none if it cannot be read, which the run will report."""
    try:
        return os.listdir(folder)
    except OSError:
        return []
