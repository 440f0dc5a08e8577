"""One run of a JetStream source: its connection, the messages that it has open, and their answers.

Messages are requested from the server as credits allow (pull requests on one subscription whose callback takes the
messages; a third of the time of nats-py's `fetch`). One task sends requests and answers, because calls of the client
must be awaited and `settle` must not.
"""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import nats.errors
from nats.js.errors import NotFoundError

from penstock.backends.jetstream import ensure_consumer, shortest_ack_wait
from penstock.backends.nats import REQUEST_SECONDS, connect_url
from penstock.backends.nats_url import parse_nats_url
from penstock.core.leases import Answer
from penstock.errors import BrokerError, Poisoned, describe
from penstock.sources.source import Emitter
from penstock.support.logger import get_logger

if TYPE_CHECKING:
    from penstock.sources.jetstream import JetStreamSource

log = get_logger()

EXPIRY_SECONDS = 30.0
"""How long the server keeps a request for messages. Then it is repeated."""

LOST_SECONDS = EXPIRY_SECONDS + 10
"""Time after which a request without an answer is lost, such as by a change of the leader of a cluster."""

TOP_UP = 4
"""A request is sent when this part of the window is free, or after `TOP_UP_SECONDS` for fewer messages."""

TOP_UP_SECONDS = 0.01

MAX_REQUESTS = 64
"""Maximum of open requests. A consumer has 512 for all of its workers by default."""

