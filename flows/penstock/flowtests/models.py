"""A test of a flow, as it is written: what comes in, what befalls it, and what is expected."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, TypeAlias

from penstock.flowfile.diagnostics import SourceLocation


@dataclass(frozen=True, slots=True)
class CountRange:
    """A number that is expected: at least, at most, or exactly when both are the same."""

    min: int = 0
    max: int | None = None

    def holds(self, number: int) -> bool:
        """Whether a number is as expected."""
        return self.min <= number and (self.max is None or number <= self.max)

    def __str__(self) -> str:
        if self.min == self.max:
            return str(self.min)
        if self.max is None:
            return f"at least {self.min}"
        return f"at most {self.max}" if not self.min else f"{self.min} to {self.max}"


Wanted: TypeAlias = "int | tuple[Any, ...]"
"""How many, or which: keys, or records of which only the fields that are named count."""


@dataclass(frozen=True, slots=True)
class Returns:
    """The service answers with a value, or with what a function makes of what it was asked."""

    make: Callable[[Any], Any]


@dataclass(frozen=True, slots=True)
class Raises:
    """The service fails."""

    make: Callable[[], Exception]


@dataclass(frozen=True, slots=True)
class Hangs:
    """The service never answers; its timeout or a cancel ends the call."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StubRule:
    """What a service does with some of its calls. Without a `deed` it does what it really does, later."""

    deed: Returns | Raises | Hangs | None = None
    delay: float = 0.0
    """Seconds that it takes."""
    fields: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """Fields that the value has to have, by their paths: `customer.country`."""
    condition: Callable[[Any], Any] | None = None
    calls: tuple[int, ...] = ()
    """Which of the calls that fit otherwise, counted from 1; empty for all."""
    attempts: tuple[int, ...] = ()
    """Which of the calls for one and the same value, counted from 1; empty for all."""
    since: float = 0.0
    until: float | None = None
    """From when to before when, in seconds of the test."""
    place: SourceLocation | None = None
    """Where it is written."""

    @property
    def for_some(self) -> bool:
        """Whether it looks at the value: then it is for single values, also where one call is made for many."""
        return bool(self.fields or self.condition or self.attempts)


class RunEvent(StrEnum):
    """What may befall a run as a whole."""

    CLIENT_DISCONNECTS = "client"
    DRAIN = "drain"
    ABORT = "abort"

    @property
    def shown(self) -> str:
        """In words."""
        return "the client disconnects" if self is RunEvent.CLIENT_DISCONNECTS else self.value


@dataclass(frozen=True, slots=True)
class ScheduledEvent:
    """Something that happens to the run as a whole at a time."""

    at: float
    what: RunEvent
    place: SourceLocation | None = None


@dataclass(frozen=True, slots=True)
class StoreOutage:
    """When the dead letters cannot be stored; without an end, never."""

    since: float = 0.0
    until: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Expectation:
    """What has to come of it; what is None is not looked at."""

    received: int | None = None
    ok: Wanted | None = None
    failed: Wanted | None = None
    filtered: Wanted | None = None
    cancelled: Wanted | None = None
    dead_letters: Wanted | None = None
    delivered: Mapping[str, Wanted] = field(default_factory=dict[str, Wanted])
    """What each outlet was handed."""
    order: tuple[Any, ...] | None = None
    """The keys of all results as they came."""
    calls: Mapping[str, CountRange] = field(default_factory=dict[str, CountRange])
    """How often each service was called, all attempts counted."""
    peak_calls: Mapping[str, CountRange] = field(default_factory=dict[str, CountRange])
    """How many calls of each service were under way at once, at most."""
    in_flight: CountRange | None = None
    """How many elements were in flight at once, at most."""
    seconds: float | None = None
    """How long it took, exactly."""
    max_duration: float | None = None
    """How long it took at most, in seconds."""
    reason: str | None = None
    """How the run ended, in the words of its summary."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FlowTest:
    """One test."""

    name: str
    given: tuple[Any, ...] | int
    """The values that come in, a text being a raw line; or how many samples of the flow."""
    expected: Expectation
    rules: Mapping[str, tuple[StubRule, ...]] = field(default_factory=dict[str, tuple[StubRule, ...]])
    """What services and outlets do, by their names; the first rule that fits a call decides."""
    events: tuple[ScheduledEvent, ...] = ()
    downtimes: tuple[StoreOutage, ...] = ()
    every: float = 0.0
    """Seconds between two values that come in."""
    client_delay: float = 0.0
    """Seconds that the client takes for each result."""
    elements: int | None = None
    """How many elements may be in flight; None as the flow says."""
    bytes: int | None = None
    ordered: bool | None = None
    """Whether results keep the order of the input; None as the flow says."""
    seed: int = 0
    """What everything is drawn from that is left to chance."""
    place: SourceLocation | None = None
    """Where it is written."""
