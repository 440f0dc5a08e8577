"""Merges what many callers store at once into few durable commits, one after the other in a thread."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from penstock.deadletters.insert import GROUP
from penstock.deadletters.rows import Columns
from penstock.deadletters.writer import Writer
from penstock.errors import StoreError


@dataclass(slots=True, eq=False)
class Wish:
    """The letters of one caller, how many they are, and the future that it waits for."""

    columns: Columns
    count: int
    done: asyncio.Future[None]


class Committer:
    """Has a writer store what callers wish. What they wish during one commit makes the next one.

    A commit is one hop to the thread and one back, and callers hear of it in the next turn of the event loop: a task
    here, or a second hop, would cost one more turn of a busy loop each.
    """

    def __init__(self, writer: Writer, explain: Callable[[Exception], StoreError]) -> None:
        self._writer = writer
        self._explain = explain
        self._wishes: deque[Wish] = deque()
        self._look_again = False
        self._busy = False
        self._idle = asyncio.Event()
        self._thread: ThreadPoolExecutor | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    async def open(self, url: str, *, create: bool) -> None:
        """Start the thread and open the file in it."""
        self._loop = asyncio.get_running_loop()
        self._thread = ThreadPoolExecutor(1, "dead letters")
        await self._loop.run_in_executor(self._thread, lambda: self._writer.open(url, create=create))

    def store(self, columns: Columns, count: int) -> asyncio.Future[None]:
        """Store letters, all or none. The commit goes on when the caller is cancelled."""
        assert self._loop is not None
        done = self._loop.create_future()
        if count:
            self._wishes.append(Wish(columns, count, done))
            self._begin()
        else:
            done.set_result(None)
        return done

    def look_again(self) -> None:
        """Count again soon, if another process has changed the database."""
        self._look_again = True
        self._begin()

    async def aclose(self) -> None:
        """Finish what was asked for, then close the file and end the thread."""
        thread, loop = self._thread, self._loop
        if thread is None or loop is None:
            return
        while self._busy:
            self._idle.clear()
            await self._idle.wait()
        self._thread = None
        try:
            await loop.run_in_executor(thread, self._writer.close)
        finally:
            thread.shutdown(wait=False)

    def _begin(self) -> None:
        if self._busy or self._thread is None:
            return
        if not self._wishes and not self._look_again:
            self._idle.set()
            return
        self._busy = True
        look_again, self._look_again = self._look_again, False
        self._thread.submit(self._work, self._next_group(), look_again)

    def _next_group(self) -> list[Wish]:
        group: list[Wish] = []
        size = 0
        while self._wishes and (not group or size + self._wishes[0].count <= GROUP):
            size += self._wishes[0].count
            group.append(self._wishes.popleft())
        return group

    def _work(self, group: list[Wish], look_again: bool) -> None:
        """In the thread: look, write, and tell the event loop."""
        if look_again:
            self._writer.refresh()
        errors = self._writer.write([wish.columns for wish in group]) if group else []
        with contextlib.suppress(RuntimeError):  # the event loop was closed, and with it whoever waited
            assert self._loop is not None
            self._loop.call_soon_threadsafe(self._end, group, errors)

    def _end(self, group: list[Wish], errors: list[Exception | None]) -> None:
        self._busy = False
        for wish, error in zip(group, errors, strict=True):
            if wish.done.done():
                continue
            if error is None:
                wish.done.set_result(None)
            else:
                wish.done.set_exception(self._explain(error))
        self._begin()
