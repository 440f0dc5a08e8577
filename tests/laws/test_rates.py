"""Rates of calls, and the event loops and runs that they outlive."""

from __future__ import annotations

import asyncio
from itertools import pairwise
from typing import Any

from laws.asking import FOREVER, Asking, echo
from penstock.errors import CallTimeout
from penstock.services import Service
from penstock.testing import run


def test_a_caller_that_waits_for_its_moment_ends_with_its_run() -> None:
    """It would go on for the next run, known to nobody: with no timeout, and at no rate."""
    begun: list[float] = []

    async def call(value: int) -> int:
        begun.append(asyncio.get_running_loop().time())
        await asyncio.sleep(FOREVER if value else 0)
        return value

    async def main() -> tuple[Any, float]:
        service = Service("s", call, rate=0.5, timeout=1)
        first, second = Asking(service), Asking(service)
        first.ask(0, 0, 0)
        await asyncio.sleep(0.5)
        began = asyncio.get_running_loop().time()
        await first.queue.aclose()
        took = asyncio.get_running_loop().time() - began
        second.ask(1)
        answer = (await second.all())[0]
        await second.queue.aclose()
        return answer, took

    answer, took = run(main())
    assert isinstance(answer.error, CallTimeout)
    assert took < 2
    assert all(after - before >= 2 for before, after in pairwise(begun))


def test_a_rate_begins_anew_in_each_event_loop() -> None:
    """Their clocks have nothing to do with each other."""
    service = Service("s", echo, rate=1)

    async def main() -> float:
        asking = Asking(service)
        asking.ask(1, 2)
        await asking.all()
        await asking.queue.aclose()
        return asyncio.get_running_loop().time()

    assert run(main()) == run(main()) < 3
