"""Where the dead letters of a flow go, and how long they are kept."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True, kw_only=True)
class Keep:
    """How long letters are kept. Without limits they are kept for ever."""

    seconds: Mapping[str, float] = field(default_factory=lambda: MappingProxyType({}))
    """The maximum age in a state, by state: `waiting`, `parked` or `resolved`."""
    max: int | None = None
    """The maximum number of letters."""


@dataclass(frozen=True, slots=True)
class DeadLetterTarget:
    """The stores of the dead letters of a flow."""

    store: str
    """The URL of the primary store. A client is told of a failure after its letter is durable there."""
    copies: tuple[str, ...] = ()
    """URLs of stores that get every letter too, later and at least once."""
    keep: Keep | None = None
