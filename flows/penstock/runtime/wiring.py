"""How a run is wired: from its source through the steps, parted in branches, into its sink."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import reduce
from typing import Any, cast

from reactivex import Observable
from reactivex.disposable import CompositeDisposable

from penstock.element import FILTERED, Element, Ledger, Step
from penstock.errors import FlowError
from penstock.operators import route
from penstock.operators.each import name_of
from penstock.runtime.sequencer import Sequencer
from penstock.scope import Scope
from penstock.sinks import Sink


def wire(
    source: Observable[list[Element[Any]]],
    steps: Sequence[Step[Any, Any]],
    sink: Sink,
    scope: Scope,
    wires: CompositeDisposable,
    *,
    letters: Step[Any, Any] | None,
    first: int,
) -> None:
    """Connect the parts of a run, and put into `wires` what is to be disposed of, also if the rest cannot be connected.

    `letters` is the step that stores what failed, `first` the seq that the source begins with.
    """
    sink.open(scope)
    last = sink.prepare(ordered=scope.ordered)
    steps = steps if last is None else (*steps, last)
    branches = route(reduce(following, steps, source))
    failure = branches.failure if letters is None else letters(branches.failure)
    results = in_order(sink, scope.ledger, first) if scope.ordered else sink.on_next
    filtered = results if scope.ordered else scope.ledger.accept
    ends = Ends(3, sink.on_completed)
    for branch, take in ((failure, results), (branches.filtered, filtered), (branches.success, results)):
        wires.add(branch.subscribe(take, sink.on_error, ends, scheduler=scope))


def following(stream: Observable[Any], step: Step[Any, Any]) -> Observable[Any]:
    """What comes out of a step. Raises `FlowError` for one that is no operator, which only shows now."""
    output: object = step(stream)
    if not hasattr(output, "subscribe"):
        raise FlowError(f"{name_of(step, 'a step')} gave no Observable; is it called, with its parentheses?")
    return cast("Observable[Any]", output)


def in_order(sink: Sink, ledger: Ledger, first: int) -> Callable[[list[Element[Any]]], None]:
    """Takes elements in any order; the sink gets its own in order, and what was filtered is settled at its turn."""

    def hand_on(elements: list[Element[Any]]) -> None:
        filtered = [element for element in elements if element.outcome is FILTERED]
        if filtered:
            ledger.accept(filtered)
            elements = [element for element in elements if element.outcome is not FILTERED]
        if elements:
            sink.on_next(elements)

    return Sequencer(hand_on, first)


class Ends:
    """Calls back after as many calls."""

    def __init__(self, count: int, then: Callable[[], None]) -> None:
        self._count = count
        self._then = then

    def __call__(self) -> None:
        self._count -= 1
        if not self._count:
            self._then()
