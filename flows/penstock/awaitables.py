"""What would have to be awaited, where nobody awaits it."""

from __future__ import annotations

from inspect import isawaitable, iscoroutine


def refuse_awaitable(given: object, what: str) -> None:
    """Raise `TypeError` if `what` gave something to be awaited: it would count as true, and do nothing."""
    if isawaitable(given):
        if iscoroutine(given):
            given.close()  # nobody will await it
        raise TypeError(f"{what} gave an awaitable, which nobody awaits here; use map_async, or a plain function")
