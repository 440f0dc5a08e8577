"""What signals do: SIGTERM and SIGINT stop the service, step by step; SIGHUP loads its flows again."""

from __future__ import annotations

import asyncio
import os
import signal
import threading

import structlog

from penstock.runtime import Event, Phase, Supervisor
from penstock.settings import Settings
from penstock_http.catalogue.reload import Reloading

MOMENT = 0.01
"""Seconds until a signal that came too soon after the one before is looked at again."""

LAST_LINE = 1.0
"""Seconds that the log line of a hard stop may take."""

log: structlog.stdlib.BoundLogger = structlog.get_logger()


def install_signals(
    loop: asyncio.AbstractEventLoop, supervisor: Supervisor, stop: asyncio.Event, settings: Settings
) -> None:
    """The first SIGTERM or SIGINT drains, the second aborts, the third exits; so does time."""

    def deadline() -> None:
        # In a thread of its own: an event loop that is stuck runs no timers. It may be stuck in the writing of a log,
        # so that is not waited for either.
        telling = threading.Thread(target=log.error, args=("stop.hard",), kwargs={"runs": len(supervisor.runs)})
        telling.daemon = True
        telling.start()
        telling.join(LAST_LINE)
        os._exit(1)

    timer = threading.Timer(settings.grace + settings.hard, deadline)
    timer.daemon = True
    unstarted = iter((timer,))

    def on_signal() -> None:
        if not stop.is_set():
            stop.set()
        elif supervisor.phase is Phase.SERVING:  # the stop that an earlier one asked for has not begun
            loop.call_later(MOMENT, on_signal)
        elif supervisor.signal(Event.SIGNAL) is Phase.EXITING:
            log.error("stop.exiting", runs=len(supervisor.runs))
            os._exit(1)

    def note(*_: object) -> None:
        # Not the loop's own handlers: those run when the loop turns, and the clock has to start when it does not.
        # An iterator, because the next signal may come in the middle of this, and a timer can be started only once.
        for clock in unstarted:
            clock.start()
        if not loop.is_closed():
            loop.call_soon_threadsafe(on_signal)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, note)


def hangups(loop: asyncio.AbstractEventLoop) -> asyncio.Event:
    """An event that each SIGHUP sets; from now on it does not end the process any more."""
    asked = asyncio.Event()
    loop.add_signal_handler(signal.SIGHUP, asked.set)
    return asked


async def reload_when(asked: asyncio.Event, reloading: Reloading) -> None:
    """Load all flows again whenever this is asked for, until cancelled; what is asked for meanwhile counts once."""
    going = True
    while going:
        await asked.wait()
        asked.clear()
        going = await reloading.try_reload("signal")
