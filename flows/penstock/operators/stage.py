"""The ground of all steps that wait: for each run an object that takes elements in and gives them out later."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeAlias

from reactivex import Observable, abc

from penstock.element import Element, Step
from penstock.operators.each import name_of
from penstock.operators.stream import Stream
from penstock.scope import Meter, Scope
from penstock.services import Service

Next: TypeAlias = abc.ObserverBase[list[Element[Any]]]
"""Who takes what a step gives out."""


class Stage(Protocol):
    """What a step is in one run."""

    def on_next(self, elements: list[Element[Any]]) -> None: ...

    def on_completed(self) -> None: ...


def staged(name: str, make: Callable[[Next, Scope], Stage]) -> Step[Any, Any]:
    """A step for which `make` makes a stage in each run, told who takes what it gives out, and the run."""

    def step(source: Observable[list[Element[Any]]]) -> Observable[list[Element[Any]]]:
        def subscribe(observer: Next, scheduler: abc.SchedulerBase | None = None) -> abc.DisposableBase:
            stage = make(observer, Scope.of(scheduler, f"step {name}"))
            return source.subscribe(stage.on_next, observer.on_error, stage.on_completed, scheduler=scheduler)

        return Stream(subscribe)

    return step


def service_for(
    call: Callable[[Any], Any] | Service,
    name: str | None,
    *,
    step: str,
    max_in_flight: int,
    timeout: float,
    attempts: int,
) -> Service:
    """What a step calls: the service that it was given, or one made of a function and called as that or the step is."""
    if isinstance(call, Service):
        return call
    name = name or name_of(call, step)
    return Service(name, call, max_in_flight=max_in_flight, timeout=timeout, attempts=attempts)


def enter(elements: Sequence[Element[Any]], now: float) -> None:
    """Note when elements came into a step."""
    for element in elements:
        element.entered = now


def measure(meter: Meter, elements: Sequence[Element[Any]], now: float) -> None:
    """Count how long elements were in a step; those that came in together are counted together."""
    entered, count = elements[0].entered, 0
    for element in elements:
        if element.entered != entered:
            meter.add(now - entered, count)
            entered, count = element.entered, 0
        count += 1
    meter.add(now - entered, count)
