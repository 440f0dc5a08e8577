"""What a run needs to know of a flow: its steps, its window, and where its failures go."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial, reduce
from typing import Any, NamedTuple, TypeVar, cast

from msgspec import Struct
from reactivex import Observable, abc
from reactivex.disposable import CompositeDisposable, Disposable

from penstock.core import window
from penstock.core.context import RunContext
from penstock.core.element import FAILED, FILTERED, OK, Element, Operator
from penstock.core.ledger import Ledger
from penstock.core.operators import RunObservable, callable_name
from penstock.deadletters import DeadLetterStore
from penstock.errors import FlowDefinitionError
from penstock.results import ResultConsumer
from penstock.runtime.resequencer import Resequencer


class RunPlan(Struct, frozen=True, eq=False):
    """A flow, ready to be run."""

    name: str
    steps: tuple[Operator[Any, Any], ...] = ()
    elements: int = window.ELEMENTS
    bytes: int = window.BYTES
    bound: int | None = None
    """Elements that one run can hold at the most, parts included; None if nobody has counted."""
    dead_letters: str | DeadLetterStore | None = None
    """A store or its URL; None: failures are told and counted, but not kept."""
    redacted: tuple[str, ...] = ()
    """Paths of fields that letters do not keep."""
    ordered: bool = False
    """Whether results keep the order of the input, unless a run is asked otherwise."""
    revision: int | None = None
    """Which version of the flow this is, in a service that can load another; it starts at 1 in each process."""
    digest: str | None = None
    """What tells the version apart in all processes."""


T = TypeVar("T")


class Partitioned(NamedTuple):
    """The streams that `route` parts a stream in. Each takes one subscriber."""

    success: Observable[list[Element[Any]]]
    failure: Observable[list[Element[Any]]]
    filtered: Observable[list[Element[Any]]]


def partition(source: Observable[list[Element[T]]]) -> Partitioned:
    """Part a stream by what was decided about its elements, with one look at each.

    **Takes in** elements; it subscribes to its input when all three branches are subscribed. **Holds back** never.
    **Gives out** each element on one of the branches. **Ends** all branches when its input ends.
    """
    fork = OutcomePartition(source)
    return Partitioned(*(RunObservable(partial(fork.subscribe, branch)) for branch in range(3)))


class OutcomePartition:
    """One input, three outputs."""

    def __init__(self, source: Observable[list[Element[Any]]]) -> None:
        self._source = source
        self._outputs: dict[int, abc.ObserverBase[list[Element[Any]]]] = {}
        self._input: abc.DisposableBase | None = None
        self._left = 0

    def subscribe(
        self, branch: int, observer: abc.ObserverBase[list[Element[Any]]], scheduler: abc.SchedulerBase | None = None
    ) -> abc.DisposableBase:
        """Take the output of one branch; the last to come starts the input."""
        if branch in self._outputs:
            raise RuntimeError("a branch of route takes one subscriber")
        self._outputs[branch] = observer
        if len(self._outputs) == 3:
            self._input = self._source.subscribe(self.on_next, self.on_error, self.on_completed, scheduler=scheduler)
        return Disposable(self._leave)

    def on_next(self, elements: list[Element[Any]]) -> None:
        """Give each element to its branch; the usual case, all of them good, copies nothing."""
        for element in elements:
            if element.outcome is not None and element.outcome is not OK:
                break
        else:
            self._outputs[0].on_next(elements)
            return
        parts: tuple[list[Element[Any]], ...] = ([], [], [])
        for element in elements:
            outcome = element.outcome
            way = 0 if outcome is None or outcome is OK else 1 if outcome is FAILED else 2
            parts[way].append(element)
        for branch, part in enumerate(parts):
            if part:
                self._outputs[branch].on_next(part)

    def _leave(self) -> None:
        """One branch is no longer wanted; the input lives as long as one is."""
        self._left += 1
        if self._left == 3 and self._input is not None:
            self._input.dispose()
            self._input = None  # it refers to the source's task, and that, cancelled, to this by its traceback

    def on_error(self, error: Exception) -> None:
        """The flow broke: all branches end."""
        for output in self._outputs.values():
            output.on_error(error)

    def on_completed(self) -> None:
        """The input ended: all branches end."""
        for output in self._outputs.values():
            output.on_completed()


def connect(
    source: Observable[list[Element[Any]]],
    steps: Sequence[Operator[Any, Any]],
    sink: ResultConsumer,
    scope: RunContext,
    wires: CompositeDisposable,
    *,
    letters: Operator[Any, Any] | None,
    first: int,
) -> None:
    """Connect the parts of a run, and put into `wires` what is to be disposed of, also if the rest cannot be connected.

    `letters` is the step that stores what failed, `first` the seq that the source begins with.
    """
    sink.open(scope)
    last = sink.final_operator(ordered=scope.ordered)
    steps = steps if last is None else (*steps, last)
    branches = partition(reduce(apply_operator, steps, source))
    failure = branches.failure if letters is None else letters(branches.failure)
    results = in_order(sink, scope.ledger, first) if scope.ordered else sink.on_next
    filtered = results if scope.ordered else scope.ledger.settle_accepted
    ends = CompletionCounter(3, sink.on_completed)
    for branch, take in ((failure, results), (branches.filtered, filtered), (branches.success, results)):
        wires.add(branch.subscribe(take, sink.on_error, ends, scheduler=scope))


def apply_operator(stream: Observable[Any], step: Operator[Any, Any]) -> Observable[Any]:
    """What comes out of a step. Raises `FlowDefinitionError` for one that is no operator, which only shows now."""
    output: object = step(stream)
    if not hasattr(output, "subscribe"):
        raise FlowDefinitionError(
            f"{callable_name(step, 'a step')} gave no Observable; is it called, with its parentheses?"
        )
    return cast("Observable[Any]", output)


def in_order(sink: ResultConsumer, ledger: Ledger, first: int) -> Callable[[list[Element[Any]]], None]:
    """Takes elements in any order; the sink gets its own in order, and what was filtered is settled at its turn."""

    def hand_on(elements: list[Element[Any]]) -> None:
        filtered = [element for element in elements if element.outcome is FILTERED]
        if filtered:
            ledger.settle_accepted(filtered)
            elements = [element for element in elements if element.outcome is not FILTERED]
        if elements:
            sink.on_next(elements)

    return Resequencer(hand_on, first)


class CompletionCounter:
    """Calls back after as many calls."""

    def __init__(self, count: int, then: Callable[[], None]) -> None:
        self._count = count
        self._then = then

    def __call__(self) -> None:
        self._count -= 1
        if not self._count:
            self._then()
