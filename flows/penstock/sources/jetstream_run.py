"""One run of a JetStream source: its connection, the messages that it has open, and their answers.

One subscription with a callback takes the messages of all requests: that needs a third of the time of nats-py's
`fetch`. One task sends requests and answers, because calls of the client must be awaited and `settle` must not.
"""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import nats.errors

from penstock.backends.jetstream import ensure_consumer, shortest_ack_wait
from penstock.backends.nats import REQUEST_SECONDS, connect_url
from penstock.backends.nats_url import parse_nats_url
from penstock.core.leases import Answer
from penstock.errors import BrokerError, Poisoned, describe
from penstock.sources.jetstream_requests import SHARE, PullRequests
from penstock.sources.source import Emitter
from penstock.support.logger import get_logger

if TYPE_CHECKING:
    from penstock.sources.jetstream import JetStreamSource

log = get_logger()

RETRY_SECONDS = 1.0
"""Wait after answers could not be sent."""

REDELIVERY_SECONDS, MAX_REDELIVERY_SECONDS = 1.0, 60.0
"""The delay of the second delivery of a failed element, which doubles each time, and its maximum."""

RECENT = 8192
"""How many of the last messages that were done are recognized if they are delivered again."""

CLOSE_SECONDS = 8.0
"""Time to send the last answers; a lessor has `penstock.core.leases.CLOSE_SECONDS` in all."""

ACK, NAK, TERM, PROGRESS = b"+ACK", b"-NAK", b"+TERM", b"+WPI"

MessageId = tuple[int, int]
"""The sequence in the stream and the time of storage, because a stream that is created again repeats sequences."""


class Lease:
    """A message that was received and not answered."""

    __slots__ = ("deliveries", "extended_at", "id", "reply")

    def __init__(self, id: MessageId, reply: str, deliveries: int, extended_at: float) -> None:
        self.id = id
        self.reply = reply
        """The subject for answers to the last delivery."""
        self.deliveries = deliveries
        self.extended_at = extended_at
        """When the lease began or was extended."""


