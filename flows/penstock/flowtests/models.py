"""The forms of tests in flow files: their input, the rules of services, the events of the run, and the expectations."""

from __future__ import annotations

import builtins
from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cache
from types import new_class
from typing import Any, TypeAlias

from penstock.errors import ElementError, ServiceErrorResponse
from penstock.expressions import Expression, Fields
from penstock.flowfile.diagnostics import SourceLocation
from penstock.flowfile.field_types import Duration, Expr
from penstock.flowfile.forms.choices import Chosen, Either, OneKey, one_or_more
from penstock.flowfile.forms.containers import ListOf, MapOf
from penstock.flowfile.forms.form import Form
from penstock.flowfile.forms.record import Located, OpenRecord, Record, defaulted, optional, required
from penstock.flowfile.forms.scalars import AnyValue, Boolean, Integer, Text
from penstock.flowfile.models import Window

REASONS = ("completed", "draining", "disconnected", "aborted", "failed")
"""How a run of a test can end."""

ELAPSED = Duration(min=0)
NUMBERS = one_or_more(Integer(min=1))


@dataclass(frozen=True, slots=True, kw_only=True)
class CountRange(Located):
    """An expected number: a minimum, a maximum, or exactly one if both are the same."""

    min: int = defaulted(Integer(min=0), 0, "The minimum")
    max: int | None = optional(Integer(min=0), "The maximum")

    def contains(self, number: int) -> bool:
        """Return whether a number is as expected."""
        return self.min <= number and (self.max is None or number <= self.max)

    def __str__(self) -> str:
        if self.min == self.max:
            return str(self.min)
        if self.max is None:
            return f"at least {self.min}"
        return f"at most {self.max}" if not self.min else f"{self.min} to {self.max}"


COUNT: Form[CountRange] = Either(
    Integer(min=0).then(lambda number: CountRange(min=number, max=number)), Record(CountRange)
)

ExpectedItems: TypeAlias = "int | tuple[Any, ...]"
"""A number of items; or the items: keys, or records of which only the named fields are compared."""

