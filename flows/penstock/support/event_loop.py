"""Run a command in an event loop: asyncio's, or uvloop's, which takes less processor time per network request."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from importlib.util import find_spec
from typing import Any, TypeVar

from penstock.errors import ExtraMissing

T = TypeVar("T")

EVENT_LOOPS = ("auto", "asyncio", "uvloop")
"""The choices of an event loop. `auto` is uvloop if it is installed."""


def run_in_event_loop(main: Coroutine[Any, Any, T], choice: str) -> T:
    """Run a coroutine as `asyncio.run` does, in an event loop of `EVENT_LOOPS`. Raises `ExtraMissing`."""
    try:
        make_loop = loop_factory(choice)
    except ExtraMissing:
        main.close()
        raise
    with asyncio.Runner(loop_factory=make_loop) as runner:
        return runner.run(main)


def loop_factory(choice: str) -> Callable[[], asyncio.AbstractEventLoop] | None:
    """Return what makes an event loop; None for asyncio's default. Raises `ExtraMissing`."""
    installed = find_spec("uvloop") is not None
    if choice == "uvloop" and not installed:
        raise ExtraMissing("the event loop uvloop", "uvloop")
    if choice == "asyncio" or not installed:
        return None
    from penstock.support.uv_loop import UvLoop

    return UvLoop
