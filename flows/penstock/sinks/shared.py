"""The one way to an outlet, for all runs of the process.

It opens the outlet when the first value comes, lets one write through at a time, the runs in turn, and closes it when
no run uses it any more.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from penstock.core.context import CANCEL_SECONDS
from penstock.errors import (
    CallCancelled,
    CallTimeout,
    InvalidCallResult,
    OutletLocked,
    OutletStillLocked,
    OutletTaken,
    ReaderDisconnected,
    SinkUnavailable,
    describe,
)
from penstock.services import Backoff
from penstock.sinks.file import FileSink
from penstock.sinks.sink import Sink
from penstock.support.environment import shown
from penstock.support.logger import get_logger
from penstock.support.tasks import detach

log = get_logger()

BACKOFF = Backoff(first=0.1, cap=5.0)
"""How long values wait before an outlet that could not be opened is tried again."""

LOCK_POLL = 0.5
"""Seconds between two attempts to open an outlet that another process has locked; `flock` with a wait would keep a
thread that nothing can cancel."""

LOCK_SECONDS = 60.0
"""For so long a run waits for an outlet that another process has locked; then the run fails."""

LOCK_NOTICES = (0.0, 10.0, 60.0)
"""After so many seconds of such a wait the log tells of it,"""

LOCK_NOTICE_PERIOD = 300.0
"""and then every so many seconds."""

CANCEL_GRACE = 1.0
"""Seconds that a cancelled call of an outlet may take to end before it is given up."""


class SharedSink:
    """An outlet, and the runs that use it. `Valve.of(outlet)` gives the one of an outlet, `leave` it in the end."""

    def __init__(self, outlet: Sink, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.users = 0
        self.outlet = outlet
        self._turn = asyncio.Lock()
        self._opened = False
        self._failures = 0
        """How often in a row the outlet could not be opened."""
        self._error: Exception | None = None
        self._retry_at = 0.0
        self._locked_since: float | None = None
        """Since when all attempts found the outlet locked by another process."""
        self._call: asyncio.Task[Any] | None = None
        """The last call; one that was given up may be under way still, and then no other may begin."""
        self._leaving = False
        """Whether the outlet is to be closed when that one has ended."""
        self._chance = random.Random()  # noqa: S311 - jitter, no secret

    @staticmethod
    def of(outlet: Sink) -> SharedSink:
        """The valve of an outlet, for one more user."""
        loop = asyncio.get_running_loop()
        valve = _valve_of(outlet)
        if valve is None or valve.loop is not loop:
            if valve is not None:
                if valve.loop.is_running():
                    raise RuntimeError(
                        f"outlet {_display_name(outlet)} is in use by another event loop; give each loop its own"
                    )
                _OPEN_SINKS.pop(id(valve.outlet), None)
            valve = _OPEN_SINKS[id(outlet)] = SharedSink(outlet, loop)
        valve.users += 1
        return valve

    async def write(self, values: Sequence[Any], seconds: float) -> Sequence[Exception | None] | None:
        """Write values when it is their turn; returns what the outlet says about each, or what it raised, for all.

        `seconds` is the time that the outlet gets for one call. What no element is to blame for is raised: that the
        reader of standard output is gone (`ReaderDisconnected`), that another process kept the lock of the outlet for
        `LOCK_SECONDS` (`OutletStillLocked`), and that this process has it open with other settings (`OutletTaken`).
        """
        failures, arrived = self._failures, self.loop.time()
        try:
            async with self._turn:
                if not self._opened:
                    await self._open(failures, arrived, seconds)
                answers: Sequence[Exception | None] | None = await self._run_call(
                    lambda: self.outlet.write(values), seconds
                )
            if answers is not None and len(answers) != len(values):
                raise InvalidCallResult(
                    f"{_display_name(self.outlet)} has to answer with None or with one entry for each value"
                )
        except (ReaderDisconnected, OutletStillLocked, OutletTaken):
            raise  # a run has nothing to go on for without the reader of standard output, and cannot without the file
        except Exception as error:
            return [error] * len(values)
        return answers

    async def release(self) -> None:
        """One user less; after the last one the outlet is closed."""
        self.users -= 1
        if self.users:
            return
        try:
            async with asyncio.timeout(CANCEL_SECONDS), self._turn:
                if self._opened and not self.users:
                    await self._run_call(self._close_outlet, None)
        except Exception as error:
            reason = f"not within {CANCEL_SECONDS:g} s" if isinstance(error, TimeoutError) else describe(error)
            log.error("sink.close_failed", sink=_display_name(self.outlet), error=reason)
        self._forget()

    async def _open(self, failures: int, arrived: float, seconds: float) -> None:
        """Open the outlet; an attempt that failed while these values waited for their turn counts for them too."""
        if self._error is not None and self._failures > failures:
            raise SinkUnavailable(_display_name(self.outlet), self._error)
        if self._failures:
            await asyncio.sleep(self._retry_at - self.loop.time())
        try:
            await self._open_unlocked(arrived, seconds)
        except (OutletStillLocked, OutletTaken):
            raise
        except Exception as error:
            self._failures += 1
            wait = BACKOFF.seconds(self._failures, self._chance)
            self._error, self._retry_at = error, self.loop.time() + wait
            title, reason = _display_name(self.outlet), describe(error)
            log.warning("sink.open_failed", sink=title, error=reason, retry_in=round(wait, 3))
            raise SinkUnavailable(title, error) from error
        self._failures, self._error = 0, None

    async def _open_unlocked(self, arrived: float, seconds: float) -> None:
        """Open the outlet; while another process holds its lock, wait: that is no failure of the elements.

        The wait ends when the lock is free, when the run is cancelled, or `LOCK_SECONDS` after it began for the values
        that arrived then, also if others were before them: `OutletStillLocked` is raised.
        """
        notices = 0
        while True:
            try:
                await self._run_call(self._open_outlet, seconds)
            except OutletLocked as error:
                now = self.loop.time()
                if self._locked_since is None:
                    self._locked_since = now
                waited = now - max(arrived, self._locked_since)
                if waited >= LOCK_SECONDS:
                    raise OutletStillLocked(error.outlet, LOCK_SECONDS) from None
                if waited >= _notice_after(notices):
                    notices += 1
                    facts = {"waited": round(waited, 3), "gives_up_in": round(LOCK_SECONDS - waited, 3)}
                    log.warning("sink.waiting", sink=_display_name(self.outlet), reason=error.reason, **facts)
                await asyncio.sleep(min(LOCK_POLL, LOCK_SECONDS - waited))
            else:
                if notices:
                    waited = self.loop.time() - max(arrived, self._locked_since or arrived)
                    log.warning("sink.lock_acquired", sink=_display_name(self.outlet), waited=round(waited, 3))
                self._locked_since = None
                return

    async def _open_outlet(self) -> None:
        """The call itself tells that it is open: it may do so after everybody stopped waiting, or was cancelled."""
        if not self._opened:
            await self.outlet.open()
            self._opened = True

    async def _close_outlet(self) -> None:
        """Once it has begun it counts as closed, however it ends."""
        self._opened = False
        await self.outlet.aclose()

    def _forget(self) -> None:
        """Forget an outlet that nobody uses; not before a call that was given up has ended, and it is closed then."""
        if self.users:
            return
        if self._call is not None and not self._call.done():
            if not self._leaving:
                self._leaving = True
                self._call.add_done_callback(self._close_late)
        elif _OPEN_SINKS.get(id(self.outlet)) is self:
            del _OPEN_SINKS[id(self.outlet)]

    def _close_late(self, _: asyncio.Task[Any]) -> None:
        """The call that was given up has ended at last."""
        self._leaving = False
        if self._opened and not self.users:
            self._call = asyncio.create_task(self._close_outlet(), name=f"outlet:{_display_name(self.outlet)}")
            detach(self._call, self._tell_late)
        self._forget()

    def _tell_late(self, error: BaseException | None) -> None:
        if error is not None:
            log.error("sink.close_failed", sink=_display_name(self.outlet), error=describe(error))

    async def _run_call(self, begin: Callable[[], Coroutine[Any, Any, Any]], seconds: float | None) -> Any:
        """Make a call of the outlet; one that takes longer, or whose run is cancelled, is cancelled too."""
        if self._call is not None and not self._call.done():
            await asyncio.wait((self._call,), timeout=seconds)
            if not self._call.done():
                raise CallTimeout(_display_name(self.outlet), seconds or CANCEL_SECONDS)
        self._call = call = asyncio.create_task(begin(), name=f"outlet:{_display_name(self.outlet)}")
        detach(call)  # whoever waits for it may be cancelled, also in the very turn in which it ends
        late = False
        try:
            await asyncio.wait((call,), timeout=seconds)
        finally:
            if not call.done():
                late = True
                call.cancel()
                await asyncio.wait((call,), timeout=CANCEL_GRACE)
                if not call.done():
                    log.error("sink.call_not_cancelled", sink=_display_name(self.outlet), waited=CANCEL_GRACE)
        if not call.done() or (late and call.cancelled()):
            raise CallTimeout(_display_name(self.outlet), seconds or CANCEL_SECONDS)
        if call.cancelled():
            raise CallCancelled(_display_name(self.outlet))
        return call.result()


def _valve_of(outlet: Sink) -> SharedSink | None:
    """The valve in use for this outlet, or for one that is equal, or leads to the same file with the same settings."""
    known = _OPEN_SINKS.get(id(outlet)) or next((v for v in _OPEN_SINKS.values() if v.outlet == outlet), None)
    if known is None and isinstance(outlet, FileSink):
        for valve in _OPEN_SINKS.values():
            if isinstance(valve.outlet, FileSink) and outlet.shares(valve.outlet):
                return valve
    return known


def _notice_after(notices: int) -> float:
    """After how many seconds of a wait the log tells of it again, when it did so a number of times."""
    more = notices - len(LOCK_NOTICES)
    return LOCK_NOTICES[notices] if more < 0 else LOCK_NOTICES[-1] + LOCK_NOTICE_PERIOD * (more + 1)


def _display_name(outlet: Sink) -> str:
    """What an outlet is called in logs and messages: its name, or its path, or its kind."""
    return outlet.name or shown(str(getattr(outlet, "path", ""))) or type(outlet).__name__


_OPEN_SINKS: dict[int, SharedSink] = {}
"""The valves in use, by the identity of their outlets: outlets need not be hashable."""
