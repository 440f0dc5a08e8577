"""Standard output as an outlet: whole lines only, at the pace of who reads them."""

from __future__ import annotations

import asyncio
import csv
import io
import json
import os
from pathlib import Path
from typing import Any

import pytest

from flows.test_files import SECONDS
from flows.test_outlets import VALUES, put
from penstock.errors import ReaderDisconnected
from penstock.sinks import StdoutSink


def piped(work: Any) -> tuple[Any, bytes]:
    """What a coroutine function that is given a pipe returns, and what it has written by its end."""
    reader, writer = os.pipe()
    os.set_inheritable(writer, False)

    async def main() -> Any:
        async with asyncio.timeout(SECONDS):
            return await work(writer, reader)

    try:
        result = asyncio.run(main())
    finally:
        os.close(writer)
    with os.fdopen(reader, "rb") as file:
        return result, file.read()


def test_standard_output_gets_a_line_a_value() -> None:
    """As NDJSON, or as CSV with a header."""

    async def main(writer: int, _: int) -> None:
        await put(StdoutSink(descriptor=writer), [{"a": 1}, 2])
        await put(StdoutSink("csv", descriptor=writer), [{"a": 1}], [{"a": 2}])

    assert piped(main)[1] == b'{"a":1}\n2\na\r\n1\r\n2\r\n'


def test_a_slow_reader_holds_the_write_back_and_a_cancel_leaves_no_half_of_a_line() -> None:
    """The loop goes on meanwhile; the line that the cancel struck is finished before the next write."""
    values = [str(number) * 9000 for number in range(10)] * 20

    async def main(writer: int, reader: int) -> bytes:
        outlet = StdoutSink(descriptor=writer)
        task = asyncio.ensure_future(outlet.write(values))
        while not full(writer):
            await asyncio.sleep(0)
        assert not task.done()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        taken = os.read(reader, 1 << 20)
        await outlet.write(["next"])
        await outlet.aclose()
        return taken

    taken, rest = piped(main)
    lines = (taken + rest).splitlines()
    assert [json.loads(line) for line in lines] == [*values[: len(lines) - 1], "next"]


def test_a_cancel_leaves_no_half_of_a_row_whose_cells_have_lines() -> None:
    """A newline inside of quotes ends no row."""
    cell = "a" * 100_000 + "\n" + "b" * 10_000

    async def main(writer: int, reader: int) -> bytes:
        outlet = StdoutSink("csv", descriptor=writer)
        task = asyncio.ensure_future(outlet.write([{"text": cell, "id": "1"}]))
        while not full(writer):
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        taken = bytearray()
        following = asyncio.ensure_future(outlet.write([{"text": "next", "id": "2"}]))
        while not following.done():
            taken += os.read(reader, 1 << 20)
            await asyncio.sleep(0.001)
        return bytes(taken)

    taken, rest = piped(main)
    rows = list(csv.reader(io.StringIO((taken + rest).decode(), newline="")))
    assert rows == [["text", "id"], [cell, "1"], ["next", "2"]]


def full(writer: int) -> bool:
    """Whether a pipe has no room."""
    import select

    return not select.select([], [writer], [], 0)[1]


def test_a_reader_that_is_gone_is_said_to_be_gone() -> None:
    """It is nobody's failure: the values are not refused, the run is to end."""
    reader, writer = os.pipe()
    os.close(reader)
    with pytest.raises(ReaderDisconnected):
        asyncio.run(put(StdoutSink(descriptor=writer), [1]))
    os.close(writer)


def test_standard_output_may_be_a_file(tmp_path: Path) -> None:
    """Redirected, that is."""
    with (tmp_path / "out").open("wb") as file:
        asyncio.run(put(StdoutSink(descriptor=file.fileno()), VALUES))

    assert [json.loads(line) for line in (tmp_path / "out").read_bytes().splitlines()] == VALUES
