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

from penstock.deadletters.store import SQLITE
from penstock.deadletters.stores import normalize_url
from penstock.environment import filled
from penstock.errors import FlowError
from penstock.flow import Flow
from penstock.outlets import FileOutlet
from penstock.runner.inputs import FileInput, PipeInput
from penstock.sources import Source
from penstock.sources.directory import Directory
from penstock.sources.files import File
from penstock.sources.standard import StandardInput

BESIDE = ("-wal", "-shm", "-journal")
"""What the names of the files end in that SQLite keeps beside a database; letters may be in them."""


class Used(NamedTuple):
    """A file that a run reads or adds to: what it is to the run, and its path or its descriptor."""

    role: str
    place: str | int


def check_written(name: str, place: str | int, files: Iterable[Used], way: str = "name another file") -> None:
    """Raise `FlowError` when what is to be written, a path or a descriptor, is one of these files."""
    for role, used in files:
        if are_same(place, used):
            raise FlowError(f"{name} is the same file as {role}, which would be spoiled; {way}")


def are_same(place: str | int, other: str | int) -> bool:
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


def files_added_to(flow: Flow[Any]) -> Iterator[Used]:
    """The files that the steps of a flow deliver to, and those of its dead letters."""
    for outlet in flow.outlets.values():
        if isinstance(outlet, FileOutlet):
            yield Used(f"what a step delivers to ({outlet.path})", filled(outlet.path))
    url = flow.store_url
    if url is not None and (place := normalize_url(url)).startswith(SQLITE):
        for ending in ("", *BESIDE):
            yield Used(f"the dead letters at {url}", place.removeprefix(SQLITE) + ending)


def files_of(flow: Iterable[Path]) -> list[Used]:
    """The files that a flow was read from."""
    return [Used(f"{path}, of which the flow is made", str(path)) for path in flow]


def files_read(source: Source[Any]) -> Iterator[Used]:
    """The files that a source will read, as far as they are known before it runs."""
    match source:
        case FileInput():
            yield Used("the input", source.path)
        case PipeInput() | StandardInput():
            yield Used("standard input", source.descriptor)
        case File():
            yield Used(f"the source {source.path}", filled(source.path))
        case Directory():
            for name in filter(partial(fnmatchcase, pat=source.pattern), names_in(filled(source.path))):
                yield Used(f"{name} in the source {source.path}", os.path.join(filled(source.path), name))
        case _:
            return


def names_in(folder: str) -> list[str]:
    """The names in a folder; none when it cannot be read, of which the run will tell."""
    try:
        return os.listdir(folder)
    except OSError:
        return []
