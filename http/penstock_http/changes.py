"""Watching files: whatever changes in them is loaded again."""

from __future__ import annotations

import asyncio

import structlog

from penstock.errors import Stopping
from penstock_http.places import Stamp
from penstock_http.reload import Reloading

log: structlog.stdlib.BoundLogger = structlog.get_logger()

PERIOD = 1.0
"""Seconds between two looks."""

PATIENCE = 10
"""Looks in a row that may find something new each before all is loaded as it is then."""


async def watch_files(reloading: Reloading, period: float = PERIOD) -> None:
    """Load flows again whenever a file of theirs changed, until cancelled.

    Polling sees every kind of change on every kind of file system, at the price of a `stat` a file and second. An
    editor writes in several steps, so it waits until two looks agree.
    """
    seen = await _look(reloading)
    while True:
        await asyncio.sleep(period)
        found = await _look(reloading)
        if found == seen:
            continue
        for _ in range(PATIENCE):
            before, found = found, await _later(reloading, period)
            if found == before:
                break
        try:
            await reloading.reload("watch")
        except Stopping:
            return
        # What changed while it was read is found by the next look; files that are new to it begin with this one.
        seen = {**await _look(reloading), **found}


async def _later(reloading: Reloading, period: float) -> Stamp:
    await asyncio.sleep(period)
    return await _look(reloading)


async def _look(reloading: Reloading) -> Stamp:
    return await asyncio.to_thread(reloading.places.stamp, reloading.files)
