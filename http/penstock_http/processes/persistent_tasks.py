"""Tasks of the parent that start again after a bug. Without that, processes would not be replaced any more."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import structlog

from penstock.errors import describe

log: structlog.stdlib.BoundLogger = structlog.get_logger()

RESTART_SECONDS = 0.5
"""Seconds until work that failed begins again."""


class PersistentTasks:
    """Tasks that begin their work again if it fails by an unknown bug, which is logged."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()

    def begin(self, work: Callable[[], Awaitable[None]], name: str) -> None:
        """Begin work in a task."""
        task = asyncio.create_task(_persist(work, name), name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def aclose(self) -> None:
        """End all tasks."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


async def _persist(work: Callable[[], Awaitable[None]], name: str) -> None:
    while True:
        try:
            return await work()
        except Exception as error:
            log.error("processes.task_failed", task=name, error=describe(error), exc_info=error)
            await asyncio.sleep(RESTART_SECONDS)
