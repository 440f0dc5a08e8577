"""Write each value to one or more sinks and pass it on."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from penstock.core.context import CANCEL_SECONDS, RunContext
from penstock.core.element import Element, Operator
from penstock.core.operators import Downstream, async_operator, mark_entered, record_durations
from penstock.errors import FlowDefinitionError
from penstock.sinks import SharedSink, Sink
from penstock.steps.step import Step, check_seconds, set_option

GROUP = 1024
"""Maximum of values in one write."""


@dataclass(frozen=True)
class To(Step):
    """Write each value to one or several sinks; it continues, unchanged, when all of them have accepted it.

    An element whose value a sink rejects fails, with the name of the sink as the step if it has one. What other sinks
    have written of it stays written, and so may a part of a write that timed out. `timeout` is in seconds, for one
    write and for opening a sink. All runs share a sink: it is opened for the first value, written to by one run at a
    time, and closed after the last run.

    **Accepts** elements. **Backpressures when** a write is in progress: elements wait, within the window, and are
    written together in the next write. If a sink cannot be opened, the elements of that write fail and the others wait
    for the next attempt, with backoff up to 5 s. **Emits** the same elements in the same order. **Completes when** its
    input completes and all values are written.

    >>> step = To((orders_file, audit_file), name="files")
    """

    targets: tuple[Sink, ...]
    timeout: float = field(default=30.0, kw_only=True)

    kind = "to"

    def __post_init__(self) -> None:
        set_option(self, "targets", tuple(self.targets))
        if not self.targets:
            raise FlowDefinitionError("to: expected at least one sink: to(FileSink('out.ndjson'))")
        for sink in self.targets:
            if not hasattr(sink, "write"):
                raise FlowDefinitionError(f"to: expected sinks such as FileSink('out.ndjson'), got {sink!r}")
        check_seconds("timeout", self.timeout)
        super().__post_init__()

    def operator(self) -> Operator[Any, Any]:
        return async_operator(self.name, partial(ToStage, self.name, self.targets, self.timeout))

    @property
    def sinks(self) -> Mapping[str, Sink]:
        """The sinks by name. A sink without a name has that of the step; the second of a name gets a number."""
        named: dict[str, Sink] = {}
        for sink in self.targets:
            name = sink.name or self.name
            named[name if name not in named else f"{name}.{len(named) + 1}"] = sink
        return named

    @property
    def failure_points(self) -> tuple[str, ...]:
        return (*(sink.name for sink in self.targets if sink.name), self.name)

    def with_sinks(self, others: Mapping[str, Sink]) -> Step:
        return replace(self, targets=tuple(others.get(name, sink) for name, sink in self.sinks.items()))


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
