"""Publishes messages to JetStream, many at a time, and waits for the acknowledgement of each."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from itertools import count
from typing import TYPE_CHECKING, Any

import msgspec
import nats.errors

from penstock.backends.nats import connect_url
from penstock.backends.server_url import ServerUrl
from penstock.errors import SinkUnreachable, SinkWriteFailed, describe

if TYPE_CHECKING:
    from penstock.sinks.jetstream import Message

MAX_PENDING = 512
"""Maximum of messages that wait for their acknowledgement."""

ACK_SECONDS = 10.0
"""Time in which any acknowledgement must arrive. Then those of all published messages count as lost."""

RECONNECT_SECONDS = 2.0
"""Time in which a write waits for the connection. Then the server counts as unreachable."""

NOT_READY_SECONDS = 10.0
"""Time after a reconnection in which JetStream may not be ready, so that no stream has a subject."""

NOT_READY_WAIT = 0.25

_decode = msgspec.json.Decoder(dict[str, Any]).decode


class Publisher:
    """A connection for one sink. One call of `publish` at a time."""

    def __init__(self, title: str) -> None:
        self._title = title
        self._client: Any = None
        self._inbox = ""
        self._tokens = count()
        self._waiting: dict[int, int] = {}
        """The numbers of messages that are published and not acknowledged, by the last token of their reply subject."""
        self._replies: list[tuple[int, Any]] = []
        self._changed = asyncio.Event()
        """A reply arrived, or the connection broke."""
        self._connected = asyncio.Event()
        self._connected.set()
        self._broken = False
        self._ready_at = 0.0
        """Until when a missing stream is taken for a server that is not ready."""

    @staticmethod
    async def connect(url: ServerUrl, title: str, *, starting: bool = False) -> Publisher:
        """Connect. `title` is the sink, for errors. `starting`: the server may have started just now.

        Raises `BrokerError`, or `BrokerUnreachable`.
        """
        publisher = Publisher(title)
        client: Any = await connect_url(
            url,
            title,
            on_disconnect=publisher._on_disconnect,
            on_reconnect=publisher._on_reconnect,
            name=f"penstock {title}",
        )
        try:
            publisher._client, publisher._inbox = client, client.new_inbox()
            await client.subscribe(f"{publisher._inbox}.*", cb=publisher._on_reply)
        except BaseException:
            await client.close()
            raise
        if starting:
            publisher._on_reconnect()
        return publisher

    async def publish(self, messages: Sequence[Message]) -> list[Exception | None]:
        """Publish messages in order. Return an error or None for each.

        Messages with an id are published again after the connection broke, in the same order. Those that are not
        published, or have an id, get `SinkUnreachable` if it is not restored soon, or no acknowledgement arrives.
        """
        errors: list[Exception | None] = [None] * len(messages)
        queue = deque(range(len(messages)))
        self._waiting, self._replies, self._broken = {}, [], False
        while queue or self._waiting:
            if not await _is_set(self._connected, RECONNECT_SECONDS):
                for number in queue:
                    errors[number] = SinkUnreachable(self._title, "there is no connection")
                break
            while queue and len(self._waiting) < MAX_PENDING and not self._broken:
                number = queue.popleft()
                errors[number] = await self._send(messages[number], number)
            answered = not self._waiting or await _is_set(self._changed, ACK_SECONDS)
            self._changed.clear()
            again = self._take_replies(errors)
            if self._broken:
                self._broken = False
                again += self._lose(messages, errors, "the connection broke before the acknowledgement")
            elif not answered:
                silence = f"no acknowledgement within {ACK_SECONDS:g} s"
                for number in (*self._lose(messages, errors, silence), *again, *queue):
                    errors[number] = SinkUnreachable(self._title, silence)
                break
            elif again:
                await asyncio.sleep(NOT_READY_WAIT)
            queue.extendleft(sorted(again, reverse=True))
        return errors

    async def close(self) -> None:
        """Close the connection."""
        await self._client.close()

    async def _send(self, message: Message, number: int) -> Exception | None:
        token = next(self._tokens)
        headers = None if message.id is None else {"Nats-Msg-Id": message.id}
        self._waiting[token] = number
        try:
            await self._client.publish(message.subject, message.payload, f"{self._inbox}.{token}", headers)
        except nats.errors.Error as error:  # it is too large
            del self._waiting[token]
            return SinkWriteFailed(self._title, describe(error))
        return None

    def _lose(self, messages: Sequence[Message], errors: list[Exception | None], reason: str) -> list[int]:
        """Give up all acknowledgements. Return the messages that may be published again; the others fail."""
        numbers = sorted(self._waiting.values())
        self._waiting.clear()
        for number in numbers:
            if messages[number].id is None:
                errors[number] = SinkWriteFailed(self._title, f"{reason}; the message may be stored")
        return [number for number in numbers if messages[number].id is not None]

    def _take_replies(self, errors: list[Exception | None]) -> list[int]:
        """Record what the server replied. Return the numbers of messages to publish again."""
        again: list[int] = []
        replies, self._replies = self._replies, []
        for token, reply in replies:
            number = self._waiting.pop(token, None)
            if number is None:  # of an earlier call, or an earlier connection
                continue
            headers: dict[str, str] = reply.headers or {}
            if headers.get("Status") == "503":  # no stream has this subject
                if asyncio.get_running_loop().time() < self._ready_at:
                    again.append(number)
                else:
                    reason = "no stream has the subject, or JetStream is not enabled; create a stream with it"
                    errors[number] = SinkWriteFailed(self._title, reason)
            else:
                errors[number] = self._error_of(reply.data)
        return again

    def _error_of(self, data: bytes) -> Exception | None:
        try:
            error = _decode(data).get("error")
        except msgspec.MsgspecError:
            return SinkWriteFailed(self._title, "the reply is no acknowledgement; a service has the same subject")
        return None if error is None else SinkWriteFailed(self._title, str(error.get("description")))

    async def _on_reply(self, message: Any) -> None:
        self._replies.append((int(message.subject.rpartition(".")[2]), message))
        self._changed.set()

    def _on_disconnect(self) -> None:
        self._connected.clear()
        self._broken = True
        self._changed.set()

    def _on_reconnect(self) -> None:
        self._ready_at = asyncio.get_running_loop().time() + NOT_READY_SECONDS
        self._connected.set()


async def _is_set(event: asyncio.Event, seconds: float) -> bool:
    """Wait until an event is set. Return False if that takes too long."""
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return False
    return True
