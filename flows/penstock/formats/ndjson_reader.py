"""Split chunks of bytes into lines, with a limit on their length."""

from __future__ import annotations

from collections.abc import Callable
from itertools import filterfalse
from typing import Any, Protocol

from penstock.formats.rejected import OversizedInput

LINE_LIMIT = 1024 * 1024
"""Bytes that one line may have unless told otherwise."""


BOM = b"\xef\xbb\xbf"


_is_blank: Callable[[Any], bool] = bytes.isspace


class Splitter(Protocol):
    """What makes lines of chunks."""

    def feed(self, chunk: bytes) -> list[bytes]: ...

    def finish(self) -> list[bytes]: ...


class LineSplitter:
    """Splits chunks into lines without copying more than the piece between two chunks.

    Knows `\\n` and `\\r\\n`, passes over blank lines and a byte order mark at the start, and gives a last line
    without newline at the end. A line over the limit comes out as a `OversizedInput`: its first bytes and its length.
    """

    def __init__(self, limit: int = LINE_LIMIT) -> None:
        if limit < 1:
            raise ValueError(f"a line needs at least 1 byte, got limit {limit!r}")
        self._limit = limit
        self._rest = bytearray()
        self._skipped = 0
        self._blank = True  # so far, all that was skipped
        self._return = False
        self._started = False

    def feed(self, chunk: bytes) -> list[bytes]:
        """The lines that a chunk completes."""
        if b"\n" not in chunk:
            self._keep(chunk)
            return []
        if chunk.isspace():  # of blank lines alone, which a small compressed body has gigabytes of: one will do
            start, _, rest = chunk.partition(b"\n")
            chunk = b"%b\n%b" % (start, rest.rpartition(b"\n")[2])
        first, *lines = chunk.split(b"\n")
        self._keep(first)
        last = lines.pop()
        lines.insert(0, self._take())
        self._keep(last)
        return self._clean(lines, chunk)

    def finish(self) -> list[bytes]:
        """The last line, if the input did not end with a newline."""
        return self._clean([line := self._take()], line)

    def _keep(self, piece: bytes) -> None:
        room = self._limit + 2 - len(self._rest)  # two more: a \r, and one to know that it is too long
        if not self._started:
            room += len(BOM)
        self._rest += piece[:room]
        if len(piece) > room:
            self._skipped += len(piece) - room
            self._blank = self._blank and piece[room:].isspace()
            self._return = piece.endswith(b"\r")

    def _take(self) -> bytes:
        line = bytes(self._rest)
        self._rest.clear()
        if not self._started:
            self._started = True
            line = line.removeprefix(BOM)
        if self._skipped:
            blank = self._blank and line.isspace()
            line = b"" if blank else self._shorten(line, len(line) + self._skipped - self._return)
            self._skipped, self._blank = 0, True
        return line

    def _clean(self, lines: list[bytes], chunk: bytes) -> list[bytes]:
        """Lines without `\\r`, blank ones left out, long ones shortened. What is done for each line is done in C."""
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
