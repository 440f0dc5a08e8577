"""NDJSON: one element a line, split from whole chunks of bytes.

The lines go out as they came, as bytes: reading them as JSON is the first step of the flow (`decode`), so that a line
which is no JSON fails like any other element, with its bytes kept.
"""

from __future__ import annotations

from collections.abc import AsyncIterable

from penstock.sources.source import EXCERPT, Intake, Source

LINE_LIMIT = 1024 * 1024
"""Bytes that one line may have unless told otherwise."""

BOM = b"\xef\xbb\xbf"


class LongLine(bytes):
    """The beginning of a line that was over the limit; the rest was passed over."""

    length: int
    limit: int


class LineSplitter:
    """Splits chunks into lines without copying more than the piece between two chunks.

    Knows `\\n` and `\\r\\n`, passes over blank lines and a byte order mark at the start, and gives a last line
    without newline at the end. A line over the limit comes out as a `LongLine`: its first bytes and its length.
    """

    def __init__(self, limit: int = LINE_LIMIT) -> None:
        if limit < 1:
            raise ValueError(f"a line needs at least 1 byte, got limit {limit!r}")
        self._limit = limit
        self._rest = bytearray()
        self._skipped = 0
        self._started = False

    def feed(self, chunk: bytes) -> list[bytes]:
        """The lines that a chunk completes."""
        if b"\n" not in chunk:
            self._keep(chunk)
            return []
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
        self._rest += piece[:room]
        self._skipped += max(0, len(piece) - room)

    def _take(self) -> bytes:
        line = bytes(self._rest)
        self._rest.clear()
        if not self._started:
            self._started = True
            line = line.removeprefix(BOM)
        if self._skipped:
            line, self._skipped = self._shorten(line, len(line) + self._skipped), 0
        return line

    def _clean(self, lines: list[bytes], chunk: bytes) -> list[bytes]:
        if b"\r" in chunk or lines[0].endswith(b"\r"):
            lines = [line if isinstance(line, LongLine) else line.removesuffix(b"\r") for line in lines]
        limit = self._limit
        return [
            line if len(line) <= limit else self._shorten(line, len(line))
            for line in lines
            if line and not line.isspace()
        ]

    def _shorten(self, line: bytes, length: int) -> LongLine:
        excerpt = LongLine(line[: min(EXCERPT, self._limit)])
        excerpt.length, excerpt.limit = length, self._limit
        return excerpt


class Ndjson(Source[bytes]):
    """The lines of a stream of chunks; reads one chunk ahead at most."""

    name = "ndjson"

    def __init__(self, chunks: AsyncIterable[bytes], limit: int) -> None:
        super().__init__()
        self._chunks = chunks
        self._limit = limit

    async def produce(self, intake: Intake[bytes]) -> None:
        splitter = LineSplitter(self._limit)
        async for chunk in self._chunks:
            if lines := splitter.feed(chunk):
                await intake.send(lines, [len(line) for line in lines])
            await intake.room()
        if lines := splitter.finish():
            await intake.send(lines, [len(line) for line in lines])


def ndjson(chunks: AsyncIterable[bytes], *, limit: int = LINE_LIMIT) -> Source[bytes]:
    """A source of lines of JSON from an async iterable of chunks of bytes. `limit` is the bytes a line may have."""
    return Ndjson(chunks, limit)
