"""What sources and operators give out: an Observable that costs little to subscribe to inside of a run.

reactivex lays an observer, a trampoline, two disposables and their locks around every subscription. A run of a few
orders spent a fifth of its time on them. Between the parts of one run nobody needs them: they live on one event loop,
and what they have in common is disposed of by the run.
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


class RunObservable(Observable[T]):
    """An Observable whose subscriptions inside of a run are direct; outside of one it is like any other."""

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
    """Three functions as an Observer that hears nothing after the end."""

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


ERRORS = (Exception, CancelledError)
"""What a plain function may raise about one value. A cancelled future raises the second when asked."""


def sync_operator(name: str, work: Callable[[list[Any]], None]) -> Operator[Any, Any]:
    """A step that has `work` deal with the elements of each notification and passes them all on."""

    def step(source: Observable[list[Any]]) -> Observable[list[Any]]:
        def subscribe(
            observer: abc.ObserverBase[list[Any]], scheduler: abc.SchedulerBase | None = None
        ) -> abc.DisposableBase:
            meter = RunContext.of(scheduler, f"step {name}").meter(name)

            def on_next(elements: list[Any]) -> None:
                start = perf_counter()
                work(elements)
                meter.add((perf_counter() - start) / len(elements), len(elements))
                observer.on_next(elements)

            return source.subscribe(on_next, observer.on_error, observer.on_completed, scheduler=scheduler)

        return RunObservable(subscribe)

    return step


def callable_name(function: Callable[..., Any], default: str) -> str:
    """What a step is called when nobody named it: its function's name, if that has one worth showing."""
    name = getattr(function, "__name__", default)
    return default if name == "<lambda>" else str(name)


Downstream: TypeAlias = abc.ObserverBase[list[Element[Any]]]
"""Who takes what a step gives out."""


class Stage(Protocol):
    """What a step is in one run."""

    def on_next(self, elements: list[Element[Any]]) -> None: ...

    def on_completed(self) -> None: ...


def async_operator(name: str, make: Callable[[Downstream, RunContext], Stage]) -> Operator[Any, Any]:
    """A step for which `make` makes a stage in each run, told who takes what it gives out, and the run."""

    def step(source: Observable[list[Element[Any]]]) -> Observable[list[Element[Any]]]:
        def subscribe(observer: Downstream, scheduler: abc.SchedulerBase | None = None) -> abc.DisposableBase:
            stage = make(observer, RunContext.of(scheduler, f"step {name}"))
            return source.subscribe(stage.on_next, observer.on_error, stage.on_completed, scheduler=scheduler)

        return RunObservable(subscribe)

    return step


def mark_entered(elements: Sequence[Element[Any]], now: float) -> None:
    """Note when elements came into a step."""
    for element in elements:
        element.entered_at = now


def record_durations(meter: DurationHistogram, elements: Sequence[Element[Any]], now: float) -> None:
    """Count how long elements were in a step; those that came in together are counted together."""
    entered, count = elements[0].entered_at, 0
    for element in elements:
        if element.entered_at != entered:
            meter.add(now - entered, count)
            entered, count = element.entered_at, 0
        count += 1
    meter.add(now - entered, count)
