"""Several services asked side by side, their answers merged into the value."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeVar

import msgspec
from reactivex import Observable, abc

from penstock.element import Element, Step
from penstock.operators.map_async import measure
from penstock.scope import Scope
from penstock.services import Failed, Lane, Service

A = TypeVar("A")

Merge = Callable[[Any, dict[str, Any]], Any]


def enrich(
    *, name: str = "enrich", merge: Merge | None = None, **services: Service | Callable[[Any], Any]
) -> Step[A, Any]:
    """Ask several services about each value at the same time, and merge their answers into it by name.

    A dict gets a key for each service, a Struct or dataclass its field of that name; `merge(value, answers)`
    does it for anything else. A failed attempt of one service does not repeat the others. A
    service that failed for good gives the element's failure its step: the name of the service. What the others found is
    kept with the dead letter.

    **Takes in** elements. **Holds back** calls beyond the `max_in_flight` of a service; their elements wait, within
    the window. **Gives out** each element when all its answers are there. **Ends** when its input has and every
    answer is there.

    >>> step = enrich(pricing=price_of, inventory=Service("inventory", stock_of, timeout=2, attempts=2))
    """
    if not services:
        raise ValueError("enrich needs at least one service: enrich(pricing=price_of)")
    asked = {
        key: service if isinstance(service, Service) else Service(key, service) for key, service in services.items()
    }

    def step(source: Observable[list[Element[Any]]]) -> Observable[list[Element[Any]]]:
        def subscribe(
            observer: abc.ObserverBase[list[Element[Any]]], scheduler: abc.SchedulerBase | None = None
        ) -> abc.DisposableBase:
            scope = Scope.of(scheduler, f"step {name}")
            gathering = Gathering(name, asked, merge, observer, scope)
            return source.subscribe(gathering.on_next, observer.on_error, gathering.on_completed, scheduler=scheduler)

        return Observable(subscribe)

    return step


class Gathering:
    """The answers of one run, as they come together."""

    def __init__(
        self,
        name: str,
        services: dict[str, Service],
        merge: Merge | None,
        observer: abc.ObserverBase[list[Element[Any]]],
        scope: Scope,
    ) -> None:
        self._name = name
        self._names = list(services)
        self._merge = merge
        self._observer = observer
        self._scope = scope
        self._meter = scope.meter(name)
        self._open = 0
        self._ended = False
        self._lanes: list[Lane] = []
        for number, service in enumerate(services.values()):
            lane = service.lane(partial(self.on_answers, number), scope.fault)
            scope.on_close(lane.aclose)
            self._lanes.append(lane)

    def on_next(self, elements: list[Element[Any]]) -> None:
        """Ask all services; elements that were decided before pass."""
        now = self._scope.loop.time()
        missing = len(self._names)
        empty = [None] * missing + [missing]  # one place an answer, then how many are missing
        live: list[Element[Any]] = []
        for element in elements:
            if element.outcome is None:
                element.answers = empty.copy()
                element.entered = now
                live.append(element)
        self._open += len(live)
        if len(live) < len(elements):
            self._observer.on_next([element for element in elements if element.outcome is not None])
        for lane in self._lanes:
            lane.submit(live)

    def on_answers(self, number: int, elements: Sequence[Element[Any]], answers: Sequence[Any]) -> None:
        """Note the answers of one service; pass on what has all of them."""
        complete: list[Element[Any]] = []
        for element, answer in zip(elements, answers, strict=True):
            gathered: Any = element.answers
            gathered[number] = answer
            if type(answer) is Failed and element.outcome is None:
                element.fail(self._names[number], answer.error, answer.attempts)
            missing = gathered[-1] - 1
            if missing:
                gathered[-1] = missing
            else:
                complete.append(element)
        if complete:
            self._pass_on(complete)

    def on_completed(self) -> None:
        """No further element will come."""
        self._ended = True
        self._complete()

    def _pass_on(self, elements: list[Element[Any]]) -> None:
        names, merge = self._names, self._merge
        for element in elements:
            gathered: Any = element.answers
            element.answers = None
            if element.outcome is not None:
                element.found = (element.found or {}) | _found(names, gathered)
                continue
            try:
                if merge is None and type(element.value) is dict:
                    value = element.value.copy()
                    for name, answer in zip(names, gathered, strict=False):
                        value[name] = answer
                    element.value = value
                else:
                    element.value = (merge or merged)(element.value, dict(zip(names, gathered, strict=False)))
            except Exception as error:
                element.fail(self._name, error)
        self._open -= len(elements)
        measure(self._meter, elements, self._scope.loop.time())
        self._scope.emit(self._observer, elements)
        self._complete()

    def _complete(self) -> None:
        if self._ended and not self._open:
            self._observer.on_completed()


def _found(names: Sequence[str], answers: Sequence[Any]) -> dict[str, Any]:
    """What the services that did answer found."""
    return {name: answer for name, answer in zip(names, answers, strict=False) if type(answer) is not Failed}


def merged(value: Any, answers: dict[str, Any]) -> Any:
    """A value with the answers in it; the value itself stays as it is."""
    if isinstance(value, dict):
        return {**value, **answers}
    if isinstance(value, msgspec.Struct):
        return msgspec.structs.replace(value, **answers)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.replace(value, **answers)
    raise TypeError(f"enrich does not know how to merge answers into a {type(value).__name__}; give it merge=")
