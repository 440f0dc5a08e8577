"""The folder that a directory source reads from: its files, which of them are complete, and where they are moved to."""

from __future__ import annotations

import heapq
import os
from enum import StrEnum
from fnmatch import fnmatchcase
from pathlib import Path
from typing import NamedTuple

from penstock.errors import FileReadFailed
from penstock.formats.format import known_format
from penstock.support.logger import get_logger
from penstock.support.text import sanitize

log = get_logger()

SCAN_LIMIT = 10_000
"""Files that one poll keeps in mind, the oldest; the others wait for a later poll."""

FAILED = "failed"
"""The subfolder for files that could not be read to their end."""


class FileSnapshot(NamedTuple):
    """A file as it was at one poll."""

    modified: int
    """When it was last written, in nanoseconds."""
    name: str
    size: int
    inode: int


class Moved(NamedTuple):
    """A file after it was moved, as it was when it was read. Whoever had it open can still write to it."""

    file: FileSnapshot
    path: Path


class Obstacle(StrEnum):
    """Why a file was not moved; the name of its event in the log."""

    GONE = "directory.file_removed"
    CHANGED = "directory.file_changed"


class DirectoryScanner:
    """Blocking calls, to be made in a thread, one at a time. They raise `FileReadFailed` when the disk refuses.

    A file is complete when it did not change for `stable_for` seconds, as far as polls saw it. `said` is what errors
    and logs call the folder: the path as it was written.
    """

    def __init__(self, path: str, pattern: str, done: str, *, any_format: bool, stable_for: float, said: str) -> None:
        self.path = Path(path)
        self._said = said
        self._pattern = pattern
        self._done = done
        self._any_format = any_format
        self._stable_for = stable_for
        self._unchanged_since: dict[FileSnapshot, float] = {}
        self._unknown = 0
        self._told = 0
        self._example = ""

    def create_folders(self) -> None:
        """Make the subfolders that files are moved to."""
        if not self.path.is_dir():
            raise FileReadFailed(self._said, "there is no such directory; make it, or name another")
        for folder in (self._done, FAILED):
            try:
                (self.path / folder).mkdir(exist_ok=True)
            except OSError as error:
                raise FileReadFailed(self.display_name(folder), error.strerror or str(error)) from error

    def scan(self, now: float) -> list[FileSnapshot]:
        """The complete files, the oldest first; `now` is in seconds, on a clock that is never set."""
        try:
            with os.scandir(self.path) as entries:
                here = (seen for entry in entries if (seen := self._matching(entry)) is not None)
                before, files = self._unchanged_since, heapq.nsmallest(SCAN_LIMIT, here)
        except OSError as error:
            raise FileReadFailed(self._said, error.strerror or str(error)) from error
        self._tell_of_unknown()
        self._unchanged_since = {file: before.get(file, now) for file in files}
        return [file for file in files if file in before and now - before[file] >= self._stable_for]

    def display_name(self, name: str) -> str:
        """What errors call something in the folder."""
        return os.path.join(self._said, sanitize(name))

    def _matching(self, entry: os.DirEntry[str]) -> FileSnapshot | None:
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
            facts = os.stat(entry.path)  # `entry.stat` has no inode on Windows
        except OSError:  # it went away meanwhile
            return None
        return _seen(entry.name, facts)

    def _tell_of_unknown(self) -> None:
        """Log that there are files of no known format; again only when their number has changed."""
        if self._unknown != self._told and self._unknown:
            log.warning(
                "directory.unknown_format", directory=self._said, files=self._unknown, example=sanitize(self._example)
            )
        self._told, self._unknown = self._unknown, 0

    def is_unchanged(self, file: FileSnapshot) -> bool:
        """Whether a file is there, and was not written to since it was seen."""
        try:
            return _seen(file.name, (self.path / file.name).stat()) == file
        except OSError:
            return False

    def move(self, file: FileSnapshot, folder: str) -> Moved | Obstacle:
        """Move a file, unless it went away, or was written to since it was seen."""
        path = self.path / file.name
        try:
            if not path.exists():
                return Obstacle.GONE
            if not self.is_unchanged(file):
                return Obstacle.CHANGED
            place = unique_path(self.path / folder, file.name)
            path.rename(place)
        except FileNotFoundError:
            return Obstacle.GONE
        except OSError as error:
            raise FileReadFailed(
                self.display_name(file.name), f"it cannot be moved to {folder}/: {error.strerror or error}"
            ) from error
        return Moved(file, place)

    def move_back(self, moved: Moved) -> str | None:
        """Move a file back that was written to after it was moved; returns its name here. None if nothing is to do.

        That is so for one that is as it was, and for one that somebody else took away or put another in its place.
        """
        try:
            facts = moved.path.stat()
            now = _seen(moved.file.name, facts)
            if now == moved.file or now.inode != moved.file.inode:
                return None
            place = unique_path(self.path, moved.file.name)
            moved.path.rename(place)
        except FileNotFoundError:
            return None
        except OSError as error:
            reason = f"it was written to after it was read, and cannot be moved back: {error.strerror or error}"
            raise FileReadFailed(self.display_name(moved.file.name), reason) from error
        return place.name


def _seen(name: str, facts: os.stat_result) -> FileSnapshot:
    return FileSnapshot(facts.st_mtime_ns, name, facts.st_size, facts.st_ino)


def unique_path(folder: Path, name: str) -> Path:
    """A path in a folder under which nothing is lost: the name, with a number if there is such a file already."""
    place, number = folder / name, 1
    stem, dot, suffixes = name.partition(".")
    while place.exists():
        number += 1
        place = folder / f"{stem}-{number}{dot}{suffixes}"
    return place
