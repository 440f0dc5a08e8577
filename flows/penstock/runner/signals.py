"""The signals that end a run: the first drains it, the second aborts it, the third ends the process."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable, Generator
from contextlib import contextmanager

from penstock.runtime import Event, Phase
from penstock.runtime.stopping import after


@contextmanager
def ending_by_signals(drain: Callable[[], object], abort: Callable[[], object]) -> Generator[None]:
    """Have SIGINT and SIGTERM end a run as long as this lasts; then what they did before counts again."""
    loop = asyncio.get_running_loop()
    phase = Phase.SERVING

    def step() -> None:
        nonlocal phase
        phase = after(phase, Event.SIGNAL)
        if phase is Phase.DRAINING:
            drain()
        elif phase is Phase.ABORTING:
            abort()
        else:
            os._exit(1)

    def note(*_: object) -> None:
        loop.call_soon_threadsafe(step)  # Windows knows no loop.add_signal_handler

    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    for number in before:
        signal.signal(number, note)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
