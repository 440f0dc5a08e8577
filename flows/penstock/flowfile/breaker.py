"""The circuit breaker of a service in a flow file: its form, and how it is dumped."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

from penstock.flowfile.field_types import Duration, Percentage, Reference
from penstock.flowfile.forms.choices import Either
from penstock.flowfile.forms.containers import ListOf
from penstock.flowfile.forms.form import Form
from penstock.flowfile.forms.record import Located, Record, keys_of, optional
from penstock.flowfile.forms.scalars import Integer, word
from penstock.flowfile.quantities import show_duration, show_percentage
from penstock.services import DEFAULT_BREAKER, Breaker


@dataclass(frozen=True, slots=True, kw_only=True)
class BreakerOptions(Located):
    failures: int | None = optional(
        Integer(min=1), "Failures in a row, without a success in between, that open it (20)"
    )
    failure_rate: float | None = optional(
        Percentage(), "Instead of failures: the part of the last calls that must fail (80%)"
    )
    window: int | None = optional(
        Integer(min=1), "How many of the last calls failure_rate counts; at least those in flight (50)"
    )
    open: float | None = optional(Duration(), "How long calls are held at first; each further time longer (1s)")
    max_open: float | None = optional(Duration(), "The longest time until the next probe, but for Retry-After (1m)")
    max_open_wait: float | None = optional(
        Duration(), "How long an element waits before it fails as ServiceUnavailable (5m)"
    )
    probes: int | None = optional(
        Integer(min=1), "How many calls are made then, to see whether the service is back (3)"
    )
    errors: tuple[type[Exception], ...] | None = optional(
        ListOf(Reference()), "For call: the exception classes that mean that the service is down"
    )

    def breaker(self) -> Breaker:
        """Make the breaker; keys that are left out have the defaults of `Breaker`."""
        given = {name: getattr(self, attribute) for name, (attribute, _) in keys_of(BreakerOptions).items()}
        return Breaker(**{name: value for name, value in given.items() if value is not None})


NO_BREAKER = "none"
"""What `none` is read as: a key that is left out is None."""

BREAKER: Form[Breaker | str] = Either(
    word({NO_BREAKER: "Calls are never held"}),
    Record(BreakerOptions).then(BreakerOptions.breaker),
)


def dump_breaker(breaker: Breaker | None, reference_of: Callable[[Any], str]) -> Any:
    """Return a breaker as plain data; None for the default. `reference_of` names an exception class."""
    if breaker is None:
        return NO_BREAKER
    default = DEFAULT_BREAKER if breaker.failure_rate is None else Breaker(failure_rate=1.0)
    changed = {
        field.name: getattr(breaker, field.name)
        for field in fields(Breaker)
        if getattr(breaker, field.name) != getattr(default, field.name)
    }
    for name in ("open", "max_open", "max_open_wait"):
        if name in changed:
            changed[name] = show_duration(changed[name])
    if breaker.failure_rate is not None:
        changed["failure_rate"] = show_percentage(breaker.failure_rate)
    if "errors" in changed:
        changed["errors"] = [reference_of(error) for error in breaker.errors]
    return changed or None
