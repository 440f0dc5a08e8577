"""Blocking calls, made in a thread so that the event loop goes on."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from inspect import isawaitable, iscoroutine
from typing import Any, TypeVar

T = TypeVar("T")


def call_without_stop_iteration(call: Callable[[], T]) -> T:
    """What a call gives. A `StopIteration`, which no future takes, is raised as `RuntimeError`."""
    try:
        return call()
    except StopIteration as error:
        raise RuntimeError(f"it raised {error!r}") from error


async def to_thread_uncancellable(call: Callable[[], T]) -> T:
    """Make a short blocking call in a thread.

    A thread cannot be cancelled. So a cancel that comes meanwhile is passed on when the call has returned: what it
    works on may then be closed, and nothing of it is left behind.
    """
    future = asyncio.get_running_loop().run_in_executor(None, partial(call_without_stop_iteration, call))
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


def to_daemon_thread(call: Callable[[], T], name: str) -> asyncio.Future[T]:
    """Make a blocking call that may hang, in a thread that nobody shares, and that the end of the process ends."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()
    detach(future)  # whoever still waits for it

    def tell(done: Callable[[], None]) -> None:
        if not future.done():
            done()

    def work() -> None:
        try:
            done = partial(future.set_result, call_without_stop_iteration(call))
        except BaseException as error:  # SystemExit too: it is whoever waits that is to hear of it
            done = partial(future.set_exception, error)
        with suppress(RuntimeError):  # the event loop was closed meanwhile
            loop.call_soon_threadsafe(tell, done)

    threading.Thread(target=work, name=name, daemon=True).start()
    return future


def detach(work: asyncio.Future[Any], tell: Callable[[BaseException | None], None] | None = None) -> None:
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


def reject_awaitable(given: object, what: str) -> None:
    """Raise `TypeError` if `what` gave something to be awaited: it would count as true, and do nothing."""
    if isawaitable(given):
        if iscoroutine(given):
            given.close()  # nobody will await it
        raise TypeError(f"{what} gave an awaitable, which nobody awaits here; use map_async, or a plain function")
