"""What travels through a flow, and how it is settled.

An element is one value on its way, with its place in the input and, once a step could not deal with it, its
failure. What travels between steps is a short list of them (`Elements`), because a notification of reactivex costs
more than most steps do; steps are written and understood element by element all the same.

Settling is the one exit: exactly once for every element, and its credit returns to the window exactly then.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from enum import StrEnum
from typing import Any, Generic, TypeAlias, TypeVar

from msgspec import Struct
from reactivex import Observable

from penstock.errors import SettledTwice, describe
from penstock.window import Window

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
    ledger: Ledger
    input: Any = None
    size: int = 0
    key: Any = None
    outcome: Outcome | None = None
    failure: Failure | None = None
    settled: bool = False
    found: dict[str, Any] | None = None
    answers: list[Any] | None = None
    entered: float = 0.0
    letter: str | None = None
    parent: Element[Any] | None = None
    part: int | None = None
    family: Family | None = None

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

    def expand(self, released: Callable[[int], None]) -> None:
        """Begin to replace this element by parts; `released` is told how many of them were settled.

        It must not belong to anything that refers to elements: see above.
        """
        self.family = Family(released)

    def add_part(self, value: Any) -> Element[Any]:
        """One more part of this element."""
        family = self.family
        assert family is not None
        part: Element[Any] = Element(value, self.seq, self.ledger, self.input, key=self.key)
        part.parent, part.part = self, family.made
        family.made += 1
        family.open += 1
        self.ledger.part()
        return part

    def end_parts(self) -> None:
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


class Family(Struct, eq=False):
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

Step: TypeAlias = Callable[[Observable[list[Element[A]]]], Observable[list[Element[B]]]]
"""One operator of a flow."""

_RANK = {FILTERED: 0, OK: 1, CANCELLED: 2, FAILED: 3}


def worse(one: Outcome, other: Outcome) -> Outcome:
    """What an element comes to whose parts came to these."""
    return one if _RANK[one] >= _RANK[other] else other


class Ledger:
    """The accounts of one run: what it received, and how each element was settled.

    `received == ok + failed + filtered + cancelled + in_flight` at every moment, and `in_flight` is 0 once closed.
    """

    __slots__ = (
        "_lettered",
        "closed",
        "dropped",
        "letters",
        "most_parts",
        "parts",
        "received",
        "settled",
        "watch",
        "window",
    )

    def __init__(self, window: Window) -> None:
        self.window = window
        self.received = 0
        self.dropped = 0
        self.settled: dict[Outcome, int] = {OK: 0, FAILED: 0, FILTERED: 0, CANCELLED: 0}
        self.letters: Counter[str] = Counter()
        self.closed = False
        self.watch: Callable[[Element[Any], Outcome], None] | None = None
        """Told of each element as it is settled, of parts too: for who keeps a record of what is done."""
        self.parts = 0
        """Parts that are open; they have no credit of their own."""
        self.most_parts = 0
        """The most that ever were."""
        self._lettered = 0

    @property
    def in_flight(self) -> int:
        """Elements received and not settled."""
        return self.received - sum(self.settled.values())

    def settle(self, elements: Iterable[Element[Any]], outcome: Outcome) -> None:
        """Settle elements, once each, and give their credits back.

        Raises `SettledTwice` for an element that was settled before.
        """
        count = size = 0
        for element in elements:
            if element.settled:
                raise SettledTwice(element.seq, outcome)
            element.settled = True
            if self.watch is not None:
                self.watch(element, outcome)
            if element.parent is not None:
                self._settle_part(element.parent, outcome)
                continue
            count += 1
            size += element.size
            if element.letter is not None:
                self._lettered -= 1
        if count:
            self.settled[outcome] += count
            self.window.give(count, size)

    def part(self) -> None:
        """Count a part that was made of an element."""
        self.parts += 1
        if self.parts > self.most_parts:
            self.most_parts = self.parts

    def accept(self, elements: list[Element[Any]]) -> None:
        """Settle elements that a sink accepted, each as was decided on its way.

        What nobody decided about, and is no part, is by far the most, and is settled in one pass.
        """
        size = 0
        unwatched = self.watch is None
        others: list[Element[Any]] = []
        for element in elements:
            if unwatched and element.outcome is None and element.parent is None and not element.settled:
                element.settled = True
                size += element.size
            else:
                others.append(element)
        if count := len(elements) - len(others):
            self.settled[OK] += count
            self.window.give(count, size)
        decided: dict[Outcome, list[Element[Any]]] = {}
        for element in others:
            decided.setdefault(element.outcome or OK, []).append(element)
        for outcome, alike in decided.items():
            self.settle(alike, outcome)

    def drop(self, count: int) -> None:
        """Count elements that a buffer dropped before they took a credit: received, and filtered. Not after the run."""
        if self.closed:
            return
        self.received += count
        self.dropped += count
        self.settled[FILTERED] += count

    def store(self, elements: Sequence[Element[Any]], letters: Sequence[str]) -> None:
        """Note that failed elements have durable letters: from now on they count as failed, come what may.

        The letter of a part is that of the element that it is a part of.
        """
        for element, letter in zip(elements, letters, strict=True):
            (element if element.parent is None else element.root).letter = letter
        self._lettered += len(elements)
        self.letters.update([element.failure.step for element in elements if element.failure is not None])

    def close(self) -> None:
        """End the accounts: what is still open is cancelled, save what already has a durable letter."""
        if self.closed:
            return
        self.closed = True
        self.settled[FAILED] += self._lettered
        self._lettered = 0
        self.settled[CANCELLED] += self.in_flight
        self.window.clear()

    def _settle_part(self, parent: Element[Any], outcome: Outcome) -> None:
        family = parent.family
        assert family is not None
        family.open -= 1
        self.parts -= 1
        family.worst = worse(family.worst, outcome)
        family.released(1)
        if family.complete and not family.open:
            self.settle((parent,), family.worst)
