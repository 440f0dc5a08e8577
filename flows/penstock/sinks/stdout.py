"""Sinks without a file: standard output, and one that discards values."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from penstock.errors import ReaderDisconnected, SinkWriteFailed
from penstock.formats.format import Format, named_format
from penstock.formats.writers import Writer, check_fields, make_writer
from penstock.sinks.local import LocalSink
from penstock.sinks.sibling_stdout import StdoutTurn
from penstock.sinks.siblings import current_siblings
from penstock.support.text import bytes_for_terminal
from penstock.support.used_files import UsedFile

PIPE_CHUNK = 4096
"""Bytes that a ready pipe accepts without blocking the writer (PIPE_BUF of POSIX, on Linux)."""

CLOSE_TIMEOUT = 1.0
"""Seconds to write the rest of a line when the sink is closed."""


@dataclass(unsafe_hash=True, init=False)
class StdoutSink(LocalSink):
    """Writes values to standard output as `ndjson` or `csv`. A slow reader causes backpressure.

    If a write is cancelled within a line, the rest of the line is written before anything else. Raises
    `ReaderDisconnected` when the reader has closed the pipe. The processes of one service write in turns; `csv` then
    needs `fields`.
    """

    format: Format
    fields: tuple[str, ...] | None
    descriptor: int
    name: str = field(compare=False)
    _writer: Writer = field(repr=False, compare=False)
    _unfinished: bytes = field(repr=False, compare=False)
    _turn: StdoutTurn = field(repr=False, compare=False)

    def __init__(
        self, format: Format | str = Format.NDJSON, *, fields: Sequence[str] | None = None, descriptor: int = 1
    ) -> None:
        self.format = named_format(format)
        self.fields = check_fields(self.format, fields)
        self.descriptor = descriptor
        self.name = ""
        self._writer = make_writer(self.format, self.fields)
        self._unfinished = b""
        self._turn = StdoutTurn()

    def used_files(self) -> Iterable[UsedFile]:
        return (UsedFile("standard output", self.descriptor),)

    def check(self, *, locks: bool) -> None:  # noqa: ARG002 - there is none
        """Raise `SinkWriteFailed` for CSV without columns from several processes, whose columns could differ."""
        if self.format is Format.CSV and self.fields is None and current_siblings() is not None:
            raise SinkWriteFailed(
                "standard output", "several processes write CSV to it, and its columns are unknown; set fields"
            )

    async def open(self) -> None:
        """Do nothing: the descriptor is open."""

    async def write(self, values: Sequence[Any]) -> Sequence[Exception | None] | None:
        """Write values. Return the errors of those that cannot be written."""
        try:
            if await self._turn.begin():
                self._unfinished = b"\n"  # ends the line of a process that was killed
            await self._finish_line()
            return await self._write(values)
        finally:
            if not self._unfinished:  # otherwise a sibling would write within the line
                self._turn.end()

    async def _write(self, values: Sequence[Any]) -> Sequence[Exception | None] | None:
        if self._turn.header_written:
            self._writer = make_writer(self.format, self.fields, header=False)
        data, errors = self._writer.write(values)
        if os.isatty(self.descriptor):
            data = bytes_for_terminal(data)
        start = row = 0
        try:
            while start < len(data):
                end = data.rfind(b"\n", start, start + PIPE_CHUNK) + 1 or start + PIPE_CHUNK
                if data[end - 1 : end] != b"\n":
                    self._turn.note_line(is_open=True)
                start += await send(self.descriptor, data[start:end])
                while row < start:
                    row = self._end_of_row(data, row)
                self._unfinished = data[start:row]
                self._turn.note_line(is_open=bool(self._unfinished))
        except BrokenPipeError:
            raise ReaderDisconnected from None
        self._unfinished = b""
        if data and self.format is Format.CSV:
            self._turn.note_header()
        return errors

    async def aclose(self) -> None:
        """Write the rest of a line whose write was cancelled, if the reader reads it soon."""
        try:
            async with asyncio.timeout(CLOSE_TIMEOUT):
                await self._finish_line()
        except (TimeoutError, ReaderDisconnected):
            self._unfinished = b""
        finally:
            self._turn.end()

    def _end_of_row(self, data: bytes, start: int) -> int:
        """Return the position after the row that starts at `start`. In CSV, newlines inside quotes do not end a row."""
        end, quotes = start, 0
        while True:
            before, end = end, data.find(b"\n", end) + 1
            if self.format is not Format.CSV:
                return end
            quotes += data.count(b'"', before, end)
            if quotes % 2 == 0:
                return end

    async def _finish_line(self) -> None:
        try:
            while self._unfinished:
                self._unfinished = self._unfinished[await send(self.descriptor, self._unfinished[:PIPE_CHUNK]) :]
                self._turn.note_line(is_open=bool(self._unfinished))
        except BrokenPipeError:
            raise ReaderDisconnected from None


@dataclass(unsafe_hash=True)
class DiscardSink:
    """Accepts all values and discards them."""

    name: str = field(default="", compare=False)

    async def open(self) -> None:
        """Do nothing."""

    async def write(self, values: Sequence[Any]) -> None:
        """Discard values."""

    async def aclose(self) -> None:
        """Do nothing."""


async def send(descriptor: int, chunk: bytes) -> int:
    """Write when the descriptor is ready, at most what fits. Return the number of bytes written.

    A cancelled call writes nothing. (A non-blocking descriptor would work too, but the mode is shared with other users
    of the descriptor, such as the shell.)
    """
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    try:
        loop.add_writer(descriptor, ready.set)
    except (PermissionError, NotImplementedError):  # epoll does not support files, which are always ready
        return os.write(descriptor, chunk)
    try:
        await ready.wait()
    finally:
        loop.remove_writer(descriptor)
    return os.write(descriptor, chunk)
