"""Shut down the process: a table of the phases and their transitions, without I/O, and the closing of stores."""

from __future__ import annotations

import asyncio
from enum import StrEnum

from penstock.deadletters import Stores
from penstock.errors import describe
from penstock.support.logger import get_logger
from penstock.support.tasks import detach

STORE_SECONDS = 2.0
"""Seconds to close the stores; the same again after cancelling."""

log = get_logger()


class Phase(StrEnum):
    """The phase of the process, from serving to its exit."""

    SERVING = "serving"
    DRAINING = "draining"
    """No new runs and no further input; elements in flight continue."""
    ABORTING = "aborting"
    """Everything is being cancelled."""
    STOPPED = "stopped"
    """No run is open; clients have a moment to read their responses."""
    DISCONNECTING = "disconnecting"
    """Connections are closed without waiting for clients."""
    EXITING = "exiting"
    """The process exits now, even if it is stuck."""


class Event(StrEnum):
    """An event that may change the phase."""

    SIGNAL = "signal"
    GRACE_EXPIRED = "grace_expired"
    HARD_TIMEOUT = "hard_timeout"
    ALL_RUNS_ENDED = "all_runs_ended"


TRANSITIONS: dict[tuple[Phase, Event], Phase] = {
    (Phase.SERVING, Event.SIGNAL): Phase.DRAINING,
    (Phase.DRAINING, Event.SIGNAL): Phase.ABORTING,
    (Phase.DRAINING, Event.GRACE_EXPIRED): Phase.ABORTING,
    (Phase.DRAINING, Event.ALL_RUNS_ENDED): Phase.STOPPED,
    (Phase.ABORTING, Event.SIGNAL): Phase.EXITING,
    (Phase.ABORTING, Event.HARD_TIMEOUT): Phase.EXITING,
    (Phase.ABORTING, Event.ALL_RUNS_ENDED): Phase.STOPPED,
    (Phase.STOPPED, Event.SIGNAL): Phase.DISCONNECTING,
    (Phase.STOPPED, Event.HARD_TIMEOUT): Phase.EXITING,
    (Phase.DISCONNECTING, Event.SIGNAL): Phase.EXITING,
    (Phase.DISCONNECTING, Event.HARD_TIMEOUT): Phase.EXITING,
}


def next_phase(phase: Phase, event: Event) -> Phase:
    """Return the phase after an event. Most events do not change most phases."""
    return TRANSITIONS.get((phase, event), phase)


async def close_stores(stores: Stores) -> None:
    """Close stores. Log an error or a timeout and continue: every letter reported as stored is stored."""
    closing = asyncio.ensure_future(stores.aclose())
    await asyncio.wait((closing,), timeout=STORE_SECONDS)
    if not closing.done():
        log.error("store.close_failed", waited=STORE_SECONDS)
        detach(closing)
        closing.cancel()
        await asyncio.wait((closing,), timeout=STORE_SECONDS)
    elif not closing.cancelled() and (error := closing.exception()) is not None:
        log.error("store.close_failed", error=describe(error))
