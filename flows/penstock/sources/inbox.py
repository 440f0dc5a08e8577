"""The folder that a directory source reads from: what lies there, what of it is whole, and where it is moved to."""

from __future__ import annotations

import heapq
import os
from fnmatch import fnmatchcase
from pathlib import Path
from typing import NamedTuple

import structlog

from penstock.errors import FileBroke
from penstock.formats import known_format

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


class Inbox:
    """Blocking calls, to be made in a thread, one at a time. They raise `FileBroke` when the disk refuses.

    `said` is what errors and logs call the folder: the path as it was written.
    """

    def __init__(self, path: str, pattern: str, done: str, *, any_format: bool, said: str) -> None:
        self.path = Path(path)
        self._said = said
        self._pattern = pattern
        self._done = done
        self._any_format = any_format
        self._seen: list[Seen] = []
        self._unknown = 0
        self._told = 0
        self._example = ""

    def make_folders(self) -> None:
        """Make the subfolders that files are moved to."""
        if not self.path.is_dir():
            raise FileBroke(self._said, "there is no such directory; make it, or name another")
        for folder in (self._done, FAILED):
            try:
                (self.path / folder).mkdir(exist_ok=True)
            except OSError as error:
                raise FileBroke(self.called(folder), error.strerror or str(error)) from error

    def look(self) -> list[Seen]:
        """The files that did not change since the last look, the oldest first."""
        try:
            with os.scandir(self.path) as entries:
                here = (seen for entry in entries if (seen := self._matching(entry)) is not None)
                before, self._seen = set(self._seen), heapq.nsmallest(LOOK, here)
        except OSError as error:
            raise FileBroke(self._said, error.strerror or str(error)) from error
        self._tell_of_unknown()
        return [seen for seen in self._seen if seen in before]

    def called(self, name: str) -> str:
        """What errors call something in the folder."""
        return os.path.join(self._said, readable(name))

    def _matching(self, entry: os.DirEntry[str]) -> Seen | None:
        hidden = entry.name.startswith(".") and not self._pattern.startswith(".")
        if hidden or not fnmatchcase(entry.name, self._pattern):
            return None
        try:
            if not entry.is_file():
                return None
            if not self._any_format and known_format(entry.name) is None:
                self._unknown += 1
                self._example = entry.name
                return None
            facts = entry.stat()
        except OSError:  # it went away meanwhile
            return None
        return Seen(facts.st_mtime_ns, entry.name, facts.st_size)

    def _tell_of_unknown(self) -> None:
        """Log that there are files of no known format; again only when their number has changed."""
        if self._unknown != self._told and self._unknown:
            log.warning(
                "directory.unknown_format", directory=self._said, files=self._unknown, example=readable(self._example)
            )
        self._told, self._unknown = self._unknown, 0

    def is_as_seen(self, file: Seen) -> bool:
        """Whether a file is there, and was not written to since it was seen."""
        try:
            facts = (self.path / file.name).stat()
        except OSError:
            return False
        return (facts.st_mtime_ns, facts.st_size) == (file.modified, file.size)

    def move(self, file: Seen, folder: str) -> str | None:
        """Move a file; returns why it was not: it went away, or it was written to since, and has to be read again."""
        path = self.path / file.name
        try:
            if not path.exists():
                return "directory.file_gone"
            if not self.is_as_seen(file):
                return "directory.file_changed"
            path.rename(free_place(self.path / folder, file.name))
        except FileNotFoundError:
            return "directory.file_gone"
        except OSError as error:
            raise FileBroke(
                self.called(file.name), f"it cannot be moved to {folder}/: {error.strerror or error}"
            ) from error
        return None


def readable(name: str) -> str:
    """The name of a file for errors and logs, which are UTF-8, as names need not be."""
    return os.fsencode(name).decode(errors="backslashreplace")


def free_place(folder: Path, name: str) -> Path:
    """A path in a folder under which nothing is lost: the name, with a number if there is such a file already."""
    place, number = folder / name, 1
    stem, dot, suffixes = name.partition(".")
    while place.exists():
        number += 1
        place = folder / f"{stem}-{number}{dot}{suffixes}"
    return place
