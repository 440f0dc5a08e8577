"""Send values through different branches of steps."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from time import perf_counter
from typing import Any, NamedTuple

from reactivex import Observable, Observer, abc
from reactivex.disposable import CompositeDisposable, Disposable

from penstock.core.context import BranchContext, RunContext
from penstock.core.element import OK, Element, Operator
from penstock.core.operators import ERRORS, RunObservable
from penstock.errors import FlowDefinitionError
from penstock.expressions import as_predicate
from penstock.services import Service
from penstock.sinks import Sink
from penstock.steps.slices import in_slices
from penstock.steps.step import Branch, Step, check_function, keep_results, set_option
from penstock.support.tasks import reject_awaitable


@dataclass(frozen=True)
class Route(Step):
    """Send each value through the steps of the first branch whose condition is true.

    Values that no branch takes continue as they are. What a branch emits continues after `Route`, or is a result if the
    branch is final. In a branch, a `Through` whose operator completes (`take`) leaves the input of the run open: what
    enters the branch later is filtered.

    **Accepts** elements. **Backpressures when** a step of a branch does; the other branches continue. **Emits** the
    elements as the branches do, which may overtake each other; an element whose condition raised as failed.
    **Completes when** its input and all branches complete.

    >>> express = Branch("express", lambda order: order["express"], (Map(weigh),))
    >>> step = Route((express, Branch("others", final=True)))
    """

    cases: tuple[Branch, ...]

    kind = "route"

    def __post_init__(self) -> None:
        super().__post_init__()
        set_option(self, "cases", tuple(self.cases))
        if not self.cases:
            raise FlowDefinitionError(f"{self.name}: expected at least one branch")
        names: set[str] = set()
        for number, branch in enumerate(self.cases, 1):
            if branch.name in names:
                raise FlowDefinitionError(f"{self.name}: two branches are called {branch.name!r}")
            names.add(branch.name)
            if branch.when is not None:
                check_function(f"branch {branch.name} of {self.name}: when", branch.when)
            elif number < len(self.cases):
                raise FlowDefinitionError(
                    f"{self.name}: branch {branch.name!r} takes all values; make it the last branch"
                )

    def operator(self) -> Operator[Any, Any]:
        name = self.name
        conditions = [always if branch.when is None else as_predicate(branch.when) for branch in self.cases]
        chains = [tuple(step.operator() for step in branch.steps) for branch in self.cases]
        branches = [BranchPlan(*each) for each in zip(conditions, chains, (b.final for b in self.cases), strict=True)]

        def step(source: Observable[list[Element[Any]]]) -> Observable[list[Element[Any]]]:
            def subscribe(
                observer: abc.ObserverBase[list[Element[Any]]], scheduler: abc.SchedulerBase | None = None
            ) -> abc.DisposableBase:
                context = RunContext.of(scheduler, f"step {name}")
                stage = RouteStage(name, branches, observer, context)
                subscriptions = stage.connect(context)
                return CompositeDisposable(
                    source.subscribe(stage.on_next, observer.on_error, stage.on_completed, scheduler=scheduler),
                    *subscriptions,
                )

            return RunObservable(subscribe)

        return in_slices(name, step, *(branch.when for branch in self.cases))

    @property
    def branches(self) -> tuple[Branch, ...]:
        return self.cases

    def with_services(self, others: Mapping[str, Service]) -> Step:
        return self._on_steps(lambda step: step.with_services(others))

    def with_sinks(self, others: Mapping[str, Sink]) -> Step:
        return self._on_steps(lambda step: step.with_sinks(others))

    def keeping_results(self, *, can_fail: bool) -> Step:
        cases = (
            replace(branch, steps=keep_results(branch.steps, can_fail=can_fail and not branch.final))
            for branch in self.cases
        )
        return replace(self, cases=tuple(cases))

    def _on_steps(self, change: Callable[[Step], Step]) -> Step:
        """Return the step with changed steps in its branches."""
        cases = (replace(branch, steps=tuple(change(step) for step in branch.steps)) for branch in self.cases)
        return replace(self, cases=tuple(cases))


class BranchPlan(NamedTuple):
    """A branch with its operators."""

    when: Callable[[Any], object]
    steps: tuple[Operator[Any, Any], ...]
    final: bool


def always(_: Any) -> bool:
    """Take all values."""
    return True


class BranchInput:
    """The source of the steps of a branch, for one subscriber."""

    def __init__(self) -> None:
        self.observer: abc.ObserverBase[list[Element[Any]]] | None = None

    def subscribe(
        self, observer: abc.ObserverBase[list[Element[Any]]], _: abc.SchedulerBase | None = None
    ) -> abc.DisposableBase:
        """Subscribe to the elements that enter the branch."""
        if self.observer is not None:
            raise RuntimeError("the input of a branch allows one subscriber")
        self.observer = observer
        return Disposable()


class RouteStage:
    """Sends the elements of one run into the branches, and forwards what comes out."""

    def __init__(
        self,
        name: str,
        branches: Sequence[BranchPlan],
        observer: abc.ObserverBase[list[Element[Any]]],
        context: RunContext,
    ) -> None:
        self._name = name
        self._branches = branches
        self._inputs = [BranchInput() if branch.steps else None for branch in branches]
        self._conditions = [(number, branch.when) for number, branch in enumerate(branches)]
        self._observer = observer
        self._histogram = context.histogram(name)
        self._open = 1 + sum(input is not None for input in self._inputs)
        """How many of the input and the branches have not completed."""

    def connect(self, context: RunContext) -> list[abc.DisposableBase]:
        """Subscribe to the outputs of the branches."""
        inside = BranchContext(context)
        subscriptions: list[abc.DisposableBase] = []
        for branch, input in zip(self._branches, self._inputs, strict=True):
            if input is not None:
                output = reduce(lambda stream, step: step(stream), branch.steps, Observable(input.subscribe))
                take = self._finish if branch.final else self._observer.on_next
                subscriptions.append(
                    output.subscribe(Observer(take, self._observer.on_error, self._end_one), scheduler=inside)
                )
        return subscriptions

    def on_next(self, elements: list[Element[Any]]) -> None:
        """Send each element to its branch; elements for the same branch stay together."""
        start = perf_counter()
        groups: list[list[Element[Any]]] = [[] for _ in self._branches]
        others: list[Element[Any]] = []
        for element in elements:
            (others if (number := self._choose(element)) is None else groups[number]).append(element)
        self._histogram.add((perf_counter() - start) / len(elements), len(elements))
        if others:
            self._observer.on_next(others)
        for branch, input, group in zip(self._branches, self._inputs, groups, strict=True):
            if not group:
                continue
            if input is not None and input.observer is not None:
                input.observer.on_next(group)
            elif branch.final:
                self._finish(group)
            else:
                self._observer.on_next(group)

    def on_completed(self) -> None:
        """Complete the inputs of all branches."""
        for input in self._inputs:
            if input is not None and input.observer is not None:
                input.observer.on_completed()
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
