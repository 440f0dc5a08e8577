"""`penstock serve --processes N`: bind the socket, run the parent of the processes, and shut all of them down."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence

import structlog
from msgspec import msgpack, structs

from penstock.errors import describe
from penstock.runtime import ShutdownReport
from penstock.runtime.hard_stop import HardStop
from penstock.settings import Settings
from penstock_http.processes.child import Child
from penstock_http.processes.connection_counts import SharedConnectionCounts
from penstock_http.processes.deployment_messages import EVERYWHERE_SECONDS, REJECTED
from penstock_http.processes.deployments import Deployments
from penstock_http.processes.messages import Start
from penstock_http.processes.parent import Parent, StartFailed
from penstock_http.server.connection import listen
from penstock_http.server.membership import log_listening
from penstock_http.server.sharing import share_writers_and_files
from penstock_http.server.signals import sighup_event

log: structlog.stdlib.BoundLogger = structlog.get_logger()

MEMBER_MODULE = "penstock_http.server.member_main"
"""The main module of each process."""

HARD_STOP_SECONDS = 2.0
"""Seconds after the exit timeout at which processes that are still there are killed. Each has tried to exit itself."""


async def run_parent(settings: Settings, flows: Sequence[str], *, watch: bool, workers_only: bool) -> int:
    """Serve with several processes until a signal. Returns the exit code.

    Raises `ListenFailed`, and `StartFailed` if a process cannot start.
    """
    loop = asyncio.get_running_loop()
    sighup = sighup_event(loop)
    with listen(settings) as sock:
        parent = Parent(MEMBER_MODULE, _start(settings, flows, watch, workers_only), sock.fileno())
        stop = Stop(parent, settings)
        closers = add_parts(parent, settings)
        await parent.start()
        if not parent.stopping.is_set():
            log_listening(settings, sock, processes=settings.processes)
        rolling = loop.create_task(roll_on_signal(sighup, parent), name="reload:signal")
        await parent.stopping.wait()
        sock.close()  # the processes have their own descriptors of it, and decide when the last one is closed
    await parent.wait()
    rolling.cancel()
    await asyncio.gather(rolling, return_exceptions=True)
    await parent.aclose()
    for close in closers:
        await close()
    code = stop.finish()
    return 1 if parent.given_up else code


def add_parts(parent: Parent, settings: Settings) -> list[Callable[[], Awaitable[None]]]:
    """Add the parts of the service that have a side in the parent: `parent.share` and `parent.on`.

    Returns what closes them, to be awaited when all processes have exited.
    """
    from penstock_http.processes.shared_limits import LimitsResource  # not for Windows

    counts = SharedConnectionCounts()
    parent.share(counts)
    parent.share(LimitsResource(settings.processes))
    Deployments(parent, settings.processes)
    return [counts.aclose, *share_writers_and_files(parent)]


async def roll_on_signal(sighup: asyncio.Event, parent: Parent) -> None:
    """Replace all processes one by one after each SIGHUP. Several signals meanwhile cause one more round."""
    while True:
        await sighup.wait()
        sighup.clear()
        log.info("reload.started", cause="signal", processes=parent.count)
        replaced = 0
        try:
            async for _ in replacements(parent):
                replaced += 1
        except StartFailed as error:
            if not parent.stopping.is_set():
                log.error("reload.failed", cause="signal", error=str(error), replaced=replaced)
                await record_rejected(parent)
        except Exception as error:  # an unknown bug: the next signal is handled all the same
            log.error("reload.failed", cause="signal", error=describe(error), exc_info=error)
        else:
            if replaced:
                log.info("reload.completed", cause="signal", processes=replaced)
            else:
                log.error("reload.failed", cause="signal", error="no process serves; send SIGHUP again when one does")


async def record_rejected(parent: Parent) -> None:
    """Make the processes that were not replaced record the errors of the flow files, for metrics and `/flows`."""
    asked = [parent.tell(number, REJECTED, b"signal", timeout=EVERYWHERE_SECONDS) for number in parent.running]
    for answer in await asyncio.gather(*asked, return_exceptions=True):
        if isinstance(answer, Exception):
            log.warning("reload.not_recorded", cause="signal", error=describe(answer))


async def replacements(parent: Parent) -> AsyncIterator[Child]:
    """Replace all processes, and yield the new ones. Raises `StartFailed`.

    The first new one reads the flow files, and the others serve what it serves.
    """
    first: Child | None = None
    while True:
        running = [parent.children[number] for number in parent.running]
        # One that died meanwhile, and was started again before the first new one served, is replaced too.
        old = [child for child in running if first is None or child.started_at < first.started_at]
        if not old:
            return
        successor = await parent.replace(old[0], reload=first is None)
        if successor is not None:
            first = first or successor
            yield successor


class Stop:
    """Forwards stop signals to the processes, kills those that do not exit in time, and adds up their reports."""

    def __init__(self, parent: Parent, settings: Settings) -> None:
        self._parent = parent
        self._settings = settings
        self._loop = asyncio.get_running_loop()
        self._signals = 0
        self._told: list[Child] = []
        """The processes that served when the first signal came."""
        seconds = settings.drain_delay + settings.grace_period + settings.exit_timeout + HARD_STOP_SECONDS
        self._deadline = seconds
        self._hard_stop = HardStop(self._kill_all, seconds=seconds + HARD_STOP_SECONDS)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._handle)

    def finish(self) -> int:
        """Log the sums of all processes, and return the exit code. All have exited."""
        reports = [msgpack.decode(child.report, type=ShutdownReport) for child in self._told if child.report]
        unreported = len(self._told) - len(reports)
        total = sum_reports(reports)
        forced = total.forced or unreported > 0
        log.info(
            "shutdown.completed",
            forced=forced,
            **structs.asdict(total),
            processes=len(self._told),
            **({"unreported_processes": unreported} if unreported else {}),
        )
        return 1 if forced else 0

    def _handle(self, *_: object) -> None:
        self._hard_stop.on_signal()
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._on_signal)

    def _on_signal(self) -> None:
        if not self._parent.stopping.is_set():
            self._told = [child for child in self._parent.children.values() if child.serves]
            log.info("shutdown.phase", phase="draining", trigger="signal", processes=len(self._told))
            self._parent.stop()
            self._loop.call_later(self._deadline, self._kill_rest)
        # Two kinds, because the kernel delivers two signals of the same kind as one to a process that is busy.
        number = signal.SIGINT if self._signals % 2 else signal.SIGTERM
        self._signals += 1
        for child in self._told:
            child.signal(number)

    def _kill_rest(self) -> None:
        for child in self._told:
            self._parent.kill(child.number, "the shutdown took too long")

    def _kill_all(self, event: str) -> None:
        """Called in a thread when the event loop may be stuck."""
        for child in self._parent.children.values():
            child.signal(signal.SIGKILL)
        log.error(event, processes=len(self._told))


def sum_reports(reports: Iterable[ShutdownReport]) -> ShutdownReport:
    """Add up the reports of several processes."""
    total = ShutdownReport(0, {}, 0, 0, 0, 0, 0)
    for report in reports:
        added = {
            name: getattr(total, name) + getattr(report, name)
            for name in ("runs", "received", "ok", "failed", "filtered", "cancelled")
        }
        total = ShutdownReport(reasons=dict(Counter(total.reasons) + Counter(report.reasons)), **added)
    return total


def _start(settings: Settings, flows: Sequence[str], watch: bool, workers_only: bool) -> Start:
    return Start(
        number=0,
        count=settings.processes,
        settings=settings,
        flows=tuple(flows),
        watch=watch,
        workers_only=workers_only,
        listener=-1,
        descriptors={},
        path=tuple(sys.path),
        python_path=os.environ.get("PYTHONPATH"),
    )
