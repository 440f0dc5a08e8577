"""A copy of each value to places outside, on its way."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial
from typing import Any, TypeVar

from penstock.core.context import CANCEL_SECONDS, RunContext
from penstock.core.element import Element, Operator
from penstock.core.operators import Downstream, async_operator, mark_entered, record_durations
from penstock.sinks import SharedSink, Sink

A = TypeVar("A")

GROUP = 1024
"""Values in one write at most."""


def to(*outlets: Sink, timeout: float = 30.0, name: str = "to") -> Operator[A, A]:
    """Hand each value to one or several outlets; it goes on, unchanged, when all of them took it.

    An element whose value an outlet refuses fails, with the outlet's name as the step if it has one; what others took
    of it meanwhile stays taken, and so may what a write that timed out had begun. `timeout` is in seconds, for one
    write (and for opening the outlet). All runs share an outlet: it is opened for the first value, written to by one
    run at a time, and closed after the last run.

    **Takes in** elements. **Holds back** while a write is under way; their elements wait, within the window, and go out
    together in the next write. When an outlet cannot be opened, those of that write fail, and the others wait for the
    next try, with backoff up to 5 s. **Gives out** the same elements in the same order. **Ends** when its input has and
    all values are delivered.

    >>> step = to(orders_file, audit_file, name="files")
    """
    if not outlets:
        raise ValueError("to needs at least one outlet: to(file)")
    if not timeout > 0:
        raise ValueError(f"to needs a timeout above 0 seconds, got {timeout!r}")

    return async_operator(name, partial(ToStage, name, outlets, timeout))


def _leave(valve: SharedSink) -> list[asyncio.Future[Any]]:
    return [asyncio.ensure_future(valve.release())]


class ToStage:
    """The values of one run, on their way to the outlets."""

    def __init__(
        self,
        name: str,
        outlets: Sequence[Sink],
        timeout: float,
        observer: Downstream,
        scope: RunContext,
    ) -> None:
        self._name = name
        self._timeout = timeout
        self._observer = observer
        self._scope = scope
        self._meter = scope.histogram(name)
        self._gathered: list[Element[Any]] = []
        self._task: asyncio.Task[None] | None = None
        self._ended = False
        self._valves: list[SharedSink] = []
        self._names = [outlet.name or name for outlet in outlets]
        """What failures of each outlet are called."""
        for outlet in outlets:
            valve = SharedSink.of(outlet)
            scope.on_close(partial(_leave, valve))
            self._valves.append(valve)

    def on_next(self, elements: list[Element[Any]]) -> None:
        """Gather elements; those that were decided before pass. The first starts the task that delivers them."""
        live = [element for element in elements if element.outcome is None]
        mark_entered(live, self._scope.loop.time())
        if len(live) < len(elements):
            self._observer.on_next([element for element in elements if element.outcome is not None])
        if live:
            self._gathered += live
            if self._task is None:
                self._task = self._scope.spawn(self._run(), f"step:{self._name}")

    def on_completed(self) -> None:
        """No further element will come."""
        self._ended = True
        if self._task is None:
            self._observer.on_completed()

    async def _run(self) -> None:
        while self._gathered:
            group, self._gathered = self._gathered[:GROUP], self._gathered[GROUP:]
            await self._deliver(group)
            record_durations(self._meter, group, self._scope.loop.time())
            if not self._scope.emit(self._observer, group):
                return
        self._task = None
        if self._ended:
            self._observer.on_completed()

    async def _deliver(self, group: list[Element[Any]]) -> None:
        values = tuple(element.value for element in group)
        if len(self._valves) == 1:
            answers = [await self._valves[0].write(values, self._timeout)]
        else:
            answers = await self._write_to_all(values)
        for outlet, refusals in zip(self._names, answers, strict=True):
            for element, refusal in zip(group, refusals or (), strict=False):
                if refusal is not None and element.outcome is None:
                    element.fail(outlet, refusal)

    async def _write_to_all(self, values: tuple[Any, ...]) -> list[Sequence[Exception | None] | None]:
        """Write side by side. When the reader of one is gone, the others are not to write on without a run."""
        name = f"{self._scope.name}:step:{self._name}"
        writes = [asyncio.create_task(valve.write(values, self._timeout), name=name) for valve in self._valves]
        try:
            await asyncio.wait(writes, return_when=asyncio.FIRST_EXCEPTION)
        finally:
            if left := [write for write in writes if not write.done()]:
                for write in left:
                    write.cancel()  # once: a second time would cut short what a valve does about the first
                await asyncio.wait(left, timeout=CANCEL_SECONDS)
        for write in writes:
            if write.done() and not write.cancelled() and (error := write.exception()) is not None:
                raise error
        return [write.result() for write in writes]
