"""Elements that arrive after the deadline of their run."""

from __future__ import annotations

from typing import Any

from reactivex import Observable, abc

from penstock.core.context import RunContext
from penstock.core.element import Element
from penstock.core.operators import RunObservable
from penstock.errors import DeadlineExceeded

_WHEN = "passed before the item was received"


def fail_late(source: Observable[list[Element[Any]]]) -> Observable[list[Element[Any]]]:
    """Fail elements that arrive after the deadline of the run, in front of its first step.

    **Accepts** elements. **Backpressures when** never. **Emits** the same elements. **Completes when** its input
    completes.
    """

    def subscribe(
        observer: abc.ObserverBase[list[Element[Any]]], scheduler: abc.SchedulerBase | None = None
    ) -> abc.DisposableBase:
        context = RunContext.of(scheduler, "the deadline of a run")
        deadline = context.deadlines.run if context.deadlines is not None else None

        def on_next(elements: list[Element[Any]]) -> None:
            if deadline is not None and context.loop.time() >= deadline.at:
                for element in elements:
                    if element.outcome is None:
                        element.fail("source", DeadlineExceeded("source", deadline.seconds, _WHEN), attempts=0)
            observer.on_next(elements)

        return source.subscribe(on_next, observer.on_error, observer.on_completed, scheduler=scheduler)

    return RunObservable(subscribe)
