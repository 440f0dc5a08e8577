"""Watching files: whatever changes in them is loaded again."""

from __future__ import annotations

import asyncio

from penstock_http.deployments.reload import Reloader
from penstock_http.deployments.watched_files import FileStamps

PERIOD = 1.0
"""Seconds between two looks."""

PATIENCE = 10
"""Looks in a row that may find something new each before all is loaded as it is then."""


async def watch_files(reloading: Reloader, period: float = PERIOD) -> None:
    """Load flows again whenever a file of theirs changed, until cancelled.

    Polling sees every kind of change on every kind of file system, at the price of a `stat` a file and second. An
    editor writes in several steps, so it waits until two looks agree.
    """
    going = True
    while going:
        found = await _later(reloading, period)
        if found == reloading.stamp:
            continue
        for _ in range(PATIENCE):
            before, found = found, await _later(reloading, period)
            if found == before:
                break
        going = await reloading.try_reload("watch")


async def _later(reloading: Reloader, period: float) -> FileStamps:
    await asyncio.sleep(period)
    return await asyncio.to_thread(reloading.places.stamp, reloading.stamp)
