"""The sink that writes results as lines of bytes: to a client, a file, a pipe."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from penstock.element import FAILED, Element, Step
from penstock.errors import ReaderGone
from penstock.operators import encode
from penstock.scope import Scope
from penstock.sinks.records import Form, Ndjson
from penstock.sinks.sink import Sink


class Lines(Sink):
    """Writes many results at a time with one writer task, and settles them after the write that holds them.

    `write` takes bytes and returns when it can take more; that is how a slow reader slows the source. When the
    reader is gone it raises `ReaderGone` or a `ConnectionError`, and the run ends as `disconnected`.
    """

    def __init__(self, write: Callable[[bytes], Awaitable[object]], form: Form | None = None) -> None:
        super().__init__()
        self._write = write
        self._form = form or Ndjson()
        self._waiting: list[Element[Any]] = []
        self._arrived: asyncio.Future[None] | None = None
        self._ended = False
        self.writing = False
        """True while a write has not returned: the reader is what the run waits for."""

    def prepare(self, *, ordered: bool) -> Step[Any, Any]:
        return encode(self._form.success, None if ordered else self._form.successes)

    def open(self, scope: Scope) -> None:
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
                    raise ReaderGone from error
                self.writing = False
                ledger.accept(elements)
            if self._ended:
                self.finish()
                return
            self._arrived = self.scope.loop.create_future()
            await self._arrived

    def _wake(self) -> None:
        if self._arrived is not None and not self._arrived.done():
            self._arrived.set_result(None)
