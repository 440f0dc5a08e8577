"""SharedSink: one open sink for all runs of the process.

It opens the sink when the first value arrives, makes one call at a time, in the order of the runs, and closes the sink
when no run uses it. Values wait while its server cannot be reached.
"""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Callable, Coroutine, Iterator, Sequence
from typing import Any

from penstock.backends.server_url import hide_secret_options
from penstock.core.context import CANCEL_SECONDS
from penstock.errors import (
    CallCancelled,
    CallTimeout,
    InvalidCallResult,
    ReaderDisconnected,
    SinkAlreadyOpen,
    SinkLocked,
    SinkStillLocked,
    SinkUnavailable,
    SinkUnreachable,
    describe,
)
from penstock.services.url_template import hide_credentials
from penstock.sinks.local import can_share
from penstock.sinks.outage import BACKOFF, Outage, notice_after
from penstock.sinks.sink import Sink
from penstock.support.environment import display_text
from penstock.support.logger import get_logger
from penstock.support.tasks import detach

log = get_logger()

LOCK_POLL = 0.5
"""Seconds between two attempts to open a sink that another process has locked. A blocking `flock` would occupy a
thread that cannot be cancelled."""

LOCK_SECONDS = 60.0
"""Seconds that a run waits for a sink that another process has locked. Then the run fails."""

CANCEL_GRACE = 1.0
"""Seconds that a cancelled call of a sink has to end before it is abandoned."""


