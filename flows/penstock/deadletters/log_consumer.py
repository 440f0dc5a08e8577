"""Iterates over the batches of a log, and stays in the group until it is closed."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable

from penstock.deadletters.log import LogBatch
from penstock.errors import StoreError

Batches = AsyncGenerator[LogBatch | None, None]
"""Yields batches, then None at the end of the log. Closing it leaves the group."""


class BatchIterator:
    """The consumer of a log, made of a generator.

    The generator is not exhausted at the end of the log but only suspended, so that batches can still be acknowledged.
    """

    def __init__(self, batches: Batches, to_store_error: Callable[[Exception], StoreError]) -> None:
        self._batches = batches
        self._to_store_error = to_store_error
        self._ended = False

    def __aiter__(self) -> BatchIterator:
        """Return itself."""
        return self

    async def __anext__(self) -> LogBatch:
        """Return the next batch."""
        if self._ended:
            raise StopAsyncIteration
        try:
            batch = await anext(self._batches)
        except StopAsyncIteration:
            raise
        except Exception as error:
            raise self._to_store_error(error) from error
        if batch is None:
            self._ended = True
            raise StopAsyncIteration
        return batch

    async def aclose(self) -> None:
        """Leave the group."""
        self._ended = True
        await self._batches.aclose()
