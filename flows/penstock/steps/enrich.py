"""Call several services concurrently and merge their responses into the value."""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from inspect import iscoroutine
from itertools import compress
from typing import Any, cast

import msgspec

from penstock.core.context import RunContext
from penstock.core.element import Element, Operator
from penstock.core.operators import ERRORS, Downstream, async_operator, record_durations
from penstock.errors import FlowDefinitionError
from penstock.services import CallFailed, CallQueue, Service
from penstock.steps.step import (
    MemoryUse,
    Step,
    as_service,
    check_function,
    describe_function,
    response_memory,
    set_option,
)
from penstock.support.tasks import reject_awaitable

Merge = Callable[[Any, dict[str, Any]], Any]


@dataclass(frozen=True)
class Enrich(Step):
    """Call several services with each value concurrently, and merge their responses into the value by name.

    `fields` are the services by the name of their response; a function becomes a service with the default limits. A
    dict gets a key for each response, a Struct or dataclass its field of that name; for other values pass
    `merge(value, responses)`. A failed attempt of one service does not repeat the others. If a service fails for good,
    the failure has its name as the step; the responses of the others are kept with the dead letter.

    **Accepts** elements. **Backpressures when** a service makes `max_in_flight` calls: further elements wait, within
    the window. **Emits** each element when all its responses are there. **Completes when** its input completes and
    every response is there.

    >>> step = Enrich({"pricing": price_of, "inventory": Service("inventory", stock_of, timeout=2, attempts=2)})
    """

    fields: Mapping[str, Service]
    merge: Merge | None = field(default=None, kw_only=True)

    kind = "enrich"

    def __post_init__(self) -> None:
        if not self.fields:
            raise FlowDefinitionError("enrich: expected at least one service: enrich(pricing=price_of)")
        if self.merge is not None:
            check_function("enrich: merge", self.merge)
        called = {key: as_service(service, key, default=key) for key, service in self.fields.items()}
        set_option(self, "fields", called)
        super().__post_init__()

    def operator(self) -> Operator[Any, Any]:
        return async_operator(self.name, partial(EnrichStage, self.name, dict(self.fields), self.merge))

    @property
    def services(self) -> Mapping[str, Service]:
        return self.fields

    @property
    def failure_points(self) -> tuple[str, ...]:
        return (*self.fields, self.name)

    def with_services(self, others: Mapping[str, Service]) -> Step:
        return replace(self, fields={key: others.get(service.name, service) for key, service in self.fields.items()})

    def memory_bound(self, held: int) -> MemoryUse | None:
        return response_memory(self, held)

    def summary(self) -> tuple[str, ...]:
        return () if self.merge is None else describe_function(self.merge, self.name)


class PendingBatch:
    """Elements that came in together, and a column of answers for each service that answered for all of them at once.

    Services that do not wait answer group by group, and then nothing has to be noted for each element. As soon as
    answers come in another way, the group is taken apart: each element then gathers its own.
    """

    __slots__ = ("columns", "elements", "entered", "missing")

    def __init__(self, elements: list[Element[Any]], services: int, entered: float) -> None:
        self.elements = elements
        self.entered = entered
        self.columns: list[Sequence[Any] | None] = [None] * services
        self.missing = services

    def split(self) -> None:
        """Give each element its answers so far, and behind them how many are missing."""
        for place, element in enumerate(self.elements):
            gathered = [None if column is None else column[place] for column in self.columns]
            element.pending_results = [*gathered, self.missing]
            element.entered_at = self.entered
        self.elements = []


