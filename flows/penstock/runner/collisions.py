"""What a run writes must be no file that it reads, under whatever name: opening it anew would empty it."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from penstock.environment import filled
from penstock.errors import FlowError
from penstock.runner.inputs import FileInput, PipeInput
from penstock.sources import Source
from penstock.sources.directory import Directory
from penstock.sources.files import File
from penstock.sources.standard import StandardInput


class Read(NamedTuple):
    """A file that a run reads: what it is to the run, and its path or its descriptor."""

    role: str
    place: str | int


def check_written(name: str, place: str | int, files: Iterable[Read]) -> None:
    """Raise `FlowError` when what is to be written, a path or a descriptor, is one of the files that are read."""
    written = file_at(place)
    for role, read in files:
        facts = file_at(read)
        if written is not None and facts is not None and os.path.samestat(written, facts):
            raise FlowError(f"{name} is the same file as {role}, which would be lost; name another file: --output FILE")


def file_at(place: str | int) -> os.stat_result | None:
    """What the system knows a file by, whatever its name; None for what is no regular file, or not there."""
    try:
        facts = os.stat(place)
    except OSError:
        return None
    return facts if stat.S_ISREG(facts.st_mode) else None


def files_of(flow: Iterable[Path]) -> list[Read]:
    """The files that a flow was read from."""
    return [Read(f"{path}, of which the flow is made", str(path)) for path in flow]


def files_read(source: Source[Any]) -> Iterator[Read]:
    """The files that a source will read, as far as they are known before it runs."""
    match source:
        case FileInput():
            yield Read("the input", source.path)
        case PipeInput() | StandardInput():
            yield Read("standard input", source.descriptor)
        case File():
            yield Read(f"the source {source.path}", filled(source.path))
        case Directory():
            for name in names_in(filled(source.path)):
                yield Read(f"{name} in the source {source.path}", os.path.join(filled(source.path), name))
        case _:
            return


def names_in(folder: str) -> list[str]:
    """The names in a folder; none when it cannot be read, of which the run will tell."""
    try:
        return os.listdir(folder)
    except OSError:
        return []
