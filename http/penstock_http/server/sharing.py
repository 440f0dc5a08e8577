"""What the processes of one service share: the writer of each SQLite file, and the files of sinks."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING

from penstock.deadletters import Stores
from penstock.deadletters.sqlite.shared_writer import LETTERS, SharedWriters
from penstock.sinks.siblings import FILE_LOCKS, FILES, Siblings, use_siblings

if TYPE_CHECKING:
    from penstock_http.processes.parent import Parent


def share_writers_and_files(parent: Parent) -> list[Callable[[], Awaitable[None]]]:
    """Share both with all processes. Returns what closes them when all processes have exited."""
    from penstock.deadletters.sqlite.writer_hub import WriterHub
    from penstock.sinks.file_keeper import FileKeeper

    hub, keeper = WriterHub(), FileKeeper()
    parent.share(hub)
    parent.share(keeper)
    return [hub.aclose, keeper.aclose]


def use_shared_files(descriptors: Mapping[str, int]) -> None:
    """Have the sinks of this process share their files with its siblings, if it has any."""
    if FILES in descriptors:
        use_siblings(Siblings(descriptors[FILES], descriptors[FILE_LOCKS]))


def make_stores(descriptors: Mapping[str, int]) -> Stores:
    """Return the stores of this process, whose SQLite files are written by the parent if there is one."""
    if LETTERS in descriptors:
        return Stores(make_writer=SharedWriters(descriptors[LETTERS]).make)
    return Stores(separate_writer=True)
