"""The sink that writes results as lines of bytes: to a client, a file, a pipe."""

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


class LineWriter(ResultConsumer):
    """Writes many results at a time with one writer task, and settles them after the write that holds them.

    `write` takes bytes and returns when it can take more; that is how a slow reader slows the source. When the
    reader is gone it raises `ReaderDisconnected` or a `ConnectionError`, and the run ends as `disconnected`.
    """

    def __init__(self, write: Callable[[bytes], Awaitable[object]], form: RecordFormat | None = None) -> None:
        super().__init__()
        self._write = write
        self._form = form or NdjsonFormat()
        self._waiting: list[Element[Any]] = []
        self._arrived: asyncio.Future[None] | None = None
        self._ended = False
        self.writing = False
        """True while a write has not returned: the reader is what the run waits for."""

    def final_operator(self, *, ordered: bool) -> Operator[Any, Any]:
        return encode(self._form.success, None if ordered else self._form.encode_successes)

    def open(self, scope: RunContext) -> None:
        super().open(scope)
        scope.spawn(self._write_all(), "writer")

    def on_next(self, value: list[Element[Any]]) -> None:
        self._waiting += value
        self._wake()

    def on_completed(self) -> None:
        self._ended = True
        self._wake()

    async def _write_all(self) -> None:
        form, ledger = self._form, self.scope.ledger
        while True:
            while elements := self._waiting:
                self._waiting = []
                lines = [form.failure(one) if one.outcome is FAILED else one.value for one in elements]
                self.writing = True
                try:
                    await self._write(b"".join(lines))
                except ConnectionError as error:  # what sockets and aiohttp say of a reader that is gone
                    raise ReaderDisconnected from error
                self.writing = False
                ledger.settle_accepted(elements)
            if self._ended:
                self.complete()
                return
            self._arrived = self.scope.loop.create_future()
            await self._arrived

    def _wake(self) -> None:
        if self._arrived is not None and not self._arrived.done():
            self._arrived.set_result(None)


def encode(
    write: Callable[[Element[Any]], bytes],
    write_all: Callable[[list[Element[Any]]], bytes] | None = None,
    *,
    name: str = "encode",
) -> Operator[Any, bytes]:
    """Replace each value by the bytes that `write` makes of its element.

    It is a step, and not the sink's affair, so that a value which cannot be written fails like any other element.

    With `write_all`, which writes several in one go for less, the first of the elements that travel together gets the
    bytes of all of them and the others none. That is for sinks which write them in the order in which they come.

    **Takes in** elements. **Holds back** never. **Gives out** each element with its bytes; one that cannot be written,
    such as one with a NaN in it, goes on as failed: `EncodingFailed`. **Ends** when its input does.
    """

    def one_by_one(elements: list[Element[Any]]) -> None:
        for element in elements:
            try:
                element.value = write(element)
            except Exception as error:
                refusal = EncodingFailed(f"the value cannot be written as JSON: {describe(error)}")
                refusal.__cause__ = error
                element.fail(name, refusal)

    def work(elements: list[Element[Any]]) -> None:
        live = [element for element in elements if element.outcome is None or element.outcome is OK]
        if write_all is None or not live:
            one_by_one(live)
            return
        try:
            written = write_all(live)
        except Exception:  # one of them cannot be written; which one, the slow way finds out
            one_by_one(live)
            return
        for element in live:
            element.value = b""
        live[0].value = written

    return sync_operator(name, work)
