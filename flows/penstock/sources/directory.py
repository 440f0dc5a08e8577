"""A directory as a source: each file that is put into it is read, and moved away when all of it is settled."""

from __future__ import annotations

import asyncio
import heapq
import os
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import partial
from os import PathLike, fspath
from pathlib import Path
from typing import NamedTuple

import structlog

from penstock.errors import FileBroke, FlowError, describe
from penstock.formats import Format, format_of, known_format, named_format
from penstock.sources.files import FileLines, check_reading, give_out, make_splitter
from penstock.sources.ndjson import LINE_LIMIT
from penstock.sources.source import Intake, Source
from penstock.threads import in_thread

log: structlog.stdlib.BoundLogger = structlog.get_logger()

LOOK = 1000
"""Files that one look at a directory keeps in mind, the oldest; the others wait for a later look."""

FAILED = "failed"
"""The subfolder for files that could not be read to their end."""


class Seen(NamedTuple):
    """A file as it was at one look; it is whole when the next look sees the same."""

    modified: int
    """When it was last written, in nanoseconds."""
    name: str
    size: int


class Finished(NamedTuple):
    """A file of which all was given out that can be read; it is moved once that is settled."""

    file: Seen
    first: int
    elements: int
    error: str | None


@dataclass(unsafe_hash=True)
class Directory(Source[bytes]):
    """The lines of all files that come into a directory, without end."""

    name = "directory"

    path: str
    pattern: str = "*"
    every: float = 1.0
    done: str = "done"
    format: Format | None = None
    limit: int = LINE_LIMIT
    delimiter: str = ","

    def __post_init__(self) -> None:
        super().__init__()

    async def produce(self, intake: Intake[bytes]) -> None:
        await Watch(self, intake).watch()


class Watch:
    """One run's look after a directory."""

    def __init__(self, directory: Directory, intake: Intake[bytes]) -> None:
        self._directory = directory
        self._path = Path(directory.path)
        self._intake = intake
        self._seen: list[Seen] = []
        self._unknown = 0
        self._told = 0
        self._example = ""
        self._finished: Finished | None = None
        self._log = log.bind(directory=directory.path)

    async def watch(self) -> None:
        """Look again and again, and read what is whole."""
        await in_thread(self._make_folders)
        self._intake.on_close(self._close)
        while True:
            for file in await in_thread(self._look):
                await self._read(file)
            await asyncio.sleep(self._directory.every)

    async def _read(self, file: Seen) -> None:
        """Give out a file, wait until all of it is settled, and only then move it: a crash before reads it again."""
        if not await in_thread(partial(self._is_as_seen, file)):
            return  # it went away while others were read, or is still written to: a later look decides
        first, path, error = self._intake.seq, str(self._path / file.name), None
        format = format_of(path, self._directory.format)
        splitter = make_splitter(format, self._directory.limit, self._directory.delimiter)
        try:
            await give_out(self._intake, FileLines(path, splitter))
        except FileBroke as broke:
            error = describe(broke)
        self._finished = Finished(file, first, self._intake.seq - first, error)
        await self._intake.settled()
        await self._put_away()

    async def _close(self) -> None:
        """The run is over. What was given out to the end, and settled since, is not to be read again."""
        if self._intake.all_settled:
            try:
                await self._put_away()
            except FileBroke as error:
                self._log.error("directory.move_failed", error=describe(error))

    async def _put_away(self) -> None:
        """Say what became of the file that is finished, if there is one, and move it."""
        finished, self._finished = self._finished, None
        if finished is None:
            return
        said = self._log.bind(file=finished.file.name, first_seq=finished.first, elements=finished.elements)
        if finished.error is None:
            said.info("directory.file_done")
        else:
            said.warning("directory.file_failed", error=finished.error, moved_to=FAILED)
        folder = self._directory.done if finished.error is None else FAILED
        obstacle = await in_thread(partial(self._move, finished.file, folder))
        if obstacle is not None:
            said.warning(obstacle)

    def _make_folders(self) -> None:
        if not self._path.is_dir():
            raise FileBroke(self._directory.path, "there is no such directory; make it, or name another")
        for folder in (self._directory.done, FAILED):
            try:
                (self._path / folder).mkdir(exist_ok=True)
            except OSError as error:
                raise FileBroke(str(self._path / folder), error.strerror or str(error)) from error

    def _look(self) -> list[Seen]:
        """The files that did not change since the last look, the oldest first."""
        with os.scandir(self._path) as entries:
            here = (seen for entry in entries if (seen := self._matching(entry)) is not None)
            before, self._seen = set(self._seen), heapq.nsmallest(LOOK, here)
        self._tell_of_unknown()
        return [seen for seen in self._seen if seen in before]

    def _matching(self, entry: os.DirEntry[str]) -> Seen | None:
        pattern = self._directory.pattern
        hidden = entry.name.startswith(".") and not pattern.startswith(".")
        if hidden or not fnmatchcase(entry.name, pattern):
            return None
        try:
            if not entry.is_file():
                return None
            if self._directory.format is None and known_format(entry.name) is None:
                self._unknown += 1
                self._example = entry.name
                return None
            facts = entry.stat()
        except OSError:  # it went away meanwhile
            return None
        return Seen(facts.st_mtime_ns, entry.name, facts.st_size)

    def _tell_of_unknown(self) -> None:
        """Say that there are files whose format nobody tells, once for as long as there are as many."""
        if self._unknown != self._told and self._unknown:
            self._log.warning("directory.unknown_format", files=self._unknown, example=self._example)
        self._told, self._unknown = self._unknown, 0

    def _is_as_seen(self, file: Seen) -> bool:
        try:
            facts = (self._path / file.name).stat()
        except OSError:
            return False
        return (facts.st_mtime_ns, facts.st_size) == (file.modified, file.size)

    def _move(self, file: Seen, folder: str) -> str | None:
        """Move a file; returns why it was not: it went away, or it was written to since, and has to be read again."""
        path = self._path / file.name
        try:
            if not path.exists():
                return "directory.file_gone"
            if not self._is_as_seen(file):
                return "directory.file_changed"
            path.rename(free_place(self._path / folder, file.name))
        except FileNotFoundError:
            return "directory.file_gone"
        except OSError as error:
            raise FileBroke(str(path), f"it cannot be moved to {folder}/: {error.strerror or error}") from error
        return None


