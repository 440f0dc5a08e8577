"""The protocol of stores that are logs, and how to tell them from queues.

A log takes letters durably. They can be listed, exported and redriven by a consumer group, but no record of it can be
found by its id, counted, changed or deleted.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeGuard

from penstock.deadletters.dead_letter import DeadLetter
from penstock.deadletters.queue import DeadLetterQueue
from penstock.deadletters.store import DeadLetterStore

CONSUMER_GROUP = "penstock-redrive"
"""The name of the consumer group that redrives letters."""


@dataclass(frozen=True, slots=True)
class LogBatch:
    """Letters that a consumer received together. No other consumer of the group receives them meanwhile."""

    letters: Sequence[DeadLetter]
    acknowledge: Callable[[], Awaitable[None]]

    async def ack(self) -> None:
        """Record durably that the letters are done, so that the group does not receive them again.

        Call it after the letters were resolved, or appended again. Batches may be acknowledged in any order. Raises
        `StoreError` if that failed: then the letters may be received again.
        """
        await self.acknowledge()


class LogStore(DeadLetterStore, Protocol):
    """A store whose records cannot be changed. `get`, `count`, `update` and `delete` raise `NotSupportedByStore`.

    `add` may have stored some of the letters when it fails. Repeating it is safe: readers skip a letter whose id they
    have seen.

    `page` returns letters in the order of the log, and `after` is the `next` of the page before, which is not an id.
    Letters that were redriven are listed too, until the log drops them.
    """

    def consume(self) -> AsyncIterator[LogBatch]:
        """Receive the letters that the group has not acknowledged, up to the current end of the log.

        Processes that consume at the same time share the letters. Letters whose consumer ended without acknowledging
        them are received again, at the latest after `LEASE_SECONDS`, also by a consumer that runs already. Several
        batches may be open at a time. Close the iterator to release open batches at once.

        Raises `StoreError` if the log cannot be read.
        """
        ...


def is_queue(store: DeadLetterStore) -> TypeGuard[DeadLetterQueue]:
    """Check whether the letters of a store can be grouped, edited, marked and claimed.

    Stores say so by their attribute `editable`: checking all methods of the protocol on each call would take long.
    """
    return getattr(store, "editable", False) is True


def is_log(store: DeadLetterStore) -> TypeGuard[LogStore]:
    """Check whether a store is a log."""
    return getattr(store, "editable", None) is False and hasattr(store, "consume")
