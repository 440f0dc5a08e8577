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
from penstock.errors import DeadlineExceeded, FlowDefinitionError, SinkUnavailable
from penstock.sinks import SharedSink, Sink
from penstock.steps.step import Step, check_seconds, set_option

GROUP = 1024
"""Maximum of values in one write, unless the sink has another one (`max_values`)."""

TIMEOUT = 30.0
"""Default of `timeout`: seconds for one write."""

MAX_OUTAGE_WAIT = 300.0
"""Default of `max_outage_wait`, the same as that of the circuit breakers of services."""


@dataclass(frozen=True)
class To(Step):
    """Write each value to one or several sinks; it continues, unchanged, when all of them have accepted it.

    An element whose value a sink rejects fails, with the name of the sink as the step if it has one. What other sinks
    have written of it stays written, and so may a part of a write that timed out. `timeout` is in seconds, for one
    write and for opening a sink. All runs share a sink: it is opened for the first value, written to by one run at a
    time, and closed after the last run.

    **Accepts** elements. **Backpressures when** a write is in progress: elements wait, within the window, and are
    written together in the next write. A sink with `max_wait` lets them wait for more (see `Sink`). While the server of
    a sink cannot be reached, elements wait and the write is repeated, with backoff up to 5 s; one that has waited for
    `max_outage_wait` seconds fails as `SinkUnavailable`. If a sink cannot be opened for another reason, such as a wrong
    password, the elements of that write fail and the others wait for the next attempt. **Emits** the same elements in
    the same order. **Completes when** its input completes and all values are written.

    >>> step = To((orders_file, audit_file), name="files")
    """

    targets: tuple[Sink, ...]
    timeout: float = field(default=TIMEOUT, kw_only=True)
    max_outage_wait: float = field(default=MAX_OUTAGE_WAIT, kw_only=True)

    kind = "to"

    def __post_init__(self) -> None:
        set_option(self, "targets", tuple(self.targets))
        if not self.targets:
            raise FlowDefinitionError("to: expected at least one sink: to(FileSink('out.ndjson'))")
        for sink in self.targets:
            if not hasattr(sink, "write"):
                raise FlowDefinitionError(f"to: expected sinks such as FileSink('out.ndjson'), got {sink!r}")
        check_seconds("timeout", self.timeout)
        check_seconds("max_outage_wait", self.max_outage_wait)
        super().__post_init__()

    def operator(self) -> Operator[Any, Any]:
        return async_operator(self.name, partial(ToStage, self.name, self.targets, self.timeout, self.max_outage_wait))

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


def _release(sink: SharedSink) -> list[asyncio.Future[Any]]:
    return [asyncio.ensure_future(sink.release())]


