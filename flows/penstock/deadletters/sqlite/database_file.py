"""The database file: its identity, and checks that it is not removed, replaced or truncated while it is open."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from penstock.errors import StoreReplaced, StoreTruncated


def file_identity(path: bytes | Path) -> tuple[int, int] | None:
    """Return what distinguishes a file from any other, even one with the same name; None if there is no file."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino


def create_private_file(path: bytes) -> None:
    """Create an empty file that only its owner can read, unless a file exists. SQLite gives its logs the same mode.

    An existing file is not opened: closing it would release the locks that SQLite holds on it in this process.
    """
    # A link without a target is followed, as SQLite does. SQLite reports any other problem.
    with suppress(OSError):
        os.close(os.open(os.path.realpath(path), os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))


class DatabaseFile:
    """Checks the file behind an open connection.

    Data written to a file without a name, or to a truncated one, is lost without an error: SQLite reads missing pages
    as zeros.
    """

    def __init__(self, path: bytes, url: str) -> None:
        self.path = path
        self._url = url
        self._identity: tuple[int, int] | None = None
        self._size = 0
        """The size in bytes at the last check."""
        self._truncated = False

    def opened(self) -> None:
        """Remember the file that was just opened."""
        self._identity, self._size, self._truncated = file_identity(self.path), self._current_size(), False

    def is_missing(self) -> bool:
        """Check whether there is no file at the path."""
        return file_identity(self.path) is None

    def is_current(self) -> bool:
        """Check whether the file at the path is the one that is open."""
        return file_identity(self.path) == self._identity

    def check_replaced(self) -> None:
        """Raise `StoreReplaced` if another file is at the path."""
        if not self.is_missing() and not self.is_current():
            raise StoreReplaced(self._url)

    def check_size(self, is_complete: Callable[[], bool]) -> None:
        """Raise `StoreTruncated` if the file was truncated.

        VACUUM shrinks a file too, but leaves it complete; `is_complete` is called to tell, and reads the whole file.
        """
        if self.is_current():
            size = self._current_size()
            if size < self._size and not (size and is_complete()):
                self._truncated = True
            else:
                self._size = size
        if self._truncated:
            raise StoreTruncated(self._url)

    def remove_logs(self) -> None:
        """Remove the WAL and SHM files of a deleted database, which a new one at the path would take for its own."""
        for suffix in (b"-wal", b"-shm"):
            with suppress(OSError):
                os.unlink(self.path + suffix)

    def _current_size(self) -> int:
        try:
            return os.stat(self.path).st_size
        except OSError:
            return 0
