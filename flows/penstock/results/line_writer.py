"""Write results as records of bytes: to a client, a file or a pipe."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from penstock.core.context import RunContext
from penstock.core.element import FAILED, OK, Element, Operator
from penstock.core.operators import sync_operator
from penstock.errors import EncodingFailed, ReaderDisconnected, describe
from penstock.results.consumer import ResultConsumer
from penstock.results.records import NdjsonFormat, RecordFormat

WRITE_INTERVAL = 0.001
"""Seconds between two writes of few results. Many are written at once, and so are the first and the last ones."""

FEW = 8
"""Results are few if they are less than the 8th part of the elements in flight."""


class LineWriter(ResultConsumer):
    """Writes results in groups, in one task, and settles them after their write.

    A write of few results wakes the client and returns few credits, with which the source emits few elements, whose
    results are few again. So few results wait until more have arrived, or until `WRITE_INTERVAL` after the last write.

    `write` returns when more can be written, so a slow reader slows the source. It raises `ReaderDisconnected` or a
    `ConnectionError` when the reader has disconnected; the run then ends as `disconnected`.
    """

    def __init__(self, write: Callable[[bytes], Awaitable[object]], form: RecordFormat | None = None) -> None:
        super().__init__()
        self._write = write
        self._form = form or NdjsonFormat()
        self._waiting: list[Element[Any]] = []
        self._comment = b""
        self._arrived: asyncio.Future[None] | None = None
        self._ended = False
        self._timer: asyncio.TimerHandle | None = None
        """Wakes the task at the next time when few results may be written."""
        self._last_write = float("-inf")
        self.writing = False
        """True during a write: the run waits for the reader."""

    def final_operator(self, *, ordered: bool) -> Operator[Any, Any]:
        return encode(self._form.success, None if ordered else self._form.encode_successes)

    def open(self, context: RunContext) -> None:
        super().open(context)
        context.spawn(self._write_all(), "writer")

    def on_next(self, value: list[Element[Any]]) -> None:
        self._waiting += value
        loop, due = self.context.loop, self._last_write + WRITE_INTERVAL
        if len(self._waiting) * FEW >= self.context.ledger.in_flight or loop.time() >= due:
            self._wake()
        elif self._timer is None:
            self._timer = loop.call_at(due, self._wake)

    def on_completed(self) -> None:
        self._ended = True
        self._wake()

    def write_comment(self, text: str) -> None:
        """Write a comment between two records, if the format has comments and the reader accepts more."""
        if not self.writing and (comment := self._form.comment(text)):
            self._comment = comment
            self._wake()

    def close(self) -> None:
        self._cancel_timer()

    async def _write_all(self) -> None:
        form, ledger = self._form, self.context.ledger
        while True:
            while self._waiting or self._comment:
                elements, self._waiting = self._waiting, []
                lines = [form.failure(element) if element.outcome is FAILED else element.value for element in elements]
                if self._comment:
                    lines.append(self._comment)
                    self._comment = b""
                self.writing = True
                try:
                    await self._write(b"".join(lines))
                except ConnectionError as error:  # sockets and aiohttp raise this for a reader that has disconnected
                    raise ReaderDisconnected from error
                self.writing = False
                self._last_write = self.context.loop.time()
                ledger.settle_accepted(elements)
            if self._ended:
                self.complete()
                return
            self._arrived = self.context.loop.create_future()
            await self._arrived

    def _wake(self) -> None:
        self._cancel_timer()
        if self._arrived is not None and not self._arrived.done():
            self._arrived.set_result(None)

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def encode(
    write: Callable[[Element[Any]], bytes],
    write_all: Callable[[list[Element[Any]]], bytes] | None = None,
    *,
    name: str = "encode",
) -> Operator[Any, bytes]:
    """Replace each value by the bytes that `write` returns for its element.

    This is an operator, and not a part of the consumer, so that an element whose value cannot be encoded fails like any
    other element.

    `write_all` encodes a group of elements faster: the first element of the group gets the bytes of all, the others get
    none. Use it only for consumers that write the elements in the order in which they receive them.

    **Accepts** elements. **Backpressures when** never. **Emits** each element with its bytes; an element whose value
    cannot be encoded, such as one with a NaN, as failed: `EncodingFailed`. **Completes when** its input completes.
    """

    def encode_each(elements: list[Element[Any]]) -> None:
        for element in elements:
            try:
                element.value = write(element)
            except Exception as error:
                failure = EncodingFailed(f"the value cannot be written as JSON: {describe(error)}")
                failure.__cause__ = error
                element.fail(name, failure)

    def encode_group(elements: list[Element[Any]]) -> None:
        live = [element for element in elements if element.outcome is None or element.outcome is OK]
        if write_all is None or not live:
            encode_each(live)
            return
        try:
            written = write_all(live)
        except Exception:  # one value cannot be encoded; encode each alone to find it
            encode_each(live)
            return
        for element in live:
            element.value = b""
        live[0].value = written

    return sync_operator(name, encode_group)
