"""What a run writes anew must be no file that it reads or adds to, under whatever name: opening it would empty it.

And what it adds to must be no file that it reads: it would never come to its end.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from penstock.cli.run.inputs import FileInput, PipeInput
from penstock.deadletters.store import SQLITE
from penstock.deadletters.stores import normalize_url
from penstock.errors import FlowDefinitionError
from penstock.flow.flow import Flow
from penstock.sinks import FileSink
from penstock.sources import Source
from penstock.sources.byte_stream import StdinSource
from penstock.sources.directory import Directory
from penstock.sources.file import File
from penstock.support.environment import substitute

SQLITE_SUFFIXES = ("-wal", "-shm", "-journal")
"""What the names of the files end in that SQLite keeps beside a database; letters may be in them."""


class FileRole(NamedTuple):
    """A file that a run reads or adds to: what it is to the run, and its path or its descriptor."""

    role: str
    place: str | int


def check_not_written(name: str, place: str | int, files: Iterable[FileRole], way: str = "name another file") -> None:
    """Raise `FlowDefinitionError` when what is to be written, a path or a descriptor, is one of these files."""
    for role, used in files:
        if same_file(place, used):
            raise FlowDefinitionError(f"{name} is the same file as {role}, which would be spoiled; {way}")


def same_file(place: str | int, other: str | int) -> bool:
    """Whether two paths or descriptors lead to the same regular file, or will, as soon as there is one."""
    facts, others = file_at(place), file_at(other)
    if facts is not None and others is not None:
        return os.path.samestat(facts, others)
    if isinstance(place, int) or isinstance(other, int) or os.path.exists(place) or os.path.exists(other):
        return False
    return os.path.realpath(place) == os.path.realpath(other)


def file_at(place: str | int) -> os.stat_result | None:
    """What the system knows a file by, whatever its name; None for what is no regular file, or not there."""
    try:
        facts = os.stat(place)
    except OSError:
        return None
    return facts if stat.S_ISREG(facts.st_mode) else None


def appended_files(flow: Flow[Any]) -> Iterator[FileRole]:
    """The files that the steps of a flow deliver to, and those of its dead letters."""
    for outlet in flow.all_sinks.values():
        if isinstance(outlet, FileSink):
            yield FileRole(f"what a step delivers to ({outlet.path})", substitute(outlet.path))
    url = flow.dead_letter_url
    if url is not None and (place := normalize_url(url)).startswith(SQLITE):
        for ending in ("", *SQLITE_SUFFIXES):
            yield FileRole(f"the dead letters at {url}", place.removeprefix(SQLITE) + ending)


def files_of(flow: Iterable[Path]) -> list[FileRole]:
    """The files that a flow was read from."""
    return [FileRole(f"{path}, of which the flow is made", str(path)) for path in flow]


def files_read(source: Source[Any]) -> Iterator[FileRole]:
    """The files that a source will read, as far as they are known before it runs."""
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
    """The names in a folder; none when it cannot be read, of which the run will tell."""
    try:
        return os.listdir(folder)
    except OSError:
        return []