class JetStreamRun:
    """Receives messages for one run, and answers them. It is the lessor of the run."""

    def __init__(self, source: JetStreamSource, emitter: Emitter[bytes]) -> None:
        self._source = source
        self._emitter = emitter
        self._window = emitter.ledger.window
        self._loop = asyncio.get_running_loop()
        self._client: Any = None
        self._subscription: Any = None
        self._requests: PullRequests | None = None
        self._ack_wait = source.ack_wait
        self._buffer: list[tuple[bytes, Lease]] = []
        """Messages that were received and not emitted."""
        self._buffered_bytes = 0
        self._open: dict[MessageId, Lease] = {}
        """All leases that are not answered, in the buffer or in flight."""
        self._done: set[MessageId] = set()
        self._done_before: set[MessageId] = set()
        self._answers: deque[tuple[str, bytes]] = deque()
        """Answers that are not sent, with their subjects."""
        self._emit_until = 0
        """The sequence number after the last element of what `receive` is emitting."""
        self._arrived = asyncio.Event()
        self._to_send = asyncio.Event()
        self._reconnected = asyncio.Event()
        self._stopped = False
        self._fault: BrokerError | None = None

    async def open(self) -> None:
        """Connect, and find or create the consumer. Raises `BrokerError`."""
        source, title = self._source, self._source.title
        url = parse_nats_url(source.url, f"source {title}")
        self._client = await connect_url(url, title, on_reconnect=self._on_reconnect, name=f"penstock {title}")
        config = await ensure_consumer(
            self._client.jetstream(timeout=REQUEST_SECONDS),
            title,
            stream=source.stream,
            durable=source.durable,
            subjects=source.subjects,
            ack_wait=source.ack_wait,
            max_ack_pending=source.max_ack_pending,
        )
        self._ack_wait = shortest_ack_wait(config)
        self._requests = PullRequests(
            self._client, source.stream, source.durable, self._window, wake=self._to_send.set, fail=self._fail
        )
        self._subscription = await self._client.subscribe(
            f"{self._requests.inbox}.*",
            cb=self._on_message,
            pending_msgs_limit=0,  # never more than was requested
            pending_bytes_limit=0,  # beyond a limit the client would drop messages
        )
        self._emitter.report_connection(lambda: bool(self._client.is_connected))
        self._emitter.spawn(self._send_all(self._requests), "jetstream:send")
        self._emitter.spawn(self._extend_leases(self._requests), "jetstream:leases")

    async def receive(self) -> None:
        """Emit messages until `stop` is called. Raises `BrokerError` if the consumer was deleted."""
        self._to_send.set()
        while not self._stopped:
            if self._fault is not None:
                raise self._fault
            if self._buffer:
                await self._emit_some()
            else:
                self._arrived.clear()
                await self._arrived.wait()
        await self._unsubscribe()

    def stop(self) -> None:
        """Request nothing more, and give back what is not emitted."""
        self._stopped = True
        buffer, self._buffer, self._buffered_bytes = self._buffer, [], 0
        self.settle([(lease, Answer.RELEASED) for _, lease in buffer])
        self._arrived.set()

    def settle(self, answers: Sequence[tuple[Lease, Answer]]) -> None:
        """Take answers, and request more messages for the credits that are free now."""
        for lease, answer in answers:
            self._open.pop(lease.id, None)
            if answer is Answer.DONE:
                self._remember(lease.id)
                self._answers.append((lease.reply, TERM if self._is_poisoned(lease) else ACK))
            elif answer is Answer.FAILED:
                self._answers.append((lease.reply, delayed_nak(lease.deliveries)))
            else:
                self._answers.append((lease.reply, NAK))
        self._to_send.set()

    def origin(self, lease: Lease) -> str:
        """Return stream, sequence and time of storage of a message."""
        sequence, stored_at = lease.id
        return f"nats:{self._source.stream}/{sequence}@{stored_at}"

    async def close(self) -> None:
        """Send the last answers and close the connection. Logs if the server may not have received them."""
        self._stopped = True
        if self._requests is not None:
            self._requests.close()
        client = self._client
        if client is None:
            return
        try:
            async with asyncio.timeout(CLOSE_SECONDS):
                while not client.is_connected:  # noqa: ASYNC110 - the client may also be closed meanwhile
                    await asyncio.sleep(0.05)
                await self._unsubscribe()
                for lease in self._open.values():  # they were not emitted
                    self._answers.append((lease.reply, NAK))
                await self._send_answers()
                await client.flush()
        except (nats.errors.Error, OSError, TimeoutError) as error:  # the messages are delivered again
            log.warning("source.answers_lost", source=self._source.title, error=describe(error))
        finally:
            await client.close()

    async def _on_message(self, message: Any) -> None:
        """Take a message, or the status of a request, which has no subject for replies."""
        assert self._requests is not None
        if not message.reply:
            self._requests.on_status(message)
            return
        self._requests.on_message()
        tokens = message.reply.split(".")
        first = 4 if len(tokens) == 9 else 6  # the longer form has a domain and an account: ADR-15 of NATS
        deliveries, id = int(tokens[first]), (int(tokens[first + 1]), int(tokens[first + 3]))
        # A server that was killed may deliver messages again, even as if for the first time.
        if (known := self._open.get(id)) is not None:
            known.reply, known.deliveries, known.extended_at = message.reply, deliveries, self._loop.time()
            self._to_send.set()
        elif id in self._done or id in self._done_before:
            self._answers.append((message.reply, ACK))
            self._to_send.set()
        elif self._stopped:
            self._answers.append((message.reply, NAK))
            self._to_send.set()
        else:
            lease = self._open[id] = Lease(id, message.reply, deliveries, self._loop.time())
            self._buffer.append((message.data, lease))
            self._buffered_bytes += len(message.data)
            self._arrived.set()

    async def _emit_some(self) -> None:
        """Emit a part of the buffer, so that its credits may return and be requested while the rest is emitted."""
        share = max(1, self._window.elements // SHARE)
        batch, self._buffer = self._buffer[:share], self._buffer[share:]
        self._buffered_bytes -= sum([len(value) for value, _ in batch])
        emitter = self._emitter
        self._emit_until = emitter.seq + len(batch)
        if good := [(value, lease) for value, lease in batch if not self._is_poisoned(lease)]:
            values = [value for value, _ in good]
            await emitter.send(values, list(map(len, values)), [lease for _, lease in good])
        if len(good) < len(batch):
            known = {lease.id for _, lease in good}
            for value, lease in batch:
                if lease.id in known:
                    continue
                if self._stopped:
                    self.settle([(lease, Answer.RELEASED)])
                else:
                    await emitter.refuse(value, lease, Poisoned(lease.deliveries - 1))
        self._emit_until = 0

    def _is_poisoned(self, lease: Lease) -> bool:
        return lease.deliveries > self._source.deliveries

    def _remember(self, id: MessageId) -> None:
        self._done.add(id)
        if len(self._done) > RECENT:
            self._done, self._done_before = set(), self._done

    def _room(self) -> int:
        """Return how many messages may be requested, apart from those that are requested already."""
        if self._stopped or self._fault is not None or not self._client.is_connected:
            return 0
        if self._buffered_bytes and self._window.free_bytes <= self._buffered_bytes:
            return 0
        return self._emitter.free - len(self._buffer) - max(0, self._emit_until - self._emitter.seq)

    async def _send_all(self, requests: PullRequests) -> None:
        task = asyncio.current_task()
        while task is None or not task.cancelling():  # `publish` may swallow a cancellation
            await self._to_send.wait()
            self._to_send.clear()
            try:
                await self._send_answers()
                await requests.send(self._room())
            except (nats.errors.Error, OSError) as error:
                log.warning("source.send_failed", source=self._source.title, error=describe(error))
                await asyncio.sleep(RETRY_SECONDS)
                self._to_send.set()

    async def _send_answers(self) -> None:
        while self._answers:
            await self._client.publish(*self._answers[0])
            self._answers.popleft()

    async def _extend_leases(self, requests: PullRequests) -> None:
        """Extend all leases every third of `ack_wait`, and at once after a reconnection."""
        period = self._ack_wait / 3
        while True:
            try:
                async with asyncio.timeout(period):
                    await self._reconnected.wait()
            except TimeoutError:
                pass
            everything = self._reconnected.is_set()
            self._reconnected.clear()
            if not self._client.is_connected:  # the client would keep what is published
                continue
            now = self._loop.time()
            for lease in self._open.values():
                if everything or now - lease.extended_at > period / 2:
                    lease.extended_at = now
                    self._answers.append((lease.reply, PROGRESS))
            requests.check()
            self._to_send.set()

    async def _unsubscribe(self) -> None:
        """Withdraw all requests. Messages that arrive until then are given back."""
        subscription, self._subscription = self._subscription, None
        if subscription is None or not self._client.is_connected:
            return
        try:
            async with asyncio.timeout(CLOSE_SECONDS / 2):
                await subscription.drain()
        except (nats.errors.Error, TimeoutError) as error:  # their leases expire
            log.warning("source.unsubscribe_failed", source=self._source.title, error=describe(error))

    def _fail(self, reason: str) -> None:
        self._fault = BrokerError(self._source.title, reason)
        self._arrived.set()

    def _on_reconnect(self) -> None:
        if self._requests is not None:
            self._requests.on_reconnect()
        self._reconnected.set()
        self._to_send.set()


def delayed_nak(deliveries: int) -> bytes:
    """Return the answer for a failed element: the message is delivered again after a delay, which doubles each time.

    >>> delayed_nak(2)
    b'-NAK {"delay": 2000000000}'
    """
    delay = min(REDELIVERY_SECONDS * 2 ** min(deliveries - 1, 30), MAX_REDELIVERY_SECONDS)
    return NAK + b" " + json.dumps({"delay": int(delay * 1e9)}).encode()