class SharedSink:
    """A sink and the runs that use it. Each user calls `SharedSink.of(sink)` first and `release` at the end."""

    def __init__(self, sink: Sink, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.users = 0
        self.sink = sink
        self._lock = asyncio.Lock()
        self._opened = False
        self._failures = 0
        """Consecutive failures to open the sink."""
        self._error: Exception | None = None
        self._retry_at = 0.0
        self._locked_since: float | None = None
        """The time since which all attempts found the sink locked by another process."""
        self._call: asyncio.Task[Any] | None = None
        """The last call. If it was abandoned, it may still be running; then no other call may start."""
        self._close_pending = False
        """Whether the sink is to be closed when an abandoned call has ended."""
        self._rng = random.Random()  # noqa: S311 - jitter, no secret
        self.outage = Outage(loop, self._rng)

    @property
    def title(self) -> str:
        """What the sink is called in logs and messages."""
        return _display_name(self.sink)

    @property
    def label(self) -> str:
        """Its name or its title: a topic, a subject, a table. Several sinks may have the same URL."""
        return self.sink.name or getattr(self.sink, "title", "") or self.title

    @staticmethod
    def of(sink: Sink) -> SharedSink:
        """Return the shared sink for a sink, and add a user."""
        loop = asyncio.get_running_loop()
        shared = _find_shared(sink)
        if shared is None or shared.loop is not loop:
            if shared is not None:
                if shared.loop.is_running():
                    raise RuntimeError(
                        f"sink {_display_name(sink)} is in use by another event loop; create one for each loop"
                    )
                _OPEN_SINKS.pop(id(shared.sink), None)
            shared = _OPEN_SINKS[id(sink)] = SharedSink(sink, loop)
        shared.users += 1
        return shared

    async def write(
        self,
        values: Sequence[Any],
        timeout: float,
        max_outage_wait: float = math.inf,
        deadlines: Sequence[float] | None = None,
    ) -> Sequence[Exception | None] | None:
        """Write values after earlier writes. Return an error or None for each value, or None if all were written.

        `timeout` is in seconds, for one call of the sink. While its server cannot be reached, values wait for up to
        `max_outage_wait` seconds, or until their deadlines if that is earlier. Then they fail with `SinkUnavailable`.

        Errors for which no element is at fault are raised: the reader of standard output has disconnected
        (`ReaderDisconnected`), another process held the lock of the sink for `LOCK_SECONDS` (`SinkStillLocked`), or
        this process has the file open with other settings (`SinkAlreadyOpen`).
        """
        arrived = self.loop.time()
        results: list[Exception | None] = [None] * len(values)
        waiting: Sequence[int] = range(len(values))
        failures = self._failures
        while waiting:
            if self.outage.holds:
                give_up_at = [min(arrived + max_outage_wait, each) for each in deadlines or [math.inf] * len(values)]
                waiting = self.outage.expire(self.title, waiting, give_up_at, arrived, results)
                if waiting:
                    await self.outage.wait(min(give_up_at[each] for each in waiting))
                continue
            async with self._lock:
                if not self.outage.holds:  # no other run has failed to reach the server meanwhile
                    waiting = await self._attempt(values, waiting, results, (failures, arrived), timeout)
        return results if any(results) else None

    async def _attempt(
        self,
        values: Sequence[Any],
        waiting: Sequence[int],
        results: list[Exception | None],
        since: tuple[int, float],
        timeout: float,
    ) -> Sequence[int]:
        """Write the waiting values. Return those for which the server could not be reached."""
        written = values if len(waiting) == len(values) else tuple(values[each] for each in waiting)
        try:
            found = await self._open_and_write(written, since, timeout)
        except (ReaderDisconnected, SinkStillLocked, SinkAlreadyOpen):
            raise  # the run cannot continue without the reader of standard output, or without the file
        except Exception as error:
            found = [error] * len(written)
        again: list[int] = []
        for each, result in zip(waiting, found or (), strict=False):
            if isinstance(result, SinkUnreachable):
                if not again:
                    self.outage.record_failure(self.title, result)
                again.append(each)
            else:
                results[each] = result
        if self.outage.is_on and not again and not all(found or (None,)):
            self.outage.record_success(self.title)
        return again

    async def _open_and_write(
        self, values: Sequence[Any], since: tuple[int, float], timeout: float
    ) -> Sequence[Exception | None] | None:
        """Open the sink if necessary, and write values. A timeout is an outage if they may be written again."""
        try:
            if not self._opened:
                await self._open(*since, timeout)
            results: Sequence[Exception | None] | None = await self._run_call(lambda: self.sink.write(values), timeout)
        except CallTimeout as error:
            if getattr(self.sink, "repeatable", False) or not self._opened:
                raise SinkUnreachable(self.title, describe(error)) from error
            raise
        if results is not None and len(results) != len(values):
            raise InvalidCallResult(f"{self.title}: expected write() to return None or one entry for each value")
        return results

    async def release(self) -> None:
        """Remove a user; close the sink after the last one."""
        self.users -= 1
        if self.users:
            return
        try:
            async with asyncio.timeout(CANCEL_SECONDS), self._lock:
                if self._opened and not self.users:
                    await self._run_call(self._close_sink, None)
        except Exception as error:
            reason = f"not within {CANCEL_SECONDS:g} s" if isinstance(error, TimeoutError) else describe(error)
            log.error("sink.close_failed", sink=self.title, error=reason)
        self._forget()

    async def _open(self, failures: int, arrived: float, timeout: float) -> None:
        """Open the sink. An attempt that failed while these values waited for the lock counts for them too."""
        if self._error is not None and self._failures > failures:
            raise SinkUnavailable(self.title, self._error)
        if self._failures:
            await asyncio.sleep(self._retry_at - self.loop.time())
        try:
            await self._open_unlocked(arrived, timeout)
        except (SinkStillLocked, SinkAlreadyOpen, SinkUnreachable):
            raise
        except Exception as error:
            if isinstance(error, CallTimeout) and getattr(self.sink, "repeatable", None) is not None:
                raise
            self._failures += 1
            wait = BACKOFF.seconds(self._failures, self._rng)
            self._error, self._retry_at = error, self.loop.time() + wait
            title, reason = self.title, describe(error)
            log.warning("sink.open_failed", sink=title, error=reason, retry_in=round(wait, 3))
            raise SinkUnavailable(title, error) from error
        self._failures, self._error = 0, None

    async def _open_unlocked(self, arrived: float, timeout: float) -> None:
        """Open the sink. Waits while another process holds its lock, because the elements are not at fault.

        The wait ends when the lock is free, when the run is cancelled, or with `SinkStillLocked` after `LOCK_SECONDS`,
        counted from the arrival of these values even if others were waiting before them.
        """
        notices = 0
        while True:
            try:
                await self._run_call(self._open_sink, timeout)
            except SinkLocked as error:
                now = self.loop.time()
                if self._locked_since is None:
                    self._locked_since = now
                waited = now - max(arrived, self._locked_since)
                if waited >= LOCK_SECONDS:
                    raise SinkStillLocked(error.sink, LOCK_SECONDS) from None
                if waited >= notice_after(notices):
                    notices += 1
                    fields = {"waited": round(waited, 3), "gives_up_in": round(LOCK_SECONDS - waited, 3)}
                    log.warning("sink.waiting", sink=self.title, reason=error.reason, **fields)
                await asyncio.sleep(min(LOCK_POLL, LOCK_SECONDS - waited))
            else:
                if notices:
                    waited = self.loop.time() - max(arrived, self._locked_since or arrived)
                    log.warning("sink.lock_acquired", sink=self.title, waited=round(waited, 3))
                self._locked_since = None
                return

    async def _open_sink(self) -> None:
        """Open the sink and record that it is open: the caller may have timed out or been cancelled by then."""
        if not self._opened:
            await self.sink.open()
            self._opened = True

    async def _close_sink(self) -> None:
        """Close the sink. It counts as closed from the start, however the call ends."""
        self._opened = False
        await self.sink.aclose()

    def _forget(self) -> None:
        """Forget a sink without users. If an abandoned call is still running, close the sink after its end."""
        if self.users:
            return
        if self._call is not None and not self._call.done():
            if not self._close_pending:
                self._close_pending = True
                self._call.add_done_callback(self._close_late)
        elif _OPEN_SINKS.get(id(self.sink)) is self:
            del _OPEN_SINKS[id(self.sink)]

    def _close_late(self, _: asyncio.Task[Any]) -> None:
        """Close the sink after the end of an abandoned call."""
        self._close_pending = False
        if self._opened and not self.users:
            self._call = asyncio.create_task(self._close_sink(), name=f"sink:{self.title}")
            detach(self._call, self._log_late_error)
        self._forget()

    def _log_late_error(self, error: BaseException | None) -> None:
        if error is not None:
            log.error("sink.close_failed", sink=self.title, error=describe(error))

    async def _run_call(self, begin: Callable[[], Coroutine[Any, Any, Any]], timeout: float | None) -> Any:
        """Make a call of the sink. Cancels it after a timeout, or when the run is cancelled."""
        if self._call is not None and not self._call.done():
            await asyncio.wait((self._call,), timeout=timeout)
            if not self._call.done():
                raise CallTimeout(self.title, timeout or CANCEL_SECONDS)
        self._call = call = asyncio.create_task(begin(), name=f"sink:{self.title}")
        detach(call)  # the caller may be cancelled, even in the iteration in which the call ends
        late = False
        try:
            await asyncio.wait((call,), timeout=timeout)
        finally:
            if not call.done():
                late = True
                call.cancel()
                await asyncio.wait((call,), timeout=CANCEL_GRACE)
                if not call.done():
                    log.error("sink.call_not_cancelled", sink=self.title, waited=CANCEL_GRACE)
        if not call.done() or (late and call.cancelled()):
            raise CallTimeout(self.title, timeout or CANCEL_SECONDS)
        if call.cancelled():
            raise CallCancelled(self.title)
        return call.result()


def outage_seconds() -> Iterator[tuple[str, float]]:
    """Yield, for each sink in use, its name and how long values have been waiting for its server; 0 if none waits."""
    for shared in _OPEN_SINKS.values():
        yield shared.label, shared.outage.seconds


def _find_shared(sink: Sink) -> SharedSink | None:
    """Find the shared sink in use for this sink, an equal one, or one for the same file with the same settings."""
    known = _OPEN_SINKS.get(id(sink)) or next((each for each in _OPEN_SINKS.values() if each.sink == sink), None)
    return known or next((each for each in _OPEN_SINKS.values() if can_share(sink, each.sink)), None)


def _display_name(sink: Sink) -> str:
    """Return the name of a sink for logs and messages: its name, its path, its URL, or its class."""
    target = getattr(sink, "path", None) or getattr(sink, "url", None) or ""
    return sink.name or hide_secret_options(hide_credentials(display_text(str(target)))) or type(sink).__name__


_OPEN_SINKS: dict[int, SharedSink] = {}
"""The shared sinks in use, by the identity of their sinks, which need not be hashable."""
