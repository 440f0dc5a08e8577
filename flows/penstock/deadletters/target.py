"""Where the dead letters of a flow go, how long they are kept, and when they are redriven automatically."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import isfinite
from types import MappingProxyType
from typing import Any, Literal

from penstock.errors import FlowDefinitionError

KEPT_STATES = ("resolved", "parked", "waiting")
"""The states for which `keep` may have a maximum age. A claimed letter is being redriven, and is never deleted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Keep:
    """How long letters are kept. Without limits they are kept for ever."""

    seconds: Mapping[str, float] = field(default_factory=lambda: MappingProxyType({}))
    """The maximum age in a state, by state: `waiting`, `parked` or `resolved`."""
    max: int | None = None
    """The maximum number of letters."""

    @classmethod
    def of(cls, limits: Mapping[str, Any]) -> Keep:
        """Create limits from seconds by state and `max`. Raises `FlowDefinitionError`.

        >>> Keep.of({"resolved": 7 * 86400, "max": 1_000_000}).max
        1000000
        """
        seconds = {name: limit for name, limit in limits.items() if name != "max"}
        for name, limit in seconds.items():
            if name not in KEPT_STATES:
                raise FlowDefinitionError(
                    f"keep: unknown key {name!r}; expected {', '.join(KEPT_STATES)} with seconds, or max"
                )
            if not _is_number(limit) or not isfinite(limit) or limit <= 0:
                raise FlowDefinitionError(f"keep: {name}: expected a number of seconds > 0, got {limit!r}")
        max = limits.get("max")
        if max is not None and (not _is_number(max) or max % 1 or max < 1):
            raise FlowDefinitionError(f"keep: max: expected an integer >= 1, got {max!r}")
        if max is None and not seconds:
            raise FlowDefinitionError("keep: expected a limit, such as the seconds that resolved letters are kept")
        return cls(seconds={name: float(limit) for name, limit in seconds.items()}, max=max)


@dataclass(frozen=True, slots=True)
class DeadLetterTarget:
    """The stores of the dead letters of a flow."""

    store: str
    """The URL of the primary store. A client receives a failure after its letter is durable there."""
    copies: tuple[str, ...] = ()
    """URLs of stores that get every letter too, later and at least once."""
    keep: Keep | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class AutoRedrive:
    """When the letters of a flow are redriven automatically, and how fast."""

    when: Literal["recovered"] = "recovered"
    """`recovered`: when a service works again, the letters that failed because of it."""
    rate: float | None = None
    """Maximum letters per second; None: as fast as the services allow."""


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
