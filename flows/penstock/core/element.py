"""Elements: values on their way through a flow, and how they are settled.

An element is one value with its position in the input and, if a step failed, its failure. Steps exchange short lists
of elements, because a notification of reactivex costs more than most steps do; the documentation of steps describes
what they do with one element.

Every element is settled exactly once, and its credit returns to the window at that moment.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from typing import Any, Generic, Protocol, TypeAlias, TypeVar

from msgspec import Struct
from reactivex import Observable

from penstock.errors import describe

T = TypeVar("T")
A = TypeVar("A")
B = TypeVar("B")

NEVER = float("inf")
"""The deadline of an element that has none."""

MESSAGE_LIMIT = 2_000
"""Characters kept of an error message, because it is stored, sent and printed."""


class Outcome(StrEnum):
    """How an element was settled."""

    OK = "ok"
    FAILED = "failed"
    FILTERED = "filtered"
    CANCELLED = "cancelled"

    __hash__ = str.__hash__
    """The hash of an Enum is a call of Python code, and the ledger counts by outcome."""


OK, FAILED, FILTERED, CANCELLED = Outcome
# Module-level names of the members, for the hot path: an attribute lookup in the class costs 75 ns on Python 3.11, a
# global name 5 ns.


class Failure(Struct, frozen=True, gc=False):
    """Why an element failed: the step, the error, and the number of attempts."""

    step: str
    type: str
    message: str
    attempts: int = 1
    cause: str | None = None

    @classmethod
    def of(cls, step: str, error: BaseException, attempts: int = 1) -> Failure:
        cause = error.__cause__ or error.__context__
        return cls(
            step,
            type(error).__name__,
            message_of(error),
            attempts,
            f"{type(cause).__name__}: {describe(cause)}"[:MESSAGE_LIMIT] if cause else None,
        )

    @classmethod
    def rejected(cls, step: str, type: str, message: str, cause: BaseException | None = None) -> Failure:
        """Create the failure of an element that a step rejects, without an exception of that type."""
        because = f"{cause.__class__.__name__}: {describe(cause)}"[:MESSAGE_LIMIT] if cause else None
        return cls(step, type, message[:MESSAGE_LIMIT], cause=because)


UNKNOWN = Failure("?", "?", "?")
"""The failure of an element that a user's step marked as failed without a reason."""


class PartCounter(Protocol):
    """Counts the parts of elements; implemented by the ledger of the run."""

    def count_part(self) -> None:
        """Count one more part of an element."""
        ...


class Element(Struct, Generic[T], eq=False, gc=False):
    """A value with its position in the input and its outcome.

    `outcome` is set by the step that decides it (a filter, a failure, the end of a branch). Later steps let the element
    pass unchanged until the end of the flow settles it. An element without an outcome at the end is a success. A part,
    made by `flat_map`, has a `parent`, which is settled when all its parts are.

    `partial_results` are the results that the step had in which it failed (see `penstock.core.partial_results`). An
    element may arrive with those of its dead letter. Then the step `enrich` that had them calls only the services whose
    results are missing. `kept_results` are those of the steps `enrich` that it has passed, if a later step can fail.
    Its dead letter has both. Parts (`flat_map`) do not inherit any; their dead letter has those of their root.

    The garbage collector does not track elements (`gc=False`), because there are many. So no object that they refer to
    may refer back to them: the cycle would never be freed.
    """

    value: T
    seq: int
    ledger: PartCounter
    input: Any = None
    size: int = 0
    key: Any = None
    outcome: Outcome | None = None
    failure: Failure | None = None
    settled: bool = False
    partial_results: dict[str, Any] | None = None
    pending_results: list[Any] | None = None
    entered_at: float = 0.0
    dead_letter_id: str | None = None
    parent: Element[Any] | None = None
    part: int | None = None
    parts: Parts | None = None
    kept_results: tuple[Any, ...] | None = None
    deadline: float = NEVER
    """When it must be finished, on the clock of the event loop."""

    def fail(self, step: str, error: BaseException, attempts: int = 1) -> None:
        """Mark this element as failed at a step."""
        self.outcome = FAILED
        self.failure = Failure.of(step, error, attempts)

    @property
    def ok(self) -> bool:
        """Whether this element is a success, after the last step."""
        return self.outcome is None or self.outcome is OK

    @property
    def root(self) -> Element[Any]:
        """The element of the input that this element is, or is a part of."""
        element: Element[Any] = self
        while element.parent is not None:
            element = element.parent
        return element

    def begin_parts(self, on_settled: Callable[[int], None]) -> None:
        """Start to replace this element by parts. `on_settled` is called with the number of parts that were settled.

        It must not belong to an object that refers to elements: see the class docstring.
        """
        self.parts = Parts(on_settled)

    def add_part(self, value: Any) -> Element[Any]:
        """Create one more part of this element."""
        parts = self.parts
        assert parts is not None
        part: Element[Any] = Element(value, self.seq, self.ledger, self.input, key=self.key)
        part.parent, part.part, part.deadline = self, parts.created, self.deadline
        parts.created += 1
        parts.open += 1
        self.ledger.count_part()
        return part

    def close_parts(self) -> None:
        """Declare that no further part will be made. Called before the last part is emitted."""
        assert self.parts is not None
        self.parts.complete = True


Path = tuple[int, ...]
"""The position of an element: its number in the input and, for a part, its number at each depth."""


def path_of(element: Element[Any]) -> Path:
    """Return the position of an element."""
    if element.parent is None:
        return (element.seq,)
    return (*path_of(element.parent), element.part or 0)


class Parts(Struct, eq=False):
    """The parts of one element: how many are open, and the worst outcome so far."""

    on_settled: Callable[[int], None]
    created: int = 0
    open: int = 0
    complete: bool = False
    """Whether no further part will be made."""
    worst: Outcome = FILTERED

    def ends_with(self, part: Element[Any]) -> bool:
        """Return whether a part is the last one."""
        return self.complete and part.part == self.created - 1


def message_of(error: BaseException) -> str:
    """Return the message of an error, cut to `MESSAGE_LIMIT` characters."""
    return describe(error)[:MESSAGE_LIMIT]


Operator: TypeAlias = Callable[[Observable[list[Element[A]]]], Observable[list[Element[B]]]]
"""An operator of a flow."""
