"""Different steps for different values: the step that flow files call `route`.

(The operator `route` is another matter: it parts the results of a run, at its end.)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import reduce
from time import perf_counter
from typing import Any

from reactivex import Observable, Observer, abc
from reactivex.disposable import CompositeDisposable, Disposable

from penstock.core.context import BranchContext, RunContext
from penstock.core.element import OK, Element, Operator
from penstock.core.operators import ERRORS, RunObservable
from penstock.support.tasks import reject_awaitable


@dataclass(frozen=True, slots=True)
class Branch:
    """A way that some elements take: those for whose values `when` is true, through steps of their own."""

    name: str
    when: Callable[[Any], object] | None = None
    """A plain, quick function; None: everything that no branch before took."""
    steps: tuple[Operator[Any, Any], ...] = ()
    final: bool = False
    """True: what comes out is finished, and the steps after the branches leave it alone."""


def route(branches: Sequence[Branch], *, name: str = "route") -> Operator[Any, Any]:
    """Send each value through the steps of the first branch whose condition is true.

    Values that no branch takes go on as they are. What comes out of a branch goes on to the steps that follow, or is
    a result if the branch ends. Inside a branch `through` with an operator that completes (`take`) leaves the input
    of the run open: what comes into the branch later is filtered.

    **Takes in** elements. **Holds back** never; the steps of a branch may, and the other branches go on. **Gives out**
    the elements as the branches do, which may overtake each other; an element for which a condition raised goes on as
    failed. **Ends** when its input and all branches have.

    >>> express = Branch("express", lambda order: order["express"], (map(weigh),))
    >>> step = branch([express, Branch("others", final=True)])
    """
    _check(branches, name)
    branches = tuple(branches)

    def step(source: Observable[list[Element[Any]]]) -> Observable[list[Element[Any]]]:
        def subscribe(
            observer: abc.ObserverBase[list[Element[Any]]], scheduler: abc.SchedulerBase | None = None
        ) -> abc.DisposableBase:
            scope = RunContext.of(scheduler, f"step {name}")
            junction = RouteStage(name, branches, observer, scope)
            wires = junction.connect(scope)
            return CompositeDisposable(
                source.subscribe(junction.on_next, observer.on_error, junction.on_completed, scheduler=scheduler),
                *wires,
            )

        return RunObservable(subscribe)

    return step


def _check(branches: Sequence[Branch], name: str) -> None:
    names = [branch.name for branch in branches]
    if not names:
        raise ValueError(f"{name} needs at least one branch")
    for number, branch in enumerate(branches):
        if branch.name in names[:number]:
            raise ValueError(f"{name} has two branches called {branch.name!r}")
        if branch.when is None and number < len(names) - 1:
            raise ValueError(f"branch {branch.name!r} of {name} takes everything; put it behind {names[-1]!r}")


class BranchInput:
    """Where elements come into a branch: the source of its steps, for their one subscriber."""

    def __init__(self) -> None:
        self.observer: abc.ObserverBase[list[Element[Any]]] | None = None

    def subscribe(
        self, observer: abc.ObserverBase[list[Element[Any]]], _: abc.SchedulerBase | None = None
    ) -> abc.DisposableBase:
        """Take what comes into the branch."""
        if self.observer is not None:
            raise RuntimeError("the entrance of a branch takes one subscriber")
        self.observer = observer
        return Disposable()


class RouteStage:
    """The branches of one run, and the elements on their way into them and out."""

    def __init__(
        self,
        name: str,
        branches: tuple[Branch, ...],
        observer: abc.ObserverBase[list[Element[Any]]],
        scope: RunContext,
    ) -> None:
        self._name = name
        self._branches = branches
        self._entrances = [BranchInput() if branch.steps else None for branch in branches]
        self._conditions = [(number, branch.when or _always) for number, branch in enumerate(branches)]
        self._observer = observer
        self._meter = scope.histogram(name)
        self._open = 1 + sum(entrance is not None for entrance in self._entrances)
        """The input, and the branches that may still give something out."""

    def connect(self, scope: RunContext) -> list[abc.DisposableBase]:
        """Subscribe to what the branches give out."""
        inside = BranchContext(scope)
        wires: list[abc.DisposableBase] = []
        for branch, entrance in zip(self._branches, self._entrances, strict=True):
            if entrance is not None:
                way = reduce(lambda stream, step: step(stream), branch.steps, Observable(entrance.subscribe))
                take = self._finish if branch.final else self._observer.on_next
                wires.append(way.subscribe(Observer(take, self._observer.on_error, self._end_one), scheduler=inside))
        return wires

    def on_next(self, elements: list[Element[Any]]) -> None:
        """Send each element its way; those that go the same way stay together."""
        start = perf_counter()
        ways: list[list[Element[Any]]] = [[] for _ in self._branches]
        passing: list[Element[Any]] = []
        for element in elements:
            (passing if (number := self._choose(element)) is None else ways[number]).append(element)
        self._meter.add((perf_counter() - start) / len(elements), len(elements))
        if passing:
            self._observer.on_next(passing)
        for branch, entrance, way in zip(self._branches, self._entrances, ways, strict=True):
            if not way:
                continue
            if entrance is not None and entrance.observer is not None:
                entrance.observer.on_next(way)
            elif branch.final:
                self._finish(way)
            else:
                self._observer.on_next(way)

    def on_completed(self) -> None:
        """No further element will come into any branch."""
        for entrance in self._entrances:
            if entrance is not None and entrance.observer is not None:
                entrance.observer.on_completed()
        self._end_one()

    def _choose(self, element: Element[Any]) -> int | None:
        if element.outcome is not None:
            return None
        value = element.value
        try:
            for number, when in self._conditions:
                if verdict := when(value):
                    if verdict is not True:
                        reject_awaitable(verdict, "the condition")
                    return number
        except ERRORS as error:
            element.fail(self._name, error)
        return None

    def _finish(self, elements: list[Element[Any]]) -> None:
        for element in elements:
            if element.outcome is None:
                element.outcome = OK
        self._observer.on_next(elements)

    def _end_one(self) -> None:
        self._open -= 1
        if not self._open:
            self._observer.on_completed()


def _always(_: Any) -> bool:
    return True
