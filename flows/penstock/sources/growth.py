"""Files that grow after they were read: find their new lines."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple
from zlib import crc32

from penstock.sources.file import FileLineReader


class ReadProgress(NamedTuple):
    """How much of a file was emitted."""

    lines: int = 0
    """Complete lines, from the first one."""
    checksum: int = 0
    """The checksum of these lines."""
    incomplete: int | None = None
    """The checksum of a last line without a line break, if there was one: its writer may not have finished it."""


class LineCounter:
    """Finds the lines of a file that were not emitted before. Its calls block: make them in a thread, one at a time.

    The file is read from its beginning. If it does not begin with the lines emitted before, it was rewritten instead of
    appended to, and all its lines are new.
    """

    def __init__(self, open_file: Callable[[], FileLineReader], before: ReadProgress) -> None:
        self.progress = ReadProgress()
        """How much of the file was emitted, before and now."""
        self.rewritten = False
        """Whether the file no longer begins with the lines that were emitted before."""
        self.completed = False
        """Whether the last line emitted before has grown, so that it was emitted again."""
        self._open = open_file
        self._before = before
        self._lines = open_file()

    def next(self) -> list[bytes] | None:
        """Return the new lines of the next chunk, maybe none; None at the end. Raises `FileReadFailed`."""
        lines = self._lines.next()
        if self._lines.at_end and self.progress.lines < self._before.lines:
            return self._restart()
        if lines is None:
            return None
        complete, incomplete = (lines, None) if not self._lines.at_end else ([], lines[0] if lines else None)
        known = complete[: self._before.lines - self.progress.lines]
        self._count(known)
        if known and self.progress.lines == self._before.lines and self.progress.checksum != self._before.checksum:
            return self._restart()
        new = complete[len(known) :]
        at_incomplete = self._before.incomplete is not None and self.progress.lines == self._before.lines
        if at_incomplete and (new or incomplete is not None):
            return self._after_incomplete(new, incomplete)
        self._count(new, incomplete)
        return new if incomplete is None else [incomplete]

    def close(self) -> None:
        """Close the file."""
        self._lines.close()

    def _after_incomplete(self, new: list[bytes], incomplete: bytes | None) -> list[bytes]:
        """Return the new lines after one that was incomplete: the first may be that line, unchanged or completed."""
        first = new[0] if new else incomplete
        assert first is not None
        is_known = _checksum([first]) == self._before.incomplete
        self.completed = not is_known
        self._before = self._before._replace(incomplete=None)
        self._count(new, incomplete)
        lines = new if incomplete is None else [incomplete]
        return lines[1:] if is_known else lines

    def _restart(self) -> list[bytes]:
        self._lines.close()
        self._lines = self._open()
        self.progress = self._before = ReadProgress()
        self.rewritten = True
        return []

    def _count(self, complete: list[bytes], incomplete: bytes | None = None) -> None:
        lines, checksum, _ = self.progress
        last = None if incomplete is None else _checksum([incomplete])
        self.progress = ReadProgress(lines + len(complete), _checksum(complete, checksum), last)


def _checksum(lines: list[bytes], before: int = 0) -> int:
    """Return the checksum of lines after others, independent of how they are divided into chunks."""
    return crc32(b"\n".join(lines) + b"\n", before) if lines else before