class ToStage:
    """Writes the values of one run."""

    def __init__(
        self,
        name: str,
        sinks: Sequence[Sink],
        timeout: float,
        max_outage_wait: float,
        observer: Downstream,
        context: RunContext,
    ) -> None:
        self._name = name
        self._timeout = timeout
        self._max_outage_wait = max_outage_wait
        self._observer = observer
        self._context = context
        self._histogram = context.histogram(name)
        self._pending: list[Element[Any]] = []
        self._task: asyncio.Task[None] | None = None
        self._ended = False
        self._max_values = max(getattr(sink, "max_values", GROUP) for sink in sinks)
        self._max_wait = max(getattr(sink, "max_wait", 0.0) for sink in sinks)
        self._enough: asyncio.Event | None = None
        """Set when a write need not wait for more values; None while it does not wait."""
        self._sinks: list[SharedSink] = []
        self._names = [sink.name or name for sink in sinks]
        """The step that failures of each sink name."""
        for sink in sinks:
            shared = SharedSink.of(sink)
            context.on_close(partial(_release, shared))
            self._sinks.append(shared)
        context.watch_queue(self)

    @property
    def awaited_service(self) -> str | None:
        """The name of a sink whose server values wait for; None if they do not."""
        if self._task is None:
            return None
        return next((shared.label for shared in self._sinks if shared.outage.waiting), None)

    def on_next(self, elements: list[Element[Any]]) -> None:
        """Collect elements, and start the task that writes them; forward elements that have an outcome already."""
        live = [element for element in elements if element.outcome is None]
        mark_entered(live, self._context.loop.time())
        if len(live) < len(elements):
            self._observer.on_next([element for element in elements if element.outcome is not None])
        if live:
            self._pending += live
            if self._task is None:
                self._task = self._context.spawn(self._run(), f"step:{self._name}")
            elif self._enough is not None and self._has_enough():
                self._enough.set()

    def on_completed(self) -> None:
        """Complete when all values are written."""
        self._ended = True
        if self._enough is not None:
            self._enough.set()
        if self._task is None:
            self._observer.on_completed()

    async def _run(self) -> None:
        while self._pending:
            if self._max_wait and not self._has_enough():
                await self._collect()
            group, self._pending = self._pending[: self._max_values], self._pending[self._max_values :]
            await self._write(group)
            record_durations(self._histogram, group, self._context.loop.time())
            if not self._context.emit(self._observer, group):
                return
        self._task = None
        if self._ended:
            self._observer.on_completed()

    def _has_enough(self) -> bool:
        """Whether no more values can be collected for the next write: it is full, or all elements of the run wait."""
        context, waiting = self._context, len(self._pending)
        all_wait = not context.window.free and waiting >= context.ledger.in_flight
        return self._ended or waiting >= self._max_values or all_wait

    async def _collect(self) -> None:
        """Wait until there are enough values for a write, or for `max_wait` seconds."""
        self._enough = asyncio.Event()
        try:
            async with asyncio.timeout(self._max_wait):
                await self._enough.wait()
        except TimeoutError:
            pass
        finally:
            self._enough = None

    async def _write(self, group: list[Element[Any]]) -> None:
        values = tuple(element.value for element in group)
        deadlines = None if self._context.deadlines is None else [element.deadline for element in group]
        if len(self._sinks) == 1:
            results = [await self._write_to(self._sinks[0], values, deadlines)]
        else:
            results = await self._write_to_all(values, deadlines)
        for name, errors in zip(self._names, results, strict=True):
            for element, error in zip(group, errors or (), strict=False):
                if error is not None and element.outcome is None:
                    self._fail(element, name, error)

    def _fail(self, element: Element[Any], name: str, error: Exception) -> None:
        attempts = 1
        if isinstance(error, SinkUnavailable) and error.waited is not None:
            attempts = 0
            if (deadlines := self._context.deadlines) is not None and element.deadline <= self._context.loop.time():
                seconds = deadlines.seconds_of(element.deadline)
                exceeded = DeadlineExceeded(error.sink, seconds, "passed while its server could not be reached")
                exceeded.__cause__, error = error.__cause__, exceeded
        element.fail(name, error, attempts)

    async def _write_to(
        self, sink: SharedSink, values: tuple[Any, ...], deadlines: Sequence[float] | None
    ) -> Sequence[Exception | None] | None:
        return await sink.write(values, self._timeout, self._max_outage_wait, deadlines)

    async def _write_to_all(
        self, values: tuple[Any, ...], deadlines: Sequence[float] | None
    ) -> list[Sequence[Exception | None] | None]:
        """Write concurrently. If one write raises, such as for a pipe without a reader, cancel the others."""
        name = f"{self._context.name}:step:{self._name}"
        writes = [asyncio.create_task(self._write_to(sink, values, deadlines), name=name) for sink in self._sinks]
        try:
            await asyncio.wait(writes, return_when=asyncio.FIRST_EXCEPTION)
        finally:
            if pending := [write for write in writes if not write.done()]:
                for write in pending:
                    write.cancel()  # once: a second cancel would interrupt the cleanup after the first
                await asyncio.wait(pending, timeout=CANCEL_SECONDS)
        for write in writes:
            if write.done() and not write.cancelled() and (error := write.exception()) is not None:
                raise error
        return [write.result() for write in writes]
