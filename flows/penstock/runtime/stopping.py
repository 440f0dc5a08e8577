"""The phases of stopping, as a table: what each event leads to. No I/O here."""

from __future__ import annotations

from enum import StrEnum


class Phase(StrEnum):
    """How far the process is on its way down."""

    SERVING = "serving"
    DRAINING = "draining"
    """No new runs, no further input; what is in flight goes on."""
    ABORTING = "aborting"
    """Everything is being cancelled."""
    STOPPED = "stopped"
    """No run is open; clients have a moment to take what is theirs."""
    LEAVING = "leaving"
    """Nobody is waited for any more."""
    EXITING = "exiting"
    """The process ends now, stuck or not."""


class Event(StrEnum):
    """What may happen meanwhile."""

    SIGNAL = "signal"
    GRACE_OVER = "grace_over"
    HARD_OVER = "hard_over"
    EMPTY = "empty"
    """The last run has ended."""


TABLE: dict[tuple[Phase, Event], Phase] = {
    (Phase.SERVING, Event.SIGNAL): Phase.DRAINING,
    (Phase.DRAINING, Event.SIGNAL): Phase.ABORTING,
    (Phase.DRAINING, Event.GRACE_OVER): Phase.ABORTING,
    (Phase.DRAINING, Event.EMPTY): Phase.STOPPED,
    (Phase.ABORTING, Event.SIGNAL): Phase.EXITING,
    (Phase.ABORTING, Event.HARD_OVER): Phase.EXITING,
    (Phase.ABORTING, Event.EMPTY): Phase.STOPPED,
    (Phase.STOPPED, Event.SIGNAL): Phase.LEAVING,
    (Phase.STOPPED, Event.HARD_OVER): Phase.EXITING,
    (Phase.LEAVING, Event.SIGNAL): Phase.EXITING,
    (Phase.LEAVING, Event.HARD_OVER): Phase.EXITING,
}


def after(phase: Phase, event: Event) -> Phase:
    """The phase that an event leads to; most events change nothing in most phases."""
    return TABLE.get((phase, event), phase)
