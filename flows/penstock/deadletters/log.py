"""The protocol of stores that are logs, and how to tell them from queues.

A log takes letters durably. They can be listed, exported and redriven by a consumer group, but no record of it can be
found by its id, counted, changed or deleted.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeGuard

from penstock.deadletters.dead_letter import DeadLetter
from penstock.deadletters.dead_letter_queue import DeadLetterQueue
from penstock.deadletters.store import DeadLetterStore

CONSUMER_GROUP = "penstock-redrive"
"""The name of the consumer group that redrives letters."""


@dataclass(frozen=True, slots=True)
class LogBatch:
    """Letters that a consumer received together. No other consumer of the group receives them meanwhile."""

    letters: Sequence[DeadLetter]
    acknowledge: Callable[[Sequence[DeadLetter]], Awaitable[None]]
    """Does what `ack` describes, with the letters for `again`."""

    async def ack(self, *, again: Sequence[DeadLetter] = ()) -> None:
        """Record durably that the letters are done, except those in `again`: the group receives these later again.

        Call it once for each batch, also for one without a letter of interest (with all its letters in `again`): Kafka
        keeps one position for each partition, which cannot pass an open batch. Batches may be acknowledged in any
        order. Most logs append the letters of `again` once more.

        Raises `StoreError` if that failed: then the letters of the batch may be received again.
        """
        await self.acknowledge(again)


class LogConsumer(Protocol):
    """A consumer of the group. Iterate over its batches, then close it."""

    def __aiter__(self) -> LogConsumer:
        """Return itself."""
        ...

    async def __anext__(self) -> LogBatch:
        """Return the next batch. Several may be open at a time, also after the last one was returned."""
        ...

    async def aclose(self) -> None:
        """Leave the group. Letters of open batches can be received again at once."""
        ...


class LogStore(DeadLetterStore, Protocol):
    """A store whose records cannot be changed. `get`, `count`, `update` and `delete` raise `NotSupportedByStore`.

    `add` may have stored some of the letters when it fails. Repeating it is safe: readers skip a letter whose id they
    have seen.

    `page` returns letters in the order of the log, and `after` is the `next` of the page before, which is not an id.
    Letters that were redriven are listed too, until the log drops them.
    """

    def consume(self) -> LogConsumer:
        """Receive the letters that the group has not acknowledged, up to the current end of the log.

        Processes that consume at the same time share the letters. Letters of a process that was killed are received
        again after its leases expired (`LEASE_SECONDS`), by any consumer that runs or begins then. Close the consumer:
        `async with aclosing(store.consume()) as batches`.

        Iterating raises `StoreError` if the log cannot be read.
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
