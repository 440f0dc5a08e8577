"""The results of one run, for `async with` and `async for`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from typing import Generic, Self, TypeVar

from penstock.errors import RunError
from penstock.results import Result, ResultConsumer, ResultStream
from penstock.runtime.run import Run
from penstock.runtime.summary import EndReason

T = TypeVar("T", covariant=True)


class Results(AsyncIterator[Result[T]], Generic[T]):
    """The results of one run, each as soon as it is ready.

    The run starts with the block, or with the first result. Each result is settled when it is taken, so a consumer that
    takes no more stops the source. Leaving the block aborts the run if it is not over, and waits until nothing of it is
    left. Without a block, leaving the loop aborts the run soon after, and so does a cancel while the loop waits.

    Raises `RunError` after the last result if the run failed.

    >>> async with flow.stream(source) as results:
    ...     async for result in results:
    ...         print(result.value if result.ok else result.failure)
    """

    __slots__ = ("_consumer", "_in_block", "_over", "_run", "_start")

    def __init__(self, start: Callable[[ResultConsumer], Run]) -> None:
        self._start = start
        self._consumer = ResultStream()
        self._run: Run | None = None
        self._in_block = False
        self._over = False

    @property
    def run(self) -> Run:
        """The run, to drain it, and for its summary: `await results.run.finished`."""
        if self._run is None:
            raise RuntimeError("the run has not started: it starts with `async with`, or with the first result")
        return self._run

    async def __aenter__(self) -> Self:
        if self._run is not None or self._over:
            raise RuntimeError("these results belong to a run that has started: call flow.stream(source) again")
        self._in_block = True
        self._run = self._start(self._consumer)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def __anext__(self) -> Result[T]:
        if self._over:
            raise StopAsyncIteration
        if self._run is None:
            self._run = self._start(self._consumer)
        try:
            result = await self._consumer.next()
        except BaseException:
            if not self._in_block:  # nothing else would end the run
                await self.aclose()
            raise
        if result is None:
            await self._end(self._run)
            raise StopAsyncIteration
        return result

    async def aclose(self) -> None:
        """Abort the run if it is not over, and wait until nothing of it is left."""
        self._over = True
        if self._run is not None:
            self._run.abort(EndReason.DISCONNECTED)
            await self._run.finished

    async def _end(self, run: Run) -> None:
        summary = await run.finished
        closed, self._over = self._over, True
        if summary.error is not None and not closed:
            raise RunError(summary.error)

    def __del__(self) -> None:
        """Abort the run of a loop that was left: its results cannot be taken any more."""
        if self._run is not None and not self._over:
            with suppress(RuntimeError):  # the event loop is closed
                self._run.context.loop.call_soon_threadsafe(self._run.abort, EndReason.DISCONNECTED)
