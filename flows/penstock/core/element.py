"""What travels through a flow, and how it is settled.

An element is one value on its way, with its place in the input and, once a step could not deal with it, its
failure. What travels between steps is a short list of them (`Elements`), because a notification of reactivex costs
more than most steps do; steps are written and understood element by element all the same.

Settling is the one exit: exactly once for every element, and its credit returns to the window exactly then.
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

MESSAGE_LIMIT = 2_000
"""Characters kept of an error's message: it is stored, sent and printed, so it needs an end."""


class Outcome(StrEnum):
    """How an element was settled."""

    OK = "ok"
    FAILED = "failed"
    FILTERED = "filtered"
    CANCELLED = "cancelled"

    __hash__ = str.__hash__
    """The hash of an Enum is a call of Python code, and accounts are kept by outcome."""


OK, FAILED, FILTERED, CANCELLED = Outcome
# The members by names of their own, for the path that every element takes: looking one up in its class costs 75 ns on
# Python 3.11, a name 5.


class Failure(Struct, frozen=True, gc=False):
    """Why an element failed: at which step, by which error, after how many attempts."""

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
        """The failure of an element that a step rejects, without an exception of that type."""
        because = f"{cause.__class__.__name__}: {describe(cause)}"[:MESSAGE_LIMIT] if cause else None
        return cls(step, type, message[:MESSAGE_LIMIT], cause=because)


UNKNOWN = Failure("?", "?", "?")
"""The failure of an element whose step, somebody's own, said that it failed and not why."""


class PartCounter(Protocol):
    """Counts the parts of elements: the ledger of the run."""

    def count_part(self) -> None:
        """Count one more part of an element."""
        ...


class Element(Struct, Generic[T], eq=False, gc=False):
    """A value that travels, its place in the input, and what was decided about it.

    `outcome` is set by the step that decides (a filter, a failure, the end of a branch); from then on later steps let
    the element pass untouched until the end of the flow settles it. At the end nothing decided is a success too. A
    part, made by `flat_map`, has a `parent`, and the parent is settled when all its parts are.

    The garbage collector does not look at elements (`gc=False`), for there are many. So nothing that they refer to may
    refer back to them, or it is never freed.
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
    family: Parts | None = None

    def fail(self, step: str, error: BaseException, attempts: int = 1) -> None:
        """Mark this element as failed at a step."""
        self.outcome = FAILED
        self.failure = Failure.of(step, error, attempts)

    @property
    def ok(self) -> bool:
        """Whether this element is a success, once the steps are behind it."""
        return self.outcome is None or self.outcome is OK

    @property
    def root(self) -> Element[Any]:
        """The element of the input that this one is, or is a part of."""
        element: Element[Any] = self
        while element.parent is not None:
            element = element.parent
        return element

    def begin_parts(self, released: Callable[[int], None]) -> None:
        """Begin to replace this element by parts; `released` is told how many of them were settled.

        It must not belong to anything that refers to elements: see above.
        """
        self.family = Parts(released)

    def add_part(self, value: Any) -> Element[Any]:
        """One more part of this element."""
        family = self.family
        assert family is not None
        part: Element[Any] = Element(value, self.seq, self.ledger, self.input, key=self.key)
        part.parent, part.part = self, family.made
        family.made += 1
        family.open += 1
        self.ledger.count_part()
        return part

    def close_parts(self) -> None:
        """No further part of this element will be made. Say so before the last one leaves."""
        assert self.family is not None
        self.family.complete = True


Path = tuple[int, ...]
"""Where an element stands: its place in the input, and if it is a part, its number, at each depth."""


def path_of(element: Element[Any]) -> Path:
    """Where an element stands."""
    if element.parent is None:
        return (element.seq,)
    return (*path_of(element.parent), element.part or 0)


class Parts(Struct, eq=False):
    """The parts of one element: how many are open, and what becomes of the whole."""

    released: Callable[[int], None]
    made: int = 0
    open: int = 0
    complete: bool = False
    """True when no further part will be made."""
    worst: Outcome = FILTERED

    def ends_with(self, part: Element[Any]) -> bool:
        """Whether a part is the last one, and no further will come."""
        return self.complete and part.part == self.made - 1


def message_of(error: BaseException) -> str:
    """Return the message of an error, cut to `MESSAGE_LIMIT` characters."""
    return describe(error)[:MESSAGE_LIMIT]


Elements: TypeAlias = list[Element[T]]
"""What one notification carries: a few elements, at least one."""

Operator: TypeAlias = Callable[[Observable[list[Element[A]]]], Observable[list[Element[B]]]]
"""One operator of a flow."""
