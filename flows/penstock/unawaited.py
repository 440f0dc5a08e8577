"""Work that goes on after everybody stopped waiting for it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any


def disown(work: asyncio.Future[Any], tell: Callable[[BaseException | None], None] | None = None) -> None:
    """Wait for it no longer. `tell` hears how it ended, when it does: with which error, or None.

    An error is looked at here, or asyncio would complain that nobody did. Work that is cancelled tells nothing.
    """

    def look(ended: asyncio.Future[Any]) -> None:
        if ended.cancelled():
            return
        error = ended.exception()
        if tell is not None:
            tell(error)

    work.add_done_callback(look)
