"""Scan the directory of a directory source: find complete files, and move files away."""

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
"""Maximum files of one poll, the oldest ones. Others wait for a later poll."""

FAILED = "failed"
"""The subfolder for files that could not be read to their end."""


class FileSnapshot(NamedTuple):
    """A file as one poll found it."""

    modified: int
    """The time of its last change, in nanoseconds."""
    name: str
    size: int
    inode: int


class Moved(NamedTuple):
    """A file after it was moved, as it was when it was read. A writer that had it open can still write to it."""

    file: FileSnapshot
    path: Path


class Obstacle(StrEnum):
    """Why a file was not moved. The value is the name of the log event."""

    GONE = "directory.file_removed"
    CHANGED = "directory.file_changed"


class DirectoryScanner:
    """Scans one directory. Its calls block: make them in a thread, one at a time. They raise `FileReadFailed`.

    A file is complete when it did not change for `stable_for` seconds, as seen by the polls. `display_path` is the path
    of the directory in errors and logs, before variables are substituted.
    """

    def __init__(
        self, path: str, pattern: str, processed_dir: str, *, any_format: bool, stable_for: float, display_path: str
    ) -> None:
        self.path = Path(path)
        self._display_path = display_path
        self._pattern = pattern
        self._processed_dir = processed_dir
        self._any_format = any_format
        self._stable_for = stable_for
        self._unchanged_since: dict[FileSnapshot, float] = {}
        self._unknown = 0
        self._unknown_logged = 0
        self._example = ""

    def create_folders(self) -> None:
        """Create the subfolders that files are moved to."""
        if not self.path.is_dir():
            raise FileReadFailed(self._display_path, "the directory does not exist; create it, or name another")
        for folder in (self._processed_dir, FAILED):
            try:
                (self.path / folder).mkdir(exist_ok=True)
            except OSError as error:
                raise FileReadFailed(self.display_name(folder), error.strerror or str(error)) from error

    def scan(self, now: float) -> list[FileSnapshot]:
        """Return the complete files, the oldest first. `now` is in seconds on a monotonic clock."""
        try:
            with os.scandir(self.path) as entries:
                here = (seen for entry in entries if (seen := self._matching(entry)) is not None)
                before, files = self._unchanged_since, heapq.nsmallest(SCAN_LIMIT, here)
        except OSError as error:
            raise FileReadFailed(self._display_path, error.strerror or str(error)) from error
        self._log_unknown_formats()
        self._unchanged_since = {file: before.get(file, now) for file in files}
        return [file for file in files if file in before and now - before[file] >= self._stable_for]

    def display_name(self, name: str) -> str:
        """Return the path of a file in the directory for errors."""
        return os.path.join(self._display_path, sanitize(name))

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
            status = os.stat(entry.path)  # `entry.stat` has no inode on Windows
        except OSError:  # it was removed in the meantime
            return None
        return _snapshot(entry.name, status)

    def _log_unknown_formats(self) -> None:
        """Log that there are files of unknown formats; again only when their number has changed."""
        if self._unknown != self._unknown_logged and self._unknown:
            log.warning(
                "directory.unknown_format",
                directory=self._display_path,
                files=self._unknown,
                example=sanitize(self._example),
            )
        self._unknown_logged, self._unknown = self._unknown, 0

    def is_unchanged(self, file: FileSnapshot) -> bool:
        """Return whether a file exists and was not written to since the snapshot."""
        try:
            return _snapshot(file.name, (self.path / file.name).stat()) == file
        except OSError:
            return False

    def move(self, file: FileSnapshot, folder: str) -> Moved | Obstacle:
        """Move a file into a subfolder, unless it was removed, or written to since the snapshot."""
        path = self.path / file.name
        try:
            if not path.exists():
                return Obstacle.GONE
            if not self.is_unchanged(file):
                return Obstacle.CHANGED
            target = unique_path(self.path / folder, file.name)
            path.rename(target)
        except FileNotFoundError:
            return Obstacle.GONE
        except OSError as error:
            raise FileReadFailed(
                self.display_name(file.name), f"it cannot be moved to {folder}/: {error.strerror or error}"
            ) from error
        return Moved(file, target)

    def move_back(self, moved: Moved) -> str | None:
        """Move a file back that was written to after it was moved. Return its new name; None if there is nothing to do.

        There is nothing to do for an unchanged file, and for one that another process removed or replaced.
        """
        try:
            status = moved.path.stat()
            now = _snapshot(moved.file.name, status)
            if now == moved.file or now.inode != moved.file.inode:
                return None
            target = unique_path(self.path, moved.file.name)
            moved.path.rename(target)
        except FileNotFoundError:
            return None
        except OSError as error:
            reason = f"it was written to after it was read, and cannot be moved back: {error.strerror or error}"
            raise FileReadFailed(self.display_name(moved.file.name), reason) from error
        return target.name


def _snapshot(name: str, status: os.stat_result) -> FileSnapshot:
    return FileSnapshot(status.st_mtime_ns, name, status.st_size, status.st_ino)


def unique_path(folder: Path, name: str) -> Path:
    """Return an unused path in a folder: the name, with a number if there is such a file already."""
    path, number = folder / name, 1
    stem, dot, suffixes = name.partition(".")
    while path.exists():
        number += 1
        path = folder / f"{stem}-{number}{dot}{suffixes}"
    return path