class EnrichStage:
    """The answers of one run, as they come together."""

    def __init__(
        self,
        name: str,
        services: dict[str, Service],
        merge: Merge | None,
        observer: Downstream,
        scope: RunContext,
    ) -> None:
        self._name = name
        self._names = list(services)
        self._merge = merge
        self._observer = observer
        self._scope = scope
        self._meter = scope.histogram(name)
        self._open = 0
        self._ended = False
        self._queues: list[CallQueue] = []
        self._groups: list[deque[PendingBatch]] = []
        """For each service the groups that it has not answered for, oldest first."""
        for number, service in enumerate(services.values()):
            queue = service.open_queue(partial(self.on_answers, number), scope.report_fault)
            scope.on_close(queue.close)
            self._queues.append(queue)
            self._groups.append(deque())

    def on_next(self, elements: list[Element[Any]]) -> None:
        """Ask all services; elements that were decided before pass."""
        live = [element for element in elements if element.outcome is None]
        if len(live) < len(elements):
            self._observer.on_next([element for element in elements if element.outcome is not None])
        if not live:
            return
        self._open += len(live)
        group = PendingBatch(live, len(self._names), self._scope.loop.time())
        for groups, queue in zip(self._groups, self._queues, strict=True):
            groups.append(group)
            queue.submit(live)

    def on_answers(self, number: int, elements: Sequence[Element[Any]], answers: Sequence[Any]) -> None:
        """Note the answers of one service; pass on what has all of them."""
        groups = self._groups[number]
        begin = 0
        while groups and begin < len(elements):
            group = groups[0]
            size = len(group.elements)
            if group.elements != elements[begin : begin + size]:
                break
            groups.popleft()
            if size:  # none: taken apart meanwhile
                self._add_column(group, number, answers[begin : begin + size])
                begin += size
        if begin < len(elements):
            for group in groups:  # some of these answers are for it, and no later ones will be for all of it
                group.split()
            groups.clear()
            self._add_results(number, elements[begin:], answers[begin:])

    def on_completed(self) -> None:
        """No further element will come."""
        self._ended = True
        self._complete()

    def _add_column(self, group: PendingBatch, number: int, answers: Sequence[Any]) -> None:
        """Note that a service has answered for a whole group."""
        if self._queues[number].failed:
            self._fail(number, group.elements, answers)
        group.columns[number] = answers
        group.missing -= 1
        if not group.missing:
            self._merge_columns(group.elements, cast("list[Sequence[Any]]", group.columns))
            self._meter.add(self._scope.loop.time() - group.entered, len(group.elements))
            self._pass_on(group.elements)

    def _add_results(self, number: int, elements: Sequence[Element[Any]], answers: Sequence[Any]) -> None:
        """Note answers element by element; pass on those that have all of them."""
        complete: list[Element[Any]] = []
        for element, answer in zip(elements, answers, strict=True):
            gathered: Any = element.pending_results
            gathered[number] = answer
            gathered[-1] -= 1
            if not gathered[-1]:
                complete.append(element)
        self._fail(number, elements, answers)
        if complete:
            for element in complete:
                self._merge_answers(element, cast("list[Any]", element.pending_results))
                element.pending_results = None
            record_durations(self._meter, complete, self._scope.loop.time())
            self._pass_on(complete)

    def _fail(self, number: int, elements: Sequence[Element[Any]], answers: Sequence[Any]) -> None:
        """Mark the elements for which a service failed; the first service that did gives the reason."""
        for element, answer in zip(elements, answers, strict=True):
            if type(answer) is CallFailed and element.outcome is None:
                element.fail(self._names[number], answer.error, answer.attempts)

    def _merge_columns(self, elements: list[Element[Any]], columns: list[Sequence[Any]]) -> None:
        """Merge the answers of all services for a group.

        Dicts are copied first and then given one service's answers after the other's, which costs a third of giving
        each dict all of its answers at once.
        """
        good = [element.outcome is None for element in elements]
        if not all(good):
            lost = [not one for one in good]
            self._keep_partial(list(compress(elements, lost)), [list(compress(column, lost)) for column in columns])
            elements = list(compress(elements, good))
            columns = [list(compress(column, good)) for column in columns]
        values: list[Any] = [element.value for element in elements]
        if self._merge is not None or set(map(type, values)) != {dict}:
            for element, answers in zip(elements, zip(*columns, strict=True), strict=True):
                self._merge_answers(element, answers)
            return
        values = [value.copy() for value in values]
        for name, column in zip(self._names, columns, strict=True):
            for value, answer in zip(values, column, strict=True):
                value[name] = answer
        for element, value in zip(elements, values, strict=True):
            element.value = value

    def _merge_answers(self, element: Element[Any], answers: Sequence[Any]) -> None:
        """Merge the answers of all services for one element."""
        if element.outcome is not None:
            self._keep_partial([element], [(answer,) for answer in answers[: len(self._names)]])
            return
        try:
            value = (self._merge or merged)(element.value, dict(zip(self._names, answers, strict=False)))
            if iscoroutine(value):
                reject_awaitable(value, "merge")
            element.value = value
        except ERRORS as error:
            element.fail(self._name, error)

    def _keep_partial(self, elements: list[Element[Any]], columns: Sequence[Sequence[Any]]) -> None:
        """Keep what was found about elements that failed, for their dead letters."""
        kept: list[dict[str, Any]] = [{} for _ in elements]
        for name, column in zip(self._names, columns, strict=True):
            for found, answer in zip(kept, column, strict=True):
                if type(answer) is not CallFailed:
                    found[name] = answer
        for element, found in zip(elements, kept, strict=True):
            element.partial_results = found if element.partial_results is None else element.partial_results | found

    def _pass_on(self, elements: list[Element[Any]]) -> None:
        """Let elements go on that have all their answers."""
        self._open -= len(elements)
        self._scope.emit(self._observer, elements)
        self._complete()

    def _complete(self) -> None:
        if self._ended and not self._open:
            self._observer.on_completed()


def merged(value: Any, answers: dict[str, Any]) -> Any:
    """A value with the answers in it; the value itself stays as it is."""
    if isinstance(value, dict):
        return {**cast("dict[str, Any]", value), **answers}
    if isinstance(value, msgspec.Struct):
        return msgspec.structs.replace(value, **answers)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.replace(value, **answers)
    raise TypeError(
        f"enrich does not know how to merge answers into a value of type {type(value).__name__}; give it merge="
    )
