"""The NATS JetStream dead-letter store: a stream whose messages are letters, with acknowledged publishes.

An acknowledgement means that the server has the message, not that it is on the disk of the server: for letters that
survive a crash of the server, set `sync_interval: always` in its configuration, or use a stream with three replicas.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncGenerator
from typing import Any

import nats.errors
from nats.js import api
from nats.js.errors import APIError, NoStreamResponseError, NotFoundError

from penstock.backends.nats import REQUEST_SECONDS, connect
from penstock.backends.server_url import parse_server_url
from penstock.deadletters.dead_letter import DeadLetter
from penstock.deadletters.jetstream_consumer import LetterKey, consume_stream, fetch, key_of
from penstock.deadletters.log_base import BaseLog, Record
from penstock.deadletters.log_consumer import Batches
from penstock.deadletters.store import DeadLetterQuery
from penstock.errors import StoreError, StoreMissing, describe
from penstock.support.text import sanitize

ACK_SECONDS = 10.0
"""Time for the acknowledgement of published letters."""

MAX_UNACKNOWLEDGED = 256
"""Letters that one append publishes before it waits for their acknowledgements."""

DUPLICATE_SECONDS = 600
"""How long a created stream recognizes a letter that is published again."""

FETCH = 500

_TOKEN = re.compile(r"[^A-Za-z0-9_-]")
_HEADER = re.compile(r"[\x00-\x1f\x7f]")


class JetStreamStore(BaseLog):
    """Publishes letters to a stream. A stream that does not exist is created, unless the URL has `create=no`.

    The subject is one of the stream, with the flow's name for a wildcard; of a created stream, `STREAM.FLOW`. The
    headers of a message are `id`, `key`, `flow`, `step`, `type` and `run`. `display_url` is the URL for messages.
    """

    concurrency = 8

    def __init__(
        self, url: str, *, create: bool = True, display_url: str | None = None, read_only: bool = False
    ) -> None:
        super().__init__(display_url or url, create=create, read_only=read_only)
        self._parts = parse_server_url(url, self.url)
        self._create = self._create and self._parts.options.get("create") != "no"
        self._stream = self._parts.name
        self._client: Any = None
        self._received: dict[LetterKey, int] = {}
        """The sequences of messages that consumers of this store have open, by their letters."""
        self._publishing: list[list[asyncio.Future[Any]]] = []
        """The acknowledgements that appends wait for."""
        self._pattern = ""
        """The subject of the stream that is published to, with wildcards."""

    async def _connect(self) -> None:
        parts = self._parts
        self._client = await connect(parts.servers, parts.user, parts.password, parts.options, self._on_disconnect)
        self._jetstream = self._client.jetstream(timeout=REQUEST_SECONDS)
        try:
            info = await self._jetstream.stream_info(self._stream)
        except NotFoundError:
            if not self._create:
                raise StoreMissing(self.url) from None
            info = await self._jetstream.add_stream(
                api.StreamConfig(
                    name=self._stream,
                    description="Dead letters of Penstock",
                    subjects=[f"{self._stream}.>"],
                    storage=api.StorageType.FILE,
                    num_replicas=int(parts.options.get("replicas", 1)),
                    duplicate_window=DUPLICATE_SECONDS,
                    discard=api.DiscardPolicy.NEW,  # a full stream rejects letters instead of losing old ones
                )
            )
        subjects: list[str] = info.config.subjects or []
        if not subjects:
            raise StoreError(f"dead-letter store {self.url}: the stream has no subjects to publish to")
        if info.config.retention not in (None, api.RetentionPolicy.LIMITS):
            raise StoreError(
                f"dead-letter store {self.url}: the stream has the retention policy {info.config.retention}, which "
                "deletes letters that were read; use a stream with the policy limits"
            )
        self._pattern = subjects[0]

    async def _disconnect(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            await client.close()

    async def _ping(self) -> None:
        self._check_connected()
        await self._jetstream.stream_info(self._stream)

    async def _append(self, letters: list[DeadLetter]) -> None:
        self._check_connected()
        for start in range(0, len(letters), MAX_UNACKNOWLEDGED):
            await self._publish(letters[start : start + MAX_UNACKNOWLEDGED])

    async def _publish(self, letters: list[DeadLetter]) -> None:
        """Publish letters and wait for all acknowledgements. A letter that the stream has already is acknowledged."""
        futures: list[asyncio.Future[Any]] = []
        self._publishing.append(futures)
        try:
            for letter in letters:
                futures.append(await self._publish_one(letter))  # noqa: PERF401 - each needs the one before
            _, late = await asyncio.wait(futures, timeout=ACK_SECONDS)
            if late:
                raise nats.errors.TimeoutError
            for future in futures:
                future.result()
        finally:
            self._publishing.remove(futures)
            for future in futures:
                if not future.done():
                    future.cancel()
                elif not future.cancelled():
                    future.exception()

    def _on_disconnect(self) -> None:
        """End the waiting for acknowledgements that were lost with the connection."""
        for futures in self._publishing:
            for future in futures:
                if not future.done():
                    future.set_exception(nats.errors.ConnectionClosedError())

    async def _publish_one(self, letter: DeadLetter) -> asyncio.Future[Any]:
        values = {"id": letter.id, "flow": letter.flow, "step": letter.step, "type": letter.type, "run": letter.run}
        if letter.key is not None:
            values["key"] = str(letter.key)
        headers = {name: _HEADER.sub(" ", sanitize(value))[:1000].strip() for name, value in values.items() if value}
        headers["Nats-Msg-Id"] = self._message_id(letter)
        value = self._encode(letter, self._client.max_payload - 10_000)
        published: asyncio.Future[Any] = await self._jetstream.publish_async(
            self._subject(letter.flow), value, stream=self._stream, headers=headers, wait_stall=ACK_SECONDS
        )
        return published

    def _message_id(self, letter: DeadLetter) -> str:
        """Return the id by which the stream recognizes a letter that is published again after an error."""
        id = f"{letter.id}/{letter.redrives}" if letter.redrives else letter.id
        received = self._received.get(key_of(letter))
        return id if received is None else f"{id}@{received}"

    def _subject(self, flow: str) -> str:
        name = _TOKEN.sub("_", flow) or "_"
        if self._pattern == ">":
            return f"{self._stream}.{name}"
        return ".".join(name if token in ("*", ">") else token for token in self._pattern.split("."))

    async def _read(self, _: DeadLetterQuery, after: str | None, /) -> AsyncGenerator[Record, None]:
        if after is not None and not after.isdecimal():
            raise self._invalid_cursor()
        self._check_connected()
        state = (await self._jetstream.stream_info(self._stream)).state
        position = max(int(after or 0) + 1, state.first_seq)
        if not state.messages or position > state.last_seq:
            return
        info = await self._jetstream.add_consumer(
            self._stream,
            api.ConsumerConfig(
                deliver_policy=api.DeliverPolicy.BY_START_SEQUENCE,
                opt_start_seq=position,
                ack_policy=api.AckPolicy.NONE,
                inactive_threshold=60,
                mem_storage=True,
                num_replicas=1,
            ),
        )
        subscription = await self._jetstream.pull_subscribe_bind(info.name, self._stream)
        try:
            while position <= state.last_seq:
                messages = await fetch(self._client, subscription, FETCH)
                if not messages:
                    pending = (await subscription.consumer_info()).num_pending
                    if not pending:  # the rest was deleted
                        return
                for message in messages:
                    position = message.metadata.sequence.stream + 1
                    if position - 1 > state.last_seq:
                        return
                    yield str(position - 1), self._decode(message.data, position - 1)
        finally:
            await subscription.unsubscribe()
            await self._delete_consumer(info.name)

    async def _delete_consumer(self, name: str) -> None:
        try:
            await self._jetstream.delete_consumer(self._stream, name)
        except nats.errors.Error:  # the server deletes it after a minute
            pass

    def _consume(self) -> Batches:
        return consume_stream(self._client, self._jetstream, self._stream, self._decode, self.add, self._received)

    def _check_connected(self) -> None:
        if self._client is None or not self._client.is_connected:
            raise nats.errors.NoServersError

    def _advice(self, error: Exception) -> tuple[str, bool]:
        servers = ", ".join(self._parts.servers)
        if isinstance(error, (nats.errors.NoServersError, nats.errors.ConnectionClosedError, OSError)):
            return f"cannot reach {servers}; check that a NATS server runs there", False
        if isinstance(error, nats.errors.AuthorizationError):
            return "access is denied; check user and password, or the token", True
        if isinstance(error, (NoStreamResponseError, NotFoundError)):
            return f"there is no stream {self._stream}, or JetStream is not enabled; enable it, or create it", False
        if isinstance(error, APIError):
            return f"the server rejects the request: {error.description}", False
        if isinstance(error, json.JSONDecodeError):
            return "the reply of the server is not JSON", False
        return describe(error), False
