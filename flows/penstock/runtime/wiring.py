"""Wiring: connect source, steps, outcome partition, dead letters and result consumer of one run."""

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
from penstock.deadletters.target import DeadLetterTarget
from penstock.errors import FlowDefinitionError
from penstock.results import ResultConsumer
from penstock.runtime.late_elements import fail_late
from penstock.runtime.order import Order, one_by_one_of_key
from penstock.runtime.resequencer import Resequencer

T = TypeVar("T")


class RunPlan(Struct, frozen=True, eq=False):
    """Everything that a run needs of a flow."""

    name: str
    steps: tuple[Operator[Any, Any], ...] = ()
    elements: int = window.ELEMENTS
    bytes: int = window.BYTES
    bound: int | None = None
    """Maximum elements that one run can hold, including parts; None if it is unknown."""
    dead_letters: str | DeadLetterStore | DeadLetterTarget | None = None
    """A store, its URL, or its URL with those of its copies. None: failures are reported and counted, not stored."""
    redacted: tuple[str, ...] = ()
    """Paths of fields to remove from dead letters."""
    order: Order = Order.COMPLETION
    """The order of results. A run may override it."""
    deadline: float | None = None
    """Seconds that each element may take, from its source on."""
    key: str | None = None
    """The field that identifies an item. The first step sets the keys of the elements."""
    revision: int | None = None
    """The revision of the flow, in a service that can load several; it starts at 1 in each process."""
    digest: str | None = None
    """Identifies the version of the flow across processes."""


def connect(
    source: Observable[list[Element[Any]]],
    steps: Sequence[Operator[Any, Any]],
    consumer: ResultConsumer,
    context: RunContext,
    subscriptions: CompositeDisposable,
    *,
    letters: Operator[Any, Any] | None,
    first_seq: int,
    by_key: bool = False,
) -> None:
    """Connect the parts of a run.

    Adds to `subscriptions` whatever must be disposed, also if a later part cannot be connected. `letters` is the step
    that stores dead letters; `first_seq` is the sequence number at which the source starts. With `by_key`, elements
    with the same key are processed one after the other.
    """
    consumer.open(context)
    last = consumer.final_operator(ordered=context.ordered)
    steps = steps if last is None else (*steps, last)
    if by_key:
        steps = (*steps[:1], one_by_one_of_key(), *steps[1:])
    if context.deadlines is not None and context.deadlines.run is not None:
        steps = (*steps[:1], fail_late, *steps[1:])
    branches = partition(reduce(apply_operator, steps, source))
    failure = branches.failure if letters is None else letters(branches.failure)
    results = in_order(consumer, context.ledger, first_seq) if context.ordered else consumer.on_next
    filtered = results if context.ordered else context.ledger.settle_accepted
    completed = CompletionCounter(3, consumer.on_completed)
    for branch, accept in ((failure, results), (branches.filtered, filtered), (branches.success, results)):
        subscriptions.add(branch.subscribe(accept, consumer.on_error, completed, scheduler=context))


def apply_operator(stream: Observable[Any], step: Operator[Any, Any]) -> Observable[Any]:
    """Apply a step to a stream. Raises `FlowDefinitionError` if it is not an operator, which is known only now."""
    output: object = step(stream)
    if not hasattr(output, "subscribe"):
        raise FlowDefinitionError(
            f"{callable_name(step, 'a step')}: expected an operator that returns an Observable; is it called, with "
            "its parentheses?"
        )
    return cast("Observable[Any]", output)


def in_order(consumer: ResultConsumer, ledger: Ledger, first_seq: int) -> Callable[[list[Element[Any]]], None]:
    """Return a function that accepts elements in any order.

    The consumer receives its elements in input order; filtered ones are settled in their position.
    """

    def forward(elements: list[Element[Any]]) -> None:
        filtered = [element for element in elements if element.outcome is FILTERED]
        if filtered:
            ledger.settle_accepted(filtered)
            elements = [element for element in elements if element.outcome is not FILTERED]
        if elements:
            consumer.on_next(elements)

    return Resequencer(forward, first_seq)


class CompletionCounter:
    """Calls back once it has been called `count` times."""

    def __init__(self, count: int, then: Callable[[], None]) -> None:
        self._count = count
        self._then = then

    def __call__(self) -> None:
        self._count -= 1
        if not self._count:
            self._then()


class Partitioned(NamedTuple):
    """The streams that `partition` returns. Each accepts one subscriber."""

    success: Observable[list[Element[Any]]]
    failure: Observable[list[Element[Any]]]
    filtered: Observable[list[Element[Any]]]


def partition(source: Observable[list[Element[T]]]) -> Partitioned:
    """Partition elements by outcome: success, failure, filtered.

    **Accepts** elements; subscribes to its input when all three branches are subscribed. **Backpressures when** never.
    **Emits** each element on one of the branches. **Completes when** its input completes, on all branches.
    """
    partition = OutcomePartition(source)
    return Partitioned(*(RunObservable(partial(partition.subscribe, branch)) for branch in range(3)))


class OutcomePartition:
    """One input, three outputs."""

    def __init__(self, source: Observable[list[Element[Any]]]) -> None:
        self._source = source
        self._outputs: dict[int, abc.ObserverBase[list[Element[Any]]]] = {}
        self._input: abc.DisposableBase | None = None
        self._unsubscribed = 0

    def subscribe(
        self, branch: int, observer: abc.ObserverBase[list[Element[Any]]], scheduler: abc.SchedulerBase | None = None
    ) -> abc.DisposableBase:
        """Set the output of one branch. The third one subscribes to the input."""
        if branch in self._outputs:
            raise RuntimeError("a branch of a partition accepts one subscriber")
        self._outputs[branch] = observer
        if len(self._outputs) == 3:
            self._input = self._source.subscribe(self.on_next, self.on_error, self.on_completed, scheduler=scheduler)
        return Disposable(self._unsubscribe)

    def on_next(self, elements: list[Element[Any]]) -> None:
        """Forward each element to its branch. The usual case, in which all succeeded, copies nothing."""
        for element in elements:
            if element.outcome is not None and element.outcome is not OK:
                break
        else:
            self._outputs[0].on_next(elements)
            return
        parts: tuple[list[Element[Any]], ...] = ([], [], [])
        for element in elements:
            outcome = element.outcome
            branch = 0 if outcome is None or outcome is OK else 1 if outcome is FAILED else 2
            parts[branch].append(element)
        for branch, part in enumerate(parts):
            if part:
                self._outputs[branch].on_next(part)

    def _unsubscribe(self) -> None:
        """Unsubscribe one branch; the third one disposes the input."""
        self._unsubscribed += 1
        if self._unsubscribed == 3 and self._input is not None:
            self._input.dispose()
            self._input = None  # breaks a cycle: it refers to the source's task, whose traceback refers to this object

    def on_error(self, error: Exception) -> None:
        """Forward an error of the flow to all branches."""
        for output in self._outputs.values():
            output.on_error(error)

    def on_completed(self) -> None:
        """Complete all branches."""
        for output in self._outputs.values():
            output.on_completed()