RETRY_SECONDS = 1.0
"""Wait after the server rejected a request."""

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
        self._jetstream: Any = None
        self._subscription: Any = None
        self._inbox = ""
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
        self._requested = 0
        """Messages that the server was asked for and has not sent."""
        self._requests = 0
        """Maximum of requests that are open. The server does not report the end of those that it fulfilled."""
        self._requested_at = 0.0
        self._retry_at = 0.0
        self._rejected = ""
        """Why the server rejected the last request; empty if it did not."""
        self._request_bytes = 0
        """Minimum of bytes in a request, so that each can be answered with the largest message."""
        self._timer: asyncio.TimerHandle | None = None
        self._timer_fired = False
        self._arrived = asyncio.Event()
        self._to_send = asyncio.Event()
        self._reconnected = asyncio.Event()
        self._stopped = False
        self._fault: BrokerError | None = None

    async def open(self) -> None:
        """Connect, and find or create the consumer. Raises `BrokerError`."""
        source, title = self._source, self._source.title
        url = parse_nats_url(source.url, f"source {title}")
        self._client = await connect_url(url, title, on_reconnect=self._on_reconnect, name=f"penstock {source.durable}")
        self._jetstream = self._client.jetstream(timeout=REQUEST_SECONDS)
        config = await ensure_consumer(
            self._jetstream,
            title,
            stream=source.stream,
            durable=source.durable,
            subjects=source.subjects,
            ack_wait=source.ack_wait,
            max_ack_pending=source.max_ack_pending,
        )
        self._ack_wait = shortest_ack_wait(config)
        self._request_bytes = self._client.max_payload + 65_536  # a message has a subject, too
        self._inbox = self._client.new_inbox()
        self._subscription = await self._client.subscribe(
            f"{self._inbox}.*",
            cb=self._on_message,
            pending_msgs_limit=0,  # never more than was requested
            pending_bytes_limit=0,  # beyond a limit the client would drop messages
        )
        self._emitter.spawn(self._send_all(), "jetstream:send")
        self._emitter.spawn(self._extend_leases(), "jetstream:leases")

    async def receive(self) -> None:
        """Emit messages until `stop` is called. Raises `BrokerError` if the consumer was deleted."""
        self._to_send.set()
        while not self._stopped:
            if self._fault is not None:
                raise self._fault
            if self._buffer:
                await self._emit_buffer()
            else:
                self._arrived.clear()
                await self._arrived.wait()
        await self._unsubscribe()

    def stop(self) -> None:
        """Request nothing more, and give back what is not emitted."""
        self._stopped = True
        self._release_buffer()
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
        if self._timer is not None:
            self._timer.cancel()
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

    # Receiving

    async def _on_message(self, message: Any) -> None:
        """Take a message, or the status of a request, which has no subject for replies."""
        if not message.reply:
            self._on_status(message)
            return
        tokens = message.reply.split(".")
        offset = 4 if len(tokens) == 9 else 6  # with domain and account. nats-server, ADR-15
        deliveries, sequence, stored_at = int(tokens[offset]), int(tokens[offset + 1]), int(tokens[offset + 3])
        self._requested = max(0, self._requested - 1)
        self._rejected = ""
        if self._stopped:
            self._answers.append((message.reply, NAK))
            self._to_send.set()
            return
        id, now = (sequence, stored_at), self._loop.time()
        # A server that was killed may deliver messages again, even as if for the first time.
        if (known := self._open.get(id)) is not None:
            known.reply, known.deliveries, known.extended_at = message.reply, deliveries, now
            self._to_send.set()
            return
        if id in self._done or id in self._done_before:
            self._answers.append((message.reply, ACK))
            self._to_send.set()
            return
        lease = self._open[id] = Lease(id, message.reply, deliveries, now)
        self._buffer.append((message.data, lease))
        self._buffered_bytes += len(message.data)
        self._arrived.set()

    def _on_status(self, message: Any) -> None:
        """Take the end of a request. https://docs.nats.io/reference/reference-protocols/nats_api_reference"""
        headers: dict[str, str] = message.headers or {}
        status, text = headers.get("Status", ""), headers.get("Description", "")
        reason = text.lower()
        requested = int(message.subject.rpartition(".")[2])
        pending = int(headers.get("Nats-Pending-Messages", 0 if "batch completed" in reason else requested))
        self._requested = max(0, self._requested - pending)
        self._requests = max(0, self._requests - 1)
        if "consumer deleted" in reason or "push based" in reason:
            self._fail(f"the consumer {self._source.durable} was deleted")
        elif "message size exceeds" in reason:
            if pending == requested:  # the next message is larger than the request
                self._request_bytes *= 2
        elif status in ("404", "408") or "batch completed" in reason:
            self._rejected = ""
        else:
            if not self._rejected:
                log.warning("source.request_rejected", source=self._source.title, error=f"{status} {text}".strip())
            self._rejected = text or status
            self._retry_at = self._loop.time() + RETRY_SECONDS
        self._to_send.set()

    async def _emit_buffer(self) -> None:
        batch, self._buffer, self._buffered_bytes = self._buffer, [], 0
        emitter, limit = self._emitter, self._source.deliveries
        good = [entry for entry in batch if entry[1].deliveries <= limit]
        self._emit_until = emitter.seq + len(batch)
        if good:
            values = [value for value, _ in good]
            await emitter.send(values, list(map(len, values)), [lease for _, lease in good])
        if len(good) < len(batch):
            for value, lease in batch:
                if not self._is_poisoned(lease) or lease.id not in self._open:
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

    def _release_buffer(self) -> None:
        buffer, self._buffer, self._buffered_bytes = self._buffer, [], 0
        self.settle([(lease, Answer.RELEASED) for _, lease in buffer])

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

    # Sending

    async def _send_all(self) -> None:
        task = asyncio.current_task()
        while task is None or not task.cancelling():  # `publish` may swallow a cancellation
            await self._to_send.wait()
            self._to_send.clear()
            try:
                await self._send_answers()
                await self._send_request()
            except (nats.errors.Error, OSError) as error:
                log.warning("source.send_failed", source=self._source.title, error=describe(error))
                await asyncio.sleep(RETRY_SECONDS)
                self._to_send.set()

    async def _send_answers(self) -> None:
        while self._answers:
            await self._client.publish(*self._answers[0])
            self._answers.popleft()

    async def _send_request(self) -> None:
        """Request as many messages as there are credits for, if that is worth a request now."""
        unsent = len(self._buffer) + max(0, self._emit_until - self._emitter.seq)
        count = self._emitter.free - self._requested - unsent
        if self._stopped or self._fault is not None or count <= 0 or not self._client.is_connected:
            return
        if self._buffered_bytes and self._window.free_bytes <= self._buffered_bytes:
            return
        self._requests = min(self._requests, self._requested)
        if (wait := self._retry_at - self._loop.time()) > 0:
            self._send_later(wait)
        elif self._requests and count * TOP_UP < self._window.elements and not self._timer_fired:
            self._send_later(TOP_UP_SECONDS)  # more credits may return until then
        elif self._requests < MAX_REQUESTS and (not self._rejected or await self._consumer_exists()):
            await self._request(count)

    async def _request(self, count: int) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer, self._timer_fired = None, False
        self._requests += 1
        self._requested += count
        self._requested_at = self._loop.time()
        # The share of these elements in the window. So messages that wait here have at most the bytes of the window.
        size = max(count * self._window.bytes // self._window.elements, self._request_bytes)
        request = {"batch": count, "expires": int(EXPIRY_SECONDS * 1e9), "max_bytes": size}
        subject = f"$JS.API.CONSUMER.MSG.NEXT.{self._source.stream}.{self._source.durable}"
        await self._client.publish(subject, json.dumps(request).encode(), f"{self._inbox}.{count}")

    async def _consumer_exists(self) -> bool:
        """Check the consumer after a rejected request. The run fails if it was deleted."""
        try:
            await self._jetstream.consumer_info(self._source.stream, self._source.durable)
        except NotFoundError:
            self._fail(f"the consumer {self._source.durable} was deleted")
            return False
        except (nats.errors.Error, TimeoutError):  # JetStream is not ready
            self._retry_at = self._loop.time() + RETRY_SECONDS
            self._send_later(RETRY_SECONDS)
            return False
        return True

    def _send_later(self, seconds: float) -> None:
        if self._timer is None:
            self._timer = self._loop.call_later(seconds, self._on_timer)

    def _on_timer(self) -> None:
        self._timer, self._timer_fired = None, True
        self._to_send.set()

    async def _extend_leases(self) -> None:
        period = self._ack_wait / 3
        while True:
            try:
                async with asyncio.timeout(period):
                    await self._reconnected.wait()
            except TimeoutError:
                pass
            everything = self._reconnected.is_set()
            self._reconnected.clear()
            if not self._client.is_connected:
                continue
            now = self._loop.time()
            for lease in list(self._open.values()):
                if everything or now - lease.extended_at > period / 2:
                    lease.extended_at = now
                    self._answers.append((lease.reply, PROGRESS))
            if self._requested and now - self._requested_at > LOST_SECONDS:
                log.warning("source.request_lost", source=self._source.title, messages=self._requested)
                self._requested = self._requests = 0
            self._to_send.set()

    def _on_reconnect(self) -> None:
        """Request again: the server has forgotten the requests of the connection that broke."""
        self._requested = self._requests = 0
        self._reconnected.set()
        self._to_send.set()


def delayed_nak(deliveries: int) -> bytes:
    """Return the answer for a failed element: the message is delivered again after a delay, which doubles each time.

    >>> delayed_nak(2)
    b'-NAK {"delay": 2000000000}'
    """
    delay = min(REDELIVERY_SECONDS * 2 ** min(deliveries - 1, 30), MAX_REDELIVERY_SECONDS)
    return NAK + b" " + json.dumps({"delay": int(delay * 1e9)}).encode()
