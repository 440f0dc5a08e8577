"""The end of the stores of dead letters: waited for, but not for ever."""

from __future__ import annotations

import asyncio

import structlog

from penstock.deadletters import Stores
from penstock.errors import describe
from penstock.unawaited import disown

log: structlog.stdlib.BoundLogger = structlog.get_logger()

STORE_SECONDS = 2.0
"""That stores have to close, and as long again once they are told to give up."""


async def close_stores(stores: Stores) -> None:
    """Close stores. What breaks or hangs meanwhile is left, and said: all that was told as stored is stored."""
    closing = asyncio.ensure_future(stores.aclose())
    await asyncio.wait((closing,), timeout=STORE_SECONDS)
    if not closing.done():
        log.error("store.close_failed", waited=STORE_SECONDS)
        disown(closing)
        closing.cancel()
        await asyncio.wait((closing,), timeout=STORE_SECONDS)
    elif not closing.cancelled() and (error := closing.exception()) is not None:
        log.error("store.close_failed", error=describe(error))
