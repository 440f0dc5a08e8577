"""Runs in virtual time: their results, their summary, the timers that they left."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from structlog.testing import capture_logs

from penstock import Flow, from_iterable
from penstock.results import DiscardResults, Result, ResultConsumer
from penstock.runtime import Summary
from penstock.sources import Source
from penstock.testing import run

DAY = 86_400.0
T = TypeVar("T")


async def within(seconds: float, work: Coroutine[Any, Any, T]) -> T:
    """A run that hangs is a finding, and no reason to wait for ever."""
    async with asyncio.timeout(seconds):
        return await work


def quiet(work: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine in virtual time, for a day at most, without its log."""
    with capture_logs():
        return run(within(DAY, work))


def results(flow: Flow[Any], source: Any, *, ordered: bool = False) -> list[Result[Any]]:
    """All results of a flow, in the order in which they came."""
    made = source if isinstance(source, Source) else from_iterable(source)

    async def main() -> list[Result[Any]]:
        return [result async for result in flow.stream(made, ordered=ordered)]

    return quiet(main())


def summary_of(flow: Flow[Any], source: Any, sink: ResultConsumer | None = None, *, ordered: bool = False) -> Summary:
    """What became of a run."""
    made = source if isinstance(source, Source) else from_iterable(source)

    async def main() -> Summary:
        return await flow.start(made, sink or DiscardResults(), ordered=ordered).finished

    return quiet(main())


def timers() -> list[asyncio.TimerHandle]:
    """The timers of the running loop that will still fire."""
    loop: Any = asyncio.get_running_loop()
    return [timer for timer in loop._scheduled if not timer.cancelled()]
