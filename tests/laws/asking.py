"""Asking a service, in virtual time, and what came back."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from penstock.services import CallQueue, Service

FOREVER = 1_000_000.0


class Job:
    """What a queue is given: something with a value."""

    def __init__(self, value: Any) -> None:
        self.value = value


class Asking:
    """One queue, and the answers that came out of it with the time they came at."""

    def __init__(self, service: Service) -> None:
        self.answers: dict[Any, Any] = {}
        self.times: dict[Any, float] = {}
        self.order: list[Any] = []
        self._asked = 0
        self._news = asyncio.Event()
        self.queue: CallQueue = service.open_queue(self._done)

    def ask(self, *values: Any) -> None:
        self._asked += len(values)
        self.queue.submit([Job(value) for value in values])

    async def all(self) -> list[Any]:
        """All answers, in the order they came; fails when they take longer than a day."""
        async with asyncio.timeout(86_400):
            while len(self.order) < self._asked:
                self._news.clear()
                await self._news.wait()
        return [self.answers[value] for value in self.order]

    def _done(self, jobs: Sequence[Job], answers: Sequence[Any]) -> None:
        assert jobs, "told about nothing"
        for job, answer in zip(jobs, answers, strict=True):
            assert job.value not in self.answers, "answered twice"
            self.answers[job.value] = answer
            self.times[job.value] = asyncio.get_running_loop().time()
            self.order.append(job.value)
        self._news.set()


async def answers_of(service: Service, *values: Any) -> list[Any]:
    """Ask and leave."""
    asking = Asking(service)
    try:
        asking.ask(*values)
        await asking.all()
    finally:
        await asking.queue.aclose()
    return [asking.answers[value] for value in values]


def others() -> set[asyncio.Task[Any]]:
    """Tasks beside this one."""
    return asyncio.all_tasks() - {asyncio.current_task()}


async def echo(value: Any) -> Any:
    await asyncio.sleep(1)
    return value