EXPECTED_ITEMS: Form[ExpectedItems] = Either(
    Integer(min=0), ListOf(AnyValue(description="A key, or a record of which only the named fields are compared"))
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Expectation(Located):
    """What is expected of a test. Nothing else is compared."""

    received: int | None = optional(Integer(min=0), "How many items were received")
    ok: ExpectedItems | None = optional(EXPECTED_ITEMS, "The results: how many, or which, in any order")
    failed: ExpectedItems | None = optional(EXPECTED_ITEMS, "The failed elements")
    filtered: ExpectedItems | None = optional(EXPECTED_ITEMS, "The filtered items, as they were received")
    cancelled: ExpectedItems | None = optional(EXPECTED_ITEMS, "The cancelled items, as they were received")
    dead_letters: ExpectedItems | None = optional(
        EXPECTED_ITEMS, "The stored dead letters; they always have to match failed"
    )
    delivered: dict[str, ExpectedItems] | None = optional(MapOf(EXPECTED_ITEMS), "The values that each sink accepted")
    order: tuple[Any, ...] | None = optional(ListOf(AnyValue()), "The keys of all results, in their order")
    calls: dict[str, CountRange] | None = optional(MapOf(COUNT), "How often each service was called, with all attempts")
    peak_calls: dict[str, CountRange] | None = optional(MapOf(COUNT), "The maximum of concurrent calls of each service")
    in_flight: CountRange | None = optional(COUNT, "The maximum of elements in flight")
    seconds: float | None = optional(ELAPSED, "How long the run took, exactly, in virtual time")
    max_duration: float | None = optional(Duration(), "How long the run may take")
    reason: str | None = optional(Text(choices=REASONS), "How the run ended")


@dataclass(frozen=True, slots=True, kw_only=True)
class StubError(Located):
    """The error that a call raises."""

    message: str | None = optional(Text(), "The message of the error")
    type: str | None = optional(
        Text(pattern="[A-Za-z_][A-Za-z0-9_]*", noun="class name", allowed="letters, digits and _"),
        "The name of the error's class",
    )
    retryable: bool | None = optional(Boolean(), "Whether another attempt may succeed (true)")
    status: int | None = optional(Integer(min=300, max=599), "The status of an HTTP response")
    retry_after: float | None = optional(ELAPSED, "The Retry-After of an HTTP response")

    def make(self, service: str) -> Exception:
        """Make the error of a call of a service."""
        message = self.message or ""
        if self.status is not None:
            return ServiceErrorResponse(service, self.status, message, self.retry_after, self.type)
        return _error_class(self.type or "StubError", self.retryable is not False)(message)


@cache
def _error_class(name: str, retryable: bool) -> Callable[[str], Exception]:
    """Return a class of errors by its name: a subclass of Python's own one, or a new one."""
    known = getattr(builtins, name, None)
    base: type[Exception] = known if isinstance(known, type) and issubclass(known, Exception) else ElementError
    return new_class(name, (base,), exec_body=lambda body: body.update(retryable=retryable))


ACTIONS = ("returns", "expression", "raises", "hangs")
"""What a rule can do with a call."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StubRule(Located):
    """What a service does with some of its calls. A rule with `delay` alone calls the real function, later."""

    returns: Any = optional(AnyValue(), "The response")
    expression: Any = optional(
        Either(Expr(), MapOf(Expr()).then(Fields)),
        "The response as an expression on `value`, or one for each of its fields",
    )
    raises: StubError | None = optional(
        Record(StubError, "message", description="The call fails: with this message, or with this error")
    )
    hangs: bool | None = optional(Boolean(only_true=True), "true: there is no response")
    delay: float = defaulted(ELAPSED, 0, "How long the call takes; alone: the real service responds, after this time")
    condition: Expression | None = optional(
        Expr(gives=("BOOL",)), "An expression on `value`: which calls the rule is for", key="if"
    )
    calls: tuple[int, ...] | None = optional(
        NUMBERS, "Which of the calls that match otherwise, counted from 1", key="call"
    )
    attempts: tuple[int, ...] | None = optional(
        NUMBERS, "Which of the calls for the same value, counted from 1", key="attempt"
    )
    since: float = defaulted(ELAPSED, 0, "From when, since the start of the test", key="from")
    until: float | None = optional(Duration(), "Until when", key="to")
    others: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """Fields that the value must have, by their paths: `customer.country`."""

    @property
    def action(self) -> str | None:
        """Return the name of the action; None for a rule that has only a delay."""
        return next((name for name in ACTIONS if self.has(name) or getattr(self, name) is not None), None)

    @property
    def by_value(self) -> bool:
        """Return whether the rule depends on the value. Then it applies to single values of a batch."""
        return bool(self.others or self.condition or self.attempts)

    def respond(self, value: Any) -> Any:
        """Return the response for a value."""
        return deepcopy(self.returns) if self.expression is None else self.expression(value)


RULE = OpenRecord(
    StubRule, description="What a service does with some calls; other keys are fields that the value must have"
)


class RunEvent(StrEnum):
    """An event that changes a run."""

    CLIENT_DISCONNECTS = "client"
    DRAIN = "drain"
    ABORT = "abort"

    @property
    def shown(self) -> str:
        """Return the event in words."""
        return "the client disconnects" if self is RunEvent.CLIENT_DISCONNECTS else self.value


@dataclass(frozen=True, slots=True)
class ScheduledEvent:
    """An event at a time, in seconds since the start of the test."""

    at: float
    event: RunEvent


@dataclass(frozen=True, slots=True)
class StoreOutage:
    """A time in which dead letters cannot be stored; without an end until the end of the test."""

    since: float = 0.0
    until: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class EventTimes(Located):
    time: float | None = optional(ELAPSED, "When, since the start of the test", key="at")
    since: float | None = optional(ELAPSED, "From when the store is down; from the start if left out", key="from")
    until: float | None = optional(Duration(), "Until when the store is down; to the end if left out", key="to")


EVENT = OneKey(
    {
        "client": Text(choices=("disconnects",), description="The client disconnects"),
        "drain": Boolean(only_true=True, description="true: read no more input and finish what is in flight"),
        "abort": Boolean(only_true=True, description="true: cancel everything"),
        "store": Text(choices=("down",), description="Dead letters cannot be stored"),
    },
    beside=EventTimes,
    noun="event",
    separate="are two events: write them as two list items",
)


def _event(chosen: Chosen[EventTimes]) -> ScheduledEvent | StoreOutage:
    times = chosen.beside
    if chosen.kind == "store":
        if times.time is not None:
            raise ValueError("at: not allowed with store; use from and to")
        check_times(times.since, times.until)
        return StoreOutage(times.since or 0.0, times.until)
    if times.since is not None or times.until is not None:
        raise ValueError(f"from and to: not allowed with {chosen.kind}; use at")
    if times.time is None:
        raise ValueError(f'missing "at": when does {chosen.kind} happen?')
    return ScheduledEvent(times.time, RunEvent(chosen.kind))


def check_times(since: float | None, until: float | None) -> None:
    """Raise `ValueError` if a time span ends before it starts."""
    if until is not None and until <= (since or 0.0):
        raise ValueError('expected "to" to be later than "from"')


@dataclass(frozen=True, slots=True, kw_only=True)
class Generate(Located):
    generate: int = required(Integer(min=0), "How many samples of the flow")


GIVEN: Form[tuple[Any, ...] | int] = Either(
    ListOf(AnyValue(description="A value; a string is a raw line")), Record(Generate).then(lambda given: given.generate)
)


@dataclass(frozen=True, slots=True, kw_only=True)
class FlowTest(Located):
    """One test."""

    name: str = required(Text(), "What the test shows, as a sentence")
    given: tuple[Any, ...] | int = required(GIVEN, "The input")
    every: float | None = optional(Duration(), "The time between two values of the input; all at once if left out")
    rules: dict[str, tuple[StubRule, ...]] | None = optional(
        MapOf(one_or_more(RULE)),
        "What services and sinks do, by name; the first rule that matches a call applies, and without one the real "
        "service responds",
        key="when",
    )
    events: tuple[ScheduledEvent | StoreOutage, ...] | None = optional(
        ListOf(EVENT.then(_event)), "What happens to the run"
    )
    client_delay: float | None = optional(Duration(), "How long the client takes for each result")
    window: Window | None = optional(
        Record(Window, "elements"), "How much may be in flight; as in the flow if left out"
    )
    order: str | None = optional(
        Text(choices=("input", "completion", "key")), "The order of results; as in the flow if left out"
    )
    seed: int = defaulted(Integer(min=0), 0, "The seed of all random numbers")
    expected: Expectation = required(
        Record(Expectation), "What is expected; what is not named is not compared", key="expect"
    )

    @property
    def location(self) -> SourceLocation | None:
        """Return the location of the test; None for a test that was created in Python."""
        return self.node.location if self.node.location.line else None

    @property
    def scheduled(self) -> list[ScheduledEvent]:
        """Return the events of the run."""
        return [event for event in self.events or () if isinstance(event, ScheduledEvent)]

    @property
    def outages(self) -> list[StoreOutage]:
        """Return the times in which dead letters cannot be stored."""
        return [event for event in self.events or () if isinstance(event, StoreOutage)]


TESTS: Form[tuple[FlowTest, ...]] = ListOf(
    Record(FlowTest), description="Tests of the flow, run in virtual time by `penstock test`"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class TestsFile(Located):
    """A file of tests beside that of a flow."""

    __test__ = False  # not a test class for pytest

    tests: tuple[FlowTest, ...] = required(TESTS, "Tests of the flow, in virtual time")


TESTS_FILE = Record(TestsFile)
