"""What signals do: SIGTERM and SIGINT stop the service, step by step; SIGHUP loads its flows again."""

from __future__ import annotations

import asyncio
import signal

import structlog

from penstock.runtime import Event, Phase, Supervisor
from penstock.runtime.hard_stop import HardStop
from penstock.settings import Settings
from penstock_http.deployments.reload import Reloader

SIGNAL_RETRY_SECONDS = 0.01
"""Seconds until a signal that came too soon after the one before is looked at again."""

log: structlog.stdlib.BoundLogger = structlog.get_logger()


def install_signals(
    loop: asyncio.AbstractEventLoop, supervisor: Supervisor, stop: asyncio.Event, settings: Settings
) -> None:
    """The first SIGTERM or SIGINT drains, the second aborts, the third exits; so does time."""
    hard_stop = HardStop(
        lambda event: log.error(event, runs=len(supervisor.runs)), seconds=settings.grace_period + settings.exit_timeout
    )

    def on_signal() -> None:
        if not stop.is_set():
            stop.set()
        elif supervisor.phase is Phase.SERVING:  # the stop that an earlier one asked for has not begun
            loop.call_later(SIGNAL_RETRY_SECONDS, on_signal)
        else:
            supervisor.signal(Event.SIGNAL)

    def note(*_: object) -> None:
        # Not the loop's own handlers: those run when the loop turns, and the clock has to start when it does not.
        hard_stop.on_signal()
        if not loop.is_closed():
            loop.call_soon_threadsafe(on_signal)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, note)


def sighup_event(loop: asyncio.AbstractEventLoop) -> asyncio.Event:
    """An event that each SIGHUP sets; from now on it does not end the process any more."""
    asked = asyncio.Event()

    def note(*_: object) -> None:
        # Not loop.add_signal_handler, which would take the wakeup file descriptor that the hard stop needs.
        if not loop.is_closed():
            loop.call_soon_threadsafe(asked.set)

    signal.signal(signal.SIGHUP, note)
    return asked


async def reload_on_signal(asked: asyncio.Event, reloading: Reloader) -> None:
    """Load all flows again whenever this is asked for, until cancelled; what is asked for meanwhile counts once."""
    going = True
    while going:
        await asked.wait()
        asked.clear()
        going = await reloading.try_reload("signal")
