"""Make operators of functions or of stages, with subscriptions that are cheap inside a run.

reactivex puts an observer, a trampoline, two disposables and their locks around every subscription, a fifth of the
time of a run of a few orders. Between the parts of one run they are not needed: all parts run on one event loop, and
the run disposes of them together.
"""

from __future__ import annotations

from asyncio import CancelledError
from collections.abc import Callable, Sequence
from time import perf_counter
from typing import Any, Protocol, TypeAlias, TypeVar

from reactivex import Observable, abc

from penstock.core.context import DurationHistogram, RunContext
from penstock.core.element import Element, Operator

T = TypeVar("T")

Downstream: TypeAlias = abc.ObserverBase[list[Element[Any]]]
"""The observer that receives what a step emits."""

ERRORS = (Exception, CancelledError)
"""Errors of a plain function that concern one value only. Reading a cancelled future raises `CancelledError`."""


def sync_operator(name: str, function: Callable[[list[Any]], None]) -> Operator[Any, Any]:
    """Make a synchronous operator: apply a function to the elements of each notification and record its duration."""

    def step(source: Observable[list[Any]]) -> Observable[list[Any]]:
        def subscribe(
            observer: abc.ObserverBase[list[Any]], scheduler: abc.SchedulerBase | None = None
        ) -> abc.DisposableBase:
            histogram = RunContext.of(scheduler, f"step {name}").histogram(name)

            def on_next(elements: list[Any]) -> None:
                start = perf_counter()
                function(elements)
                histogram.add((perf_counter() - start) / len(elements), len(elements))
                observer.on_next(elements)

            return source.subscribe(on_next, observer.on_error, observer.on_completed, scheduler=scheduler)

        return RunObservable(subscribe)

    return step


class Stage(Protocol):
    """An asynchronous step in one run."""

    def on_next(self, elements: list[Element[Any]]) -> None: ...

    def on_completed(self) -> None: ...


def async_operator(name: str, create_stage: Callable[[Downstream, RunContext], Stage]) -> Operator[Any, Any]:
    """Make an asynchronous operator. `create_stage` creates its stateful object for each run."""

    def step(source: Observable[list[Element[Any]]]) -> Observable[list[Element[Any]]]:
        def subscribe(observer: Downstream, scheduler: abc.SchedulerBase | None = None) -> abc.DisposableBase:
            stage = create_stage(observer, RunContext.of(scheduler, f"step {name}"))
            return source.subscribe(stage.on_next, observer.on_error, stage.on_completed, scheduler=scheduler)

        return RunObservable(subscribe)

    return step


class RunObservable(Observable[T]):
    """An Observable with direct subscriptions inside a run. Outside of a run it behaves like any other."""

    def subscribe(
        self,
        on_next: abc.ObserverBase[T] | Callable[[T], None] | None = None,
        on_error: Callable[[Exception], None] | None = None,
        on_completed: Callable[[], None] | None = None,
        *,
        scheduler: abc.SchedulerBase | None = None,
    ) -> abc.DisposableBase:
        if (
            isinstance(scheduler, RunContext)
            and callable(on_next)
            and on_error is not None
            and on_completed is not None
        ):
            return self._subscribe_core(DirectObserver(on_next, on_error, on_completed), scheduler)
        return super().subscribe(on_next, on_error, on_completed, scheduler=scheduler)


class DirectObserver(abc.ObserverBase[T]):
    """An Observer made of three functions. Ignores notifications after the end."""

    __slots__ = ("_ended", "_on_completed", "_on_error", "_on_next")

    def __init__(
        self, on_next: Callable[[T], Any], on_error: Callable[[Exception], None], on_completed: Callable[[], None]
    ) -> None:
        self._on_next = on_next
        self._on_error = on_error
        self._on_completed = on_completed
        self._ended = False

    def on_next(self, value: T) -> None:
        if not self._ended:
            self._on_next(value)

    def on_error(self, error: Exception) -> None:
        if not self._ended:
            self._ended = True
            self._on_error(error)

    def on_completed(self) -> None:
        if not self._ended:
            self._ended = True
            self._on_completed()


def callable_name(function: Callable[..., Any], default: str) -> str:
    """Return the default name of a step: the name of its function, unless it is a lambda."""
    name = getattr(function, "__name__", default)
    return default if name == "<lambda>" else str(name)


def mark_entered(elements: Sequence[Element[Any]], now: float) -> None:
    """Record when elements entered a step."""
    for element in elements:
        element.entered_at = now


def record_durations(histogram: DurationHistogram, elements: Sequence[Element[Any]], now: float) -> None:
    """Record how long elements were in a step. Consecutive elements that entered together are counted together."""
    entered, count = elements[0].entered_at, 0
    for element in elements:
        if element.entered_at != entered:
            histogram.add(now - entered, count)
            entered, count = element.entered_at, 0
        count += 1
    histogram.add(now - entered, count)
