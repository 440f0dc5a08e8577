"""Has letters written by a process of its own, so that this one's interpreter is the event loop's alone."""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import structlog
from msgspec import msgpack

from penstock.deadletters.child import Child
from penstock.deadletters.committer import Tell
from penstock.deadletters.rows import Columns
from penstock.deadletters.wire import Answer, Opening, Refusal, Request, error_of, framed
from penstock.deadletters.writer import Numbers, Place
from penstock.errors import StoreError, WriterEnded, WriterNotStarted, describe

log: structlog.stdlib.BoundLogger = structlog.get_logger()

ANSWER_SECONDS = 60.0
"""That the process has to start, or for a piece of work, beside the patience with others who write. Then it is killed:
a disk that hangs may answer the next one, and what is stored already is not stored twice."""

_decoder: msgpack.Decoder[Any] = msgpack.Decoder(Answer | Refusal)


class Apart:
    """Works in a process, and starts another one for the next piece of work when that has ended.

    The event loop speaks with it directly, without a thread in between.
    """

    def __init__(self, place: Place, numbers: Numbers | None = None) -> None:
        self.numbers = numbers or Numbers()
        self._place = place
        self._child: Child | None = None
        self._opened = False
        """Whether the process at hand has opened the database."""
        self._refusal: Exception | None = None
        """Why it ends."""
        self._tell: Tell | None = None
        self._writes = False

    @property
    def patience(self) -> float:
        """What is to be done takes no longer, unless the disk hangs."""
        return self._place.patience

    def pack(self, columns: Columns) -> bytes:
        """The letters of one caller as a frame."""
        return framed(columns)

    async def open(self) -> None:
        """Start the process and have it open the database."""
        opened: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def tell(outcome: object) -> None:
            if opened.done():
                return
            if isinstance(outcome, Exception):
                opened.set_exception(outcome)
            else:
                opened.set_result(None)

        self.work([], look_again=False, tell=tell)
        await opened

    def work(self, loads: list[bytes], *, look_again: bool, tell: Tell) -> None:
        """Send a piece of work, to a new process if there is none."""
        self._tell, self._writes = tell, bool(loads)
        request = b"".join([framed(Request(len(loads), look_again)), *loads])
        if self._child is not None:
            self._child.send(request)
            return
        try:
            self._child = self._start()
        except Exception as error:  # whatever keeps it from starting is told those who wait
            reason = getattr(error, "strerror", None) or describe(error)
            reason = f"{reason} ({sys.executable}); look at the limits of processes, files and memory"
            asyncio.get_running_loop().call_soon(self._told, WriterNotStarted(self._place.url, reason))
        else:
            self._child.send(framed(Opening(self._place, self.numbers)) + request)

    async def aclose(self) -> None:
        """Have the process close the database, and wait for its end."""
        if self._child is not None:
            await self._child.aclose(self._place.patience)
        refusal, self._refusal = self._refusal, None
        if refusal is not None:
            raise refusal

    def abandon(self) -> None:
        """End the process."""
        if self._child is not None:
            self._child.kill()

    def let_go(self) -> None:
        """Have the process finish what it does, and wait for its end."""
        child, self._child = self._child, None
        if child is not None:
            child.let_go()

    def _start(self) -> Child:
        self._opened, self._refusal = False, None
        seconds = self._answer_seconds
        return Child(self._place.url, seconds=seconds, on_message=self._on_message, on_end=self._on_end)

    @property
    def _answer_seconds(self) -> float:
        return ANSWER_SECONDS + self._place.patience

    def _on_message(self, data: bytes) -> bool:
        message = _decoder.decode(data)
        if isinstance(message, Refusal):
            self._refusal = error_of(message.fault)  # told when the process has ended, which it does now
            return True
        self.numbers = message.numbers
        if not self._opened:
            self._opened = True
            return True
        self._told([None if fault is None else error_of(fault) for fault in message.faults])
        return False

    def _on_end(self, code: int) -> None:
        late = self._child is not None and self._child.late
        self._child = None
        if self._tell is None and (code == 0 or self._refusal is not None):
            return  # it left because it was to
        error, self._refusal = self._refusal or self._ended(code, late=late), None
        self._told(error)

    def _ended(self, code: int, *, late: bool) -> StoreError:
        if late:
            how, why = f"it did not answer for {self._answer_seconds:g} s and was killed", "is the disk well?"
        else:
            how, why = f"signal {-code}" if code < 0 else f"exit code {code}", "standard error says why"
        self.numbers.restarts += 1
        log.warning("store.writer_crashed", dead_letters=self._place.url, how=how)
        if self._opened:
            return WriterEnded(self._place.url, how)
        return WriterNotStarted(self._place.url, f"it ended before it was ready ({how}); {why}")

    def _told(self, outcome: list[Exception | None] | Exception) -> None:
        tell, self._tell = self._tell, None
        if tell is None:
            return
        if isinstance(outcome, Exception):
            self.numbers.failures += self._writes
        tell(outcome)
