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


def check_event_loop(choice: str) -> None:
    """Raise `ExtraMissing` for an event loop that is not installed."""
    if choice == "uvloop" and not _has_uvloop():
        raise ExtraMissing("uvloop", "uvloop")


def run_in_event_loop(main: Coroutine[Any, Any, T], choice: str) -> T:
    """Run a coroutine as `asyncio.run` does, in an event loop of `EVENT_LOOPS`."""
    with asyncio.Runner(loop_factory=_loop_factory(choice)) as runner:
        return runner.run(main)


def _loop_factory(choice: str) -> Callable[[], asyncio.AbstractEventLoop] | None:
    """Return what makes an event loop; None for asyncio's default."""
    if choice == "asyncio" or not _has_uvloop():
        return None
    from penstock.support.uv_loop import UvLoop

    return UvLoop


def _has_uvloop() -> bool:
    return find_spec("uvloop") is not None
