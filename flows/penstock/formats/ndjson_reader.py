"""Split chunks of bytes into lines, with a limit on their length."""

from __future__ import annotations

from collections.abc import Callable
from itertools import filterfalse
from typing import Any, Protocol

from penstock.formats.rejected import OversizedInput

LINE_LIMIT = 1024 * 1024
"""Default maximum of bytes in one line."""

BOM = b"\xef\xbb\xbf"

_is_blank: Callable[[Any], bool] = bytes.isspace


class Splitter(Protocol):
    """Splits chunks of bytes into lines."""

    def feed(self, chunk: bytes) -> list[bytes]: ...

    def finish(self) -> list[bytes]: ...


class LineSplitter:
    """Splits chunks into lines. Copies only the parts of a line that spans chunks.

    Accepts `\\n` and `\\r\\n`, skips blank lines and a byte order mark at the start, and returns a last line without
    newline at the end. A line over the limit becomes an `OversizedInput`: its first bytes and its length.
    """

    def __init__(self, limit: int = LINE_LIMIT) -> None:
        if limit < 1:
            raise ValueError(f"limit: expected at least 1 byte for a line, got {limit!r}")
        self._limit = limit
        self._buffered = bytearray()
        self._skipped = 0
        self._blank = True  # whether all skipped bytes were whitespace
        self._return = False
        self._started = False

    def feed(self, chunk: bytes) -> list[bytes]:
        """Return the lines that a chunk completes."""
        if b"\n" not in chunk:
            self._buffer(chunk)
            return []
        if chunk.isspace():  # only blank lines, of which a small compressed body may contain gigabytes: keep one
            start, _, rest = chunk.partition(b"\n")
            chunk = b"%b\n%b" % (start, rest.rpartition(b"\n")[2])
        first, *lines = chunk.split(b"\n")
        self._buffer(first)
        last = lines.pop()
        lines.insert(0, self._take_line())
        self._buffer(last)
        return self._clean(lines, chunk)

    def finish(self) -> list[bytes]:
        """Return the last line, if the input did not end with a newline."""
        return self._clean([line := self._take_line()], line)

    def _buffer(self, chunk: bytes) -> None:
        room = self._limit + 2 - len(self._buffered)  # two more: a \r, and one byte that shows it is too long
        if not self._started:
            room += len(BOM)
        self._buffered += chunk[:room]
        if len(chunk) > room:
            self._skipped += len(chunk) - room
            self._blank = self._blank and chunk[room:].isspace()
            self._return = chunk.endswith(b"\r")

    def _take_line(self) -> bytes:
        line = bytes(self._buffered)
        self._buffered.clear()
        if not self._started:
            self._started = True
            line = line.removeprefix(BOM)
        if self._skipped:
            blank = self._blank and line.isspace()
            line = b"" if blank else self._shorten(line, len(line) + self._skipped - self._return)
            self._skipped, self._blank = 0, True
        return line

    def _clean(self, lines: list[bytes], chunk: bytes) -> list[bytes]:
        """Remove `\\r` and blank lines, and shorten long lines. All work per line is done in C."""
        if b"\r" in chunk or lines[0].endswith(b"\r"):
            lines = [line if isinstance(line, OversizedInput) else line.removesuffix(b"\r") for line in lines]
        first = lines[0]
        lines = list(filter(None, filterfalse(_is_blank, lines)))
        if isinstance(first, OversizedInput) and first.isspace():  # only its beginning is blank
            lines.insert(0, first)
        limit = self._limit
        if lines and max(map(len, lines)) > limit:
            lines = [line if len(line) <= limit else self._shorten(line, len(line)) for line in lines]
        return lines

    def _shorten(self, line: bytes, length: int) -> OversizedInput:
        return OversizedInput.of(line, length, self._limit)
