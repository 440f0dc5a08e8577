"""What a run needs to know of a flow: its steps, its window, and where its failures go."""

from __future__ import annotations

from typing import Any

from msgspec import Struct

from penstock import window
from penstock.deadletters import DeadLetterStore
from penstock.element import Step


class Plan(Struct, frozen=True, eq=False):
    """A flow, ready to be run."""

    name: str
    steps: tuple[Step[Any, Any], ...] = ()
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