def free_place(folder: Path, name: str) -> Path:
    """A path in a folder under which nothing is lost: the name, with a number if there is such a file already."""
    place, number = folder / name, 1
    stem, dot, suffixes = name.partition(".")
    while place.exists():
        number += 1
        place = folder / f"{stem}-{number}{dot}{suffixes}"
    return place


def from_directory(
    path: str | PathLike[str],
    *,
    pattern: str = "*",
    every: float = 1.0,
    done: str = "done",
    format: Format | str | None = None,
    limit: int = LINE_LIMIT,
    delimiter: str = ",",
) -> Source[bytes]:
    """A source of the lines of all files that are put into a directory, looked for `every` so many seconds.

    A file is taken when its name matches `pattern` and it did not change between two looks, the oldest first, and is
    read as `from_file` does. When all of its elements are settled, it is moved into the subfolder `done`. So nothing
    is lost, and after a crash a file that was not moved is read again from its beginning: at least once. Before the
    next file, the source waits for that.

    A file that cannot be read to its end is moved into the subfolder `failed`, after what could be read is settled.
    Files whose format is not told, neither by their name nor by `format`, stay where they are. The source never ends;
    drained, it stops between two lines, and the file that it was in the middle of stays. A directory has one reader:
    two runs on it would read each file twice.
    """
    if every <= 0:
        raise ValueError(f"a directory is looked at every so many seconds, above 0, got {every!r}")
    if done in ("", ".", "..", FAILED) or Path(done).name != done:
        raise FlowError(f"`done` is the name of a subfolder, other than {FAILED!r}, got {done!r}")
    named = None if format is None else named_format(format)
    check_reading(named, limit, delimiter)
    return Directory(fspath(path), pattern, every, done, named, limit, delimiter)
