"""The consumer group of a JetStream stream of dead letters: a durable pull consumer with explicit acknowledgements."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any

import nats.errors
from nats.js import api

from penstock.deadletters.dead_letter import DeadLetter
from penstock.deadletters.dead_letter_queue import LEASE_SECONDS
from penstock.deadletters.log import CONSUMER_GROUP, LogBatch
from penstock.deadletters.log_consumer import Batches
from penstock.deadletters.recent import Recent
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


Append = Callable[[Sequence[DeadLetter]], Awaitable[None]]

LetterKey = tuple[str, int, str]


def key_of(letter: DeadLetter) -> LetterKey:
    """Return what tells a record of a letter from another one of the same letter."""
    return letter.id, letter.redrives, letter.state


async def fetch(client: Any, subscription: Any, count: int) -> list[Any]:
    """Fetch up to `count` messages that are available now; there may be none.

    Raises `NoServersError` without a connection.
    """
    try:
        return list(await subscription.fetch(count, timeout=FETCH_SECONDS))
    except (nats.errors.TimeoutError, TimeoutError):
        if not client.is_connected:
            raise nats.errors.NoServersError from None
        return []


class OpenMessages:
    """Messages that were received and not acknowledged. A task extends their leases.

    `received` gets the sequence of each open message by its letter. A letter that is published again meanwhile is a new
    message, although the stream has it already.
    """

    def __init__(self, client: Any, received: dict[LetterKey, int]) -> None:
        self._client = client
        self._received = received
        self._messages: dict[int, Any] = {}
        """The last delivery of each open message, by its sequence."""
        self._extending = asyncio.get_running_loop().create_task(self._extend_all(), name="dead letters: leases")

    def begin(self, messages: Sequence[Any]) -> list[Any]:
        """Keep the leases of messages; returns those that were not open already.

        An open message is delivered again when its lease was lost, such as by a restart of the server.
        """
        fresh = [message for message in messages if message.metadata.sequence.stream not in self._messages]
        self._messages |= {message.metadata.sequence.stream: message for message in messages}
        return fresh

    def note(self, letter: DeadLetter, sequence: int) -> None:
        """Note which message a letter comes from."""
        self._received[key_of(letter)] = sequence

    async def acknowledge(self, sequences: Sequence[int], letters: Sequence[DeadLetter]) -> None:
        """Acknowledge messages, and wait until the server has confirmed it."""
        messages = [self._messages[each] for each in sequences if each in self._messages]
        try:
            await asyncio.gather(*(message.ack_sync(timeout=10) for message in messages))
        except (nats.errors.Error, TimeoutError) as error:
            raise StoreError(f"cannot acknowledge letters; they are received again: {describe(error)}") from error
        finally:
            self._forget(sequences, letters)

    async def aclose(self) -> None:
        """Give up the leases: the letters can be received again at once."""
        self._extending.cancel()
        await asyncio.gather(self._extending, return_exceptions=True)
        try:
            async with asyncio.timeout(RELEASE_SECONDS):
                for message in self._messages.values():
                    await message.nak()
                if self._messages:
                    await self._client.flush()
        except (nats.errors.Error, TimeoutError) as error:  # the leases expire
            log.warning("store.lease_not_released", error=describe(error))
        self._received.clear()

    def _forget(self, sequences: Sequence[int], letters: Sequence[DeadLetter]) -> None:
        for sequence in sequences:
            self._messages.pop(sequence, None)
        for letter in letters:
            self._received.pop(key_of(letter), None)

    async def _extend_all(self) -> None:
        while True:
            await asyncio.sleep(LEASE_SECONDS / 3)
            try:
                for message in list(self._messages.values()):
                    await message.in_progress()
            except nats.errors.Error as error:  # try again in a moment: two attempts fit into a lease
                log.warning("store.lease_not_extended", error=describe(error))


async def consume_stream(
    client: Any, jetstream: Any, stream: str, decode: Decode, append: Append, received: dict[LetterKey, int]
) -> Batches:
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
    held = OpenMessages(client, received)
    recent = Recent()
    try:
        while True:
            messages = await fetch(client, subscription, FETCH)
            included = [message for message in messages if message.metadata.sequence.stream <= end]
            # Given back with the rest at the end: the next consumer receives them at once.
            held.begin([message for message in messages if message.metadata.sequence.stream > end])
            if not included:
                if messages or await _has_ended(subscription, end):
                    break
                continue
            letters: list[DeadLetter] = []
            sequences: list[int] = []
            for message in held.begin(included):
                sequences.append(sequence := message.metadata.sequence.stream)
                for letter in recent.unseen([decode(message.data, sequence)]):
                    letters.append(letter)
                    held.note(letter, sequence)
            if letters:
                yield LogBatch(letters, partial(_finish, held, append, sequences, letters))
            else:  # copies, or records that are not letters
                await held.acknowledge(sequences, ())
        yield None
    finally:
        await held.aclose()
        if client.is_connected:
            await subscription.unsubscribe()


async def _finish(
    held: OpenMessages,
    append: Append,
    sequences: Sequence[int],
    letters: Sequence[DeadLetter],
    again: Sequence[DeadLetter],
) -> None:
    if again:
        await append(again)
    await held.acknowledge(sequences, letters)


async def _has_ended(subscription: Any, end: int) -> bool:
    """Return whether all letters up to the end were delivered to a consumer of the group."""
    info = await subscription.consumer_info()
    return not info.num_pending or info.delivered.stream_seq >= end
