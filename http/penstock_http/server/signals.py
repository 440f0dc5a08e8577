"""Signals of `penstock serve`: SIGTERM and SIGINT shut down in steps, SIGHUP reloads the flows."""

from __future__ import annotations

import asyncio
import signal

import structlog

from penstock.errors import describe
from penstock.runtime import Event, Phase, Supervisor
from penstock.runtime.hard_stop import HardStop
from penstock.settings import Settings
from penstock_http.deployments.file_watcher import FlowReloader
from penstock_http.server.tls import Tls

SIGNAL_RETRY_SECONDS = 0.01
"""Seconds until a signal is handled again that arrived before the shutdown of the previous one began."""

log: structlog.stdlib.BoundLogger = structlog.get_logger()


def install_signals(
    loop: asyncio.AbstractEventLoop,
    supervisor: Supervisor,
    stop: asyncio.Event,
    skip_delay: asyncio.Event,
    settings: Settings,
) -> None:
    """Make the first SIGTERM or SIGINT drain, the second abort, and the third exit. Timeouts have the same effects.

    With a drain delay, the first one begins the delay, and the second one ends it and drains.
    """
    hard_stop = HardStop(
        lambda event: log.error(event, runs=len(supervisor.runs)),
        seconds=settings.drain_delay + settings.grace_period + settings.exit_timeout,
    )

    def on_signal() -> None:
        if not stop.is_set():
            stop.set()
        elif settings.drain_delay and supervisor.phase is Phase.SERVING and not skip_delay.is_set():
            skip_delay.set()
        elif supervisor.phase is Phase.SERVING:  # the shutdown that an earlier signal requested has not begun
            loop.call_later(SIGNAL_RETRY_SECONDS, on_signal)
        else:
            supervisor.signal(Event.SIGNAL)

    def handle(*_: object) -> None:
        # Not a handler of the event loop: that only runs if the loop does, and the exit timeout must start in any case.
        hard_stop.on_signal()
        if not loop.is_closed():
            loop.call_soon_threadsafe(on_signal)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, handle)


def ignore_stop_signals() -> None:
    """Let no further signal change the exit code: Python restores their default actions while it exits."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)


def sighup_event(loop: asyncio.AbstractEventLoop) -> asyncio.Event:
    """Return an event that each SIGHUP sets. SIGHUP no longer ends the process."""
    event = asyncio.Event()

    def handle(*_: object) -> None:
        # Not loop.add_signal_handler, which would replace the wakeup file descriptor that `HardStop` uses.
        if not loop.is_closed():
            loop.call_soon_threadsafe(event.set)

    signal.signal(signal.SIGHUP, handle)
    return event


async def reload_on_signal(sighup: asyncio.Event, reloader: FlowReloader, tls: Tls | None) -> None:
    """Reload the certificate and all flows after each SIGHUP, until cancelled.

    Several signals during a reload cause one more.
    """
    running = True
    while running:
        await sighup.wait()
        sighup.clear()
        try:
            if tls is not None:
                await tls.reload()
            running = await reloader.try_reload("signal")
        except Exception as error:  # an unknown bug: the next signal is handled all the same
            log.error("reload.failed", cause="signal", error=describe(error), exc_info=error)
