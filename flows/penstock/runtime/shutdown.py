"""The phases of stopping, as a table: what each event leads to. No I/O here."""

from __future__ import annotations

import asyncio
from enum import StrEnum

from penstock.deadletters import Stores
from penstock.errors import describe
from penstock.support.logger import get_logger
from penstock.support.tasks import detach


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


TRANSITIONS: dict[tuple[Phase, Event], Phase] = {
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


def next_phase(phase: Phase, event: Event) -> Phase:
    """The phase that an event leads to; most events change nothing in most phases."""
    return TRANSITIONS.get((phase, event), phase)


log = get_logger()

STORE_SECONDS = 2.0
"""That stores have to close, and as long again once they are told to give up."""


async def close_stores(stores: Stores) -> None:
    """Close stores. What breaks or hangs meanwhile is left, and said: all that was told as stored is stored."""
    closing = asyncio.ensure_future(stores.aclose())
    await asyncio.wait((closing,), timeout=STORE_SECONDS)
    if not closing.done():
        log.error("store.close_failed", waited=STORE_SECONDS)
        detach(closing)
        closing.cancel()
        await asyncio.wait((closing,), timeout=STORE_SECONDS)
    elif not closing.cancelled() and (error := closing.exception()) is not None:
        log.error("store.close_failed", error=describe(error))
