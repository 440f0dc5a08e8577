"""Signals that end a run: the first drains it, the second aborts it, the third exits the process."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Generator
from contextlib import contextmanager

import structlog

from penstock.runtime import Event, Phase
from penstock.runtime.hard_stop import HardStop
from penstock.runtime.shutdown import next_phase

log: structlog.stdlib.BoundLogger = structlog.get_logger()


@contextmanager
def signal_handlers(drain: Callable[[], object], abort: Callable[[], object]) -> Generator[None]:
    """Let SIGINT and SIGTERM end a run within this context; restore the earlier handlers after it."""
    loop = asyncio.get_running_loop()
    phase = Phase.SERVING
    hard_stop = HardStop(lambda event: log.error(event))

    def step() -> None:
        nonlocal phase
        phase = next_phase(phase, Event.SIGNAL)
        if phase is Phase.DRAINING:
            drain()
        elif phase is Phase.ABORTING:
            abort()

    def on_signal(*_: object) -> None:
        hard_stop.on_signal()
        loop.call_soon_threadsafe(step)  # Windows does not support loop.add_signal_handler

    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    for number in before:
        signal.signal(number, on_signal)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        hard_stop.close()
