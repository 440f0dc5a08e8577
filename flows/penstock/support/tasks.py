"""Run blocking calls in threads, await what a callback reports, detach futures, and reject awaitables."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from contextlib import suppress
from functools import partial
from inspect import isawaitable, iscoroutine
from typing import Any, Protocol, TypeAlias, TypeVar, cast

T = TypeVar("T")

Report: TypeAlias = Callable[[T | None, BaseException | None], None]
"""Receives the result of something, or None and its error; `CancelledError` if it was cancelled."""


class Cancellable(Protocol):
    """Something that was started and reports its end."""

    def cancel(self) -> asyncio.Future[Any] | None:
        """End it. Return a future to wait for if it does not end at once."""
        ...


async def reported(start: Callable[[Report[T]], Cancellable | None]) -> T:
    """Start something, and return the result that it reports. `start` returns None if it has ended.

    When this is cancelled, so is what was started; each time, until it has ended.
    """
    ended: asyncio.Future[T] = asyncio.get_running_loop().create_future()

    def report(result: T | None, error: BaseException | None) -> None:
        if ended.done():  # the task was cancelled
            return
        if error is None:
            ended.set_result(cast("T", result))
        else:
            ended.set_exception(error)

    started = start(report)
    try:
        return await ended
    except asyncio.CancelledError:
        ending = None if started is None else started.cancel()
        while started is not None and ending is not None and not ending.done():
            try:
                await asyncio.wait((ending,))
            except asyncio.CancelledError:
                ending = started.cancel()
        raise


async def to_thread_uncancellable(call: Callable[[], T]) -> T:
    """Make a short blocking call in a thread.

    A thread cannot be cancelled. A cancellation that arrives in the meantime is raised when the call has returned: the
    caller may then close the resources that the call used.
    """
    future = asyncio.get_running_loop().run_in_executor(None, partial(call_without_stop_iteration, call))
    cancelled: asyncio.CancelledError | None = None
    while not future.done():
        try:
            await asyncio.wait((future,))
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        future.exception()  # retrieve it, so that asyncio does not warn about it
        raise cancelled
    return future.result()


async def complete(work: Coroutine[Any, Any, T], name: str) -> T:
    """Complete work that must not end half-way.

    A first cancellation is raised when the work is done; a second one cancels it. The work runs in a task with a name.
    """
    task = asyncio.create_task(work, name=name)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        if not task.done():
            await asyncio.wait((task,))
        if not task.cancelled():
            task.exception()  # retrieve it, so that asyncio does not warn about it
        raise
    finally:
        task.cancel()


def to_daemon_thread(call: Callable[[], T], name: str) -> asyncio.Future[T]:
    """Make a blocking call that may hang, in a separate thread, which ends with the process."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()
    detach(future)  # the caller may stop waiting

    def resolve(set_outcome: Callable[[], None]) -> None:
        if not future.done():
            set_outcome()

    def run() -> None:
        try:
            set_outcome = partial(future.set_result, call_without_stop_iteration(call))
        except BaseException as error:  # also SystemExit, which is meant for the caller
            set_outcome = partial(future.set_exception, error)
        with suppress(RuntimeError):  # the event loop was closed in the meantime
            loop.call_soon_threadsafe(resolve, set_outcome)

    threading.Thread(target=run, name=name, daemon=True).start()
    return future


def call_without_stop_iteration(call: Callable[[], T]) -> T:
    """Return the result of a call. Raises `RuntimeError` instead of `StopIteration`, which futures do not accept."""
    try:
        return call()
    except StopIteration as error:
        raise RuntimeError(f"it raised {error!r}") from error


def detach(future: asyncio.Future[Any], on_done: Callable[[BaseException | None], None] | None = None) -> None:
    """Stop waiting for a future. `on_done` is called with its error, or None; not if it is cancelled.

    Retrieves the exception so that asyncio does not warn about it.
    """

    def retrieve(done: asyncio.Future[Any]) -> None:
        if done.cancelled():
            return
        error = done.exception()
        if on_done is not None:
            on_done(error)

    future.add_done_callback(retrieve)


def reject_awaitable(value: object, subject: str) -> None:
    """Raise `TypeError` if a function that must be synchronous returned an awaitable, which would count as true."""
    if isawaitable(value):
        if iscoroutine(value):
            value.close()  # otherwise Python warns that it was never awaited
        raise TypeError(
            f"{subject}: expected a plain function, got one that returns an awaitable; use map_async for it"
        )
