"""What sources and operators give out: an Observable that costs little to subscribe to inside of a run.

reactivex lays an observer, a trampoline, two disposables and their locks around every subscription. A run of a few
orders spent a fifth of its time on them. Between the parts of one run nobody needs them: they live on one event loop,
and what they have in common is disposed of by the run.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from reactivex import Observable, abc

from penstock.scope import Scope

T = TypeVar("T")


class Stream(Observable[T]):
    """An Observable whose subscriptions inside of a run are direct; outside of one it is like any other."""

    def subscribe(
        self,
        on_next: abc.ObserverBase[T] | Callable[[T], None] | None = None,
        on_error: Callable[[Exception], None] | None = None,
        on_completed: Callable[[], None] | None = None,
        *,
        scheduler: abc.SchedulerBase | None = None,
    ) -> abc.DisposableBase:
        if isinstance(scheduler, Scope) and callable(on_next) and on_error is not None and on_completed is not None:
            return self._subscribe_core(Listener(on_next, on_error, on_completed), scheduler)
        return super().subscribe(on_next, on_error, on_completed, scheduler=scheduler)


class Listener(abc.ObserverBase[T]):
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
