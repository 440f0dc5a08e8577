"""The two ways in which a service calls its function: by a task for each call, or directly, by a callback."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from penstock.services.direct_calls import DirectFunction
from penstock.support.tasks import Report


def by_task(call: Callable[[Any], Awaitable[Any]]) -> Callable[[Any], Awaitable[Any]]:
    return call


class Directly(DirectFunction):
    """Calls a coroutine function, and reports the end of its task."""

    def __init__(self, call: Callable[[Any], Awaitable[Any]]) -> None:
        self._call = call
        self.pacer = getattr(call, "pacer", None)

    def start(self, value: Any, on_result: Report[Any]) -> Started:
        return Started(asyncio.ensure_future(self._call(value)), on_result)


class Started:
    def __init__(self, task: asyncio.Future[Any], on_result: Report[Any]) -> None:
        self._task = task
        self._on_result = on_result
        task.add_done_callback(self._ended)

    def cancel(self) -> asyncio.Future[Any]:
        self._task.cancel()
        return self._task

    def _ended(self, task: asyncio.Future[Any]) -> None:
        if task.cancelled():
            self._on_result(None, asyncio.CancelledError())
        elif (error := task.exception()) is not None:
            self._on_result(None, error)
        else:
            self._on_result(task.result(), None)


both_ways = pytest.mark.parametrize("way", [by_task, Directly], ids=["by_task", "directly"])
"""For a law that holds for both."""
