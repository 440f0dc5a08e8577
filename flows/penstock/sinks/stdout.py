"""Outlets without a file: standard output, and nowhere."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from penstock.errors import ReaderDisconnected
from penstock.formats.format import Format, named_format
from penstock.formats.writers import Writer, check_fields, make_writer
from penstock.support.text import bytes_for_terminal

PIPE_CHUNK = 4096
"""Bytes that a pipe which is ready takes without making the writer wait (PIPE_BUF of POSIX, on Linux)."""

CLOSE_TIMEOUT = 1.0
"""Seconds that the rest of a line may take when the outlet is closed."""


@dataclass(unsafe_hash=True, init=False)
class StdoutSink:
    """Writes values to standard output as `ndjson` or `csv`; a slow reader holds the flow back.

    A write that is cancelled in the middle of a line is finished before anything else is written. When the reader is
    gone, `ReaderDisconnected` is raised.
    """

    format: Format
    fields: tuple[str, ...] | None
    descriptor: int
    name: str = field(compare=False)
    _writer: Writer = field(repr=False, compare=False)
    _rest: bytes = field(repr=False, compare=False)

    def __init__(
        self, format: Format | str = Format.NDJSON, *, fields: Sequence[str] | None = None, descriptor: int = 1
    ) -> None:
        self.format = named_format(format)
        self.fields = check_fields(self.format, fields)
        self.descriptor = descriptor
        self.name = ""
        self._writer = make_writer(self.format, self.fields)
        self._rest = b""

    async def open(self) -> None:
        """There is nothing to open."""

    async def write(self, values: Sequence[Any]) -> Sequence[Exception | None] | None:
        """Write values; returns for each that cannot be written why."""
        data, refusals = self._writer.write(values)
        if os.isatty(self.descriptor):
            data = bytes_for_terminal(data)
        await self._finish_line()
        start = row = 0
        try:
            while start < len(data):
                end = data.rfind(b"\n", start, start + PIPE_CHUNK) + 1 or start + PIPE_CHUNK
                start += await send(self.descriptor, data[start:end])
                while row < start:
                    row = self._end_of_row(data, row)
                self._rest = data[start:row]
        except BrokenPipeError:
            raise ReaderDisconnected from None
        self._rest = b""
        return refusals

    async def aclose(self) -> None:
        """Finish the line that a cancelled write was in the middle of, if the reader takes it soon."""
        try:
            async with asyncio.timeout(CLOSE_TIMEOUT):
                await self._finish_line()
        except (TimeoutError, ReaderDisconnected):
            self._rest = b""

    def _end_of_row(self, data: bytes, start: int) -> int:
        """The position behind the row that begins at `start`; in CSV a newline inside of quotes ends none."""
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
            while self._rest:
                self._rest = self._rest[await send(self.descriptor, self._rest[:PIPE_CHUNK]) :]
        except BrokenPipeError:
            raise ReaderDisconnected from None


@dataclass(unsafe_hash=True)
class DiscardSink:
    """Takes every value and keeps none."""

    name: str = field(default="", compare=False)

    async def open(self) -> None:
        """There is nothing to open."""

    async def write(self, values: Sequence[Any]) -> None:
        """Take values."""

    async def aclose(self) -> None:
        """There is nothing to close."""


async def send(descriptor: int, piece: bytes) -> int:
    """Write when there is room, and no more than fits; returns how much. A cancel writes nothing.

    (Making the descriptor non-blocking would do it to all who share it, such as the shell.)
    """
    loop = asyncio.get_running_loop()
    room = asyncio.Event()
    try:
        loop.add_writer(descriptor, room.set)
    except (PermissionError, NotImplementedError):  # epoll knows no files: those always have room
        return os.write(descriptor, piece)
    try:
        await room.wait()
    finally:
        loop.remove_writer(descriptor)
    return os.write(descriptor, piece)
