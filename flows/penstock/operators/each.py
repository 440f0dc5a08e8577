"""The ground of all synchronous steps: one pass over the few elements of a notification, and its duration."""

from __future__ import annotations

from asyncio import CancelledError
from collections.abc import Callable
from time import perf_counter
from typing import Any

from reactivex import Observable, abc

from penstock.element import Step
from penstock.operators.stream import Stream
from penstock.scope import Scope

ERRORS = (Exception, CancelledError)
"""What a plain function may raise about one value. A cancelled future raises the second when asked."""


def each(name: str, work: Callable[[list[Any]], None]) -> Step[Any, Any]:
    """A step that has `work` deal with the elements of each notification and passes them all on."""

    def step(source: Observable[list[Any]]) -> Observable[list[Any]]:
        def subscribe(
            observer: abc.ObserverBase[list[Any]], scheduler: abc.SchedulerBase | None = None
        ) -> abc.DisposableBase:
            meter = Scope.of(scheduler, f"step {name}").meter(name)

            def on_next(elements: list[Any]) -> None:
                start = perf_counter()
                work(elements)
                meter.add((perf_counter() - start) / len(elements), len(elements))
                observer.on_next(elements)

            return source.subscribe(on_next, observer.on_error, observer.on_completed, scheduler=scheduler)

        return Stream(subscribe)

    return step


def name_of(function: Callable[..., Any], default: str) -> str:
    """What a step is called when nobody named it: its function's name, if that has one worth showing."""
    name = getattr(function, "__name__", default)
    return default if name == "<lambda>" else str(name)
