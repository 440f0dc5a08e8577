"""The consumer group of a JetStream stream of dead letters: a durable pull consumer with explicit acknowledgements."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from typing import Any

import nats.errors
from nats.js import api

from penstock.deadletters.dead_letter import DeadLetter
from penstock.deadletters.log import CONSUMER_GROUP, LogBatch
from penstock.deadletters.log_base import Recent
from penstock.deadletters.open_batches import OpenBatches
from penstock.deadletters.queue import LEASE_SECONDS
from penstock.errors import StoreError, describe
from penstock.support.logger import get_logger

log = get_logger()

FETCH = 500
"""Maximum number of letters in a batch."""

FETCH_SECONDS = 1.0
"""Time of one fetch. One that is pending while the server restarts is lost, so it must be short."""

MAX_ACK_PENDING = 50_000
"""Maximum number of letters that all consumers of the group may have open."""

RELEASE_SECONDS = 5.0

Decode = Callable[[bytes, object], DeadLetter | None]


async def fetch(client: Any, subscription: Any, count: int) -> list[Any]:
    """Fetch up to `count` messages; none if there are none now. Raises `NoServersError` without a connection."""
    try:
        return list(await subscription.fetch(count, timeout=FETCH_SECONDS))
    except (nats.errors.TimeoutError, TimeoutError):
        if not client.is_connected:
            raise nats.errors.NoServersError from None
        return []


class OpenMessages:
    """Messages that were received and not acknowledged. A task extends their leases."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self._batches: list[list[Any]] = []
        self.open = OpenBatches()
        self._extending = asyncio.get_running_loop().create_task(self._extend_all(), name="dead letters: leases")

    def begin(self, messages: list[Any]) -> None:
        """Keep the leases of messages."""
        self._batches.append(messages)
        self.open.begin()

    async def acknowledge(self, messages: list[Any]) -> None:
        """Acknowledge messages, and wait until the server has confirmed it."""
        if messages not in self._batches:
            return
        try:
            await asyncio.gather(*(message.ack_sync(timeout=10) for message in messages))
        except (nats.errors.Error, TimeoutError) as error:
            raise StoreError(f"cannot acknowledge letters; they are received again: {describe(error)}") from error
        finally:
            self._batches.remove(messages)
            self.open.end()

    async def aclose(self) -> None:
        """Give up the leases: the letters can be received again at once."""
        self._extending.cancel()
        await asyncio.gather(self._extending, return_exceptions=True)
        batches, self._batches = self._batches, []
        try:
            async with asyncio.timeout(RELEASE_SECONDS):
                for messages in batches:
                    for message in messages:
                        await message.nak()
                if batches:
                    await self._client.flush()
        except (nats.errors.Error, TimeoutError) as error:  # the leases expire
            log.warning("store.lease_not_released", error=describe(error))

    async def _extend_all(self) -> None:
        while True:
            await asyncio.sleep(LEASE_SECONDS / 3)
            try:
                for messages in list(self._batches):
                    for message in messages:
                        await message.in_progress()
            except nats.errors.Error as error:  # try again in a moment: two attempts fit into a lease
                log.warning("store.lease_not_extended", error=describe(error))


async def consume_stream(client: Any, jetstream: Any, stream: str, decode: Decode) -> AsyncGenerator[LogBatch, None]:
    """Receive batches up to the current end of the stream."""
    end = (await jetstream.stream_info(stream)).state.last_seq
    await jetstream.add_consumer(
        stream,
        api.ConsumerConfig(
            durable_name=CONSUMER_GROUP,
            description="Redrives dead letters",
            deliver_policy=api.DeliverPolicy.ALL,
            ack_policy=api.AckPolicy.EXPLICIT,
            ack_wait=LEASE_SECONDS,
            max_deliver=-1,
            max_ack_pending=MAX_ACK_PENDING,
        ),
    )
    subscription = await jetstream.pull_subscribe_bind(CONSUMER_GROUP, stream)
    held = OpenMessages(client)
    recent = Recent()
    try:
        while True:
            messages = await fetch(client, subscription, FETCH)
            included = [message for message in messages if message.metadata.sequence.stream <= end]
            for message in messages:
                if message.metadata.sequence.stream > end:
                    await message.nak(delay=1)
            if not included:
                if messages or await _has_ended(subscription, end):
                    break
                continue
            held.begin(included)
            if letters := recent.unseen(decode(each.data, each.metadata.sequence.stream) for each in included):
                yield LogBatch(letters, lambda included=included: held.acknowledge(included))  # type: ignore[misc]
            else:
                await held.acknowledge(included)
        await held.open.wait()
    finally:
        await held.aclose()
        if client.is_connected:
            await subscription.unsubscribe()


async def _has_ended(subscription: Any, end: int) -> bool:
    """Return whether all letters up to the end were delivered to a consumer of the group."""
    info = await subscription.consumer_info()
    return not info.num_pending or info.delivered.stream_seq >= end
