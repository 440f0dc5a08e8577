"""Blocking calls, made in a thread so that the event loop goes on."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


async def in_thread(call: Callable[[], T]) -> T:
    """Make a short blocking call in a thread.

    A thread cannot be cancelled. So a cancel that comes meanwhile is passed on when the call has returned: what it
    works on may then be closed, and nothing of it is left behind.
    """
    future = asyncio.get_running_loop().run_in_executor(None, call)
    cancelled: asyncio.CancelledError | None = None
    while not future.done():
        try:
            await asyncio.wait((future,))
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        future.exception()  # looked at, or asyncio would complain that nobody did
        raise cancelled
    return future.result()
