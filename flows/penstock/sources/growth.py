"""Files that grow after they were read: which of their lines are new."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple
from zlib import crc32

from penstock.sources.file import FileLineReader


class ReadProgress(NamedTuple):
    """What was given out of a file."""

    lines: int = 0
    """Complete lines, from the first one on."""
    checksum: int = 0
    """The checksum of these lines."""
    cut: int | None = None
    """The checksum of a further line that had no line break yet, if there was one: the writer may still be at it."""


class LineCounter:
    """The lines of a file that were not given out before. Blocking calls, to be made in a thread, one at a time.

    The file is read from its beginning. When it does not begin with the lines that were given out, it was not
    appended to but written anew, and all its lines are new.
    """

    def __init__(self, open_file: Callable[[], FileLineReader], before: ReadProgress) -> None:
        self.progress = ReadProgress()
        """What was given out of the file, before and now."""
        self.rewritten = False
        """Whether the file no longer begins with the lines that were given out before."""
        self.completed = False
        """Whether the last line that was given out before has got longer, so that it was given out again."""
        self._open = open_file
        self._before = before
        self._lines = open_file()

    def next(self) -> list[bytes] | None:
        """The new lines of the next chunk, which may be none; None at the end. Raises `FileReadFailed`."""
        found = self._lines.next()
        if self._lines.at_end and self.progress.lines < self._before.lines:
            return self._begin_anew()
        if found is None:
            return None
        complete, cut = (found, None) if not self._lines.at_end else ([], found[0] if found else None)
        known = complete[: self._before.lines - self.progress.lines]
        self._note(known)
        if known and self.progress.lines == self._before.lines and self.progress.checksum != self._before.checksum:
            return self._begin_anew()
        new = complete[len(known) :]
        if self._before.cut is not None and self.progress.lines == self._before.lines and (new or cut is not None):
            return self._behind_cut(new, cut)
        self._note(new, cut)
        return new if cut is None else [cut]

    def close(self) -> None:
        """Close the file."""
        self._lines.close()

    def _behind_cut(self, new: list[bytes], cut: bytes | None) -> list[bytes]:
        """The new lines, of which the first one may have been given out before as far as it had been written."""
        first = new[0] if new else cut
        assert first is not None
        is_known = _checksum([first]) == self._before.cut
        self.completed = not is_known
        self._before = self._before._replace(cut=None)
        self._note(new, cut)
        lines = new if cut is None else [cut]
        return lines[1:] if is_known else lines

    def _begin_anew(self) -> list[bytes]:
        self._lines.close()
        self._lines = self._open()
        self.progress = self._before = ReadProgress()
        self.rewritten = True
        return []

    def _note(self, complete: list[bytes], cut: bytes | None = None) -> None:
        lines, checksum, _ = self.progress
        last = None if cut is None else _checksum([cut])
        self.progress = ReadProgress(lines + len(complete), _checksum(complete, checksum), last)


def _checksum(lines: list[bytes], before: int = 0) -> int:
    """The checksum of lines after others, however they are divided into chunks."""
    return crc32(b"\n".join(lines) + b"\n", before) if lines else before
