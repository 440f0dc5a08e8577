"""The pull requests of a JetStream source: how many messages the server was asked for, and when to ask for more.

The server answers a request with messages, and with a status if it ends before it is fulfilled. See ADR-13 of NATS:
https://github.com/nats-io/nats-architecture-and-design/blob/main/adr/ADR-13.md
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import nats.errors
from nats.js.errors import NotFoundError

from penstock.core.window import Window
from penstock.errors import describe
from penstock.support.logger import get_logger

log = get_logger()

EXPIRY_SECONDS = 30.0
"""How long the server keeps a request. Then it is repeated."""

LOST_SECONDS = EXPIRY_SECONDS + 10
"""Time after which a request without an answer is lost, such as by a change of the leader of a cluster."""

SHARE = 4
"""A request is sent when this part of the window is free, or after `TOP_UP_SECONDS` for fewer messages."""

TOP_UP_SECONDS = 0.01

MAX_REQUESTS = 64
"""Maximum of open requests. A consumer has 512 for all of its workers by default."""

RETRY_SECONDS = 1.0
"""Wait after the server rejected a request."""


class PullRequests:
    """The requests of one subscription, whose subject is `inbox.*`.

    The last token of the subject for replies is the number of requested messages, so that a status says which request
    it ended. `wake` is called when `send` should be called; `fail` when the consumer does not exist any more.
    """

    def __init__(
        self,
        client: Any,
        stream: str,
        durable: str,
        window: Window,
        *,
        wake: Callable[[], object],
        fail: Callable[[str], object],
    ) -> None:
        self.inbox: str = client.new_inbox()
        self._client = client
        self._stream = stream
        self._durable = durable
        self._window = window
        self._wake = wake
        self._fail = fail
        self._loop = asyncio.get_running_loop()
        self._subject = f"$JS.API.CONSUMER.MSG.NEXT.{stream}.{durable}"
        self._messages = 0
        """Messages that the server was asked for and has not sent."""
        self._open = 0
        """Maximum of requests that are open: a server may not report the end of those that it fulfilled."""
        self._sent_at = 0.0
        self._retry_at = 0.0
        self._rejected = False
        """Whether the server rejected the last request."""
        self._min_bytes = client.max_payload + 65_536
        """Minimum of bytes in a request, so that each can be answered with the largest message and its subject."""
        self._timer: asyncio.TimerHandle | None = None
        self._timer_fired = False

    def on_message(self) -> None:
        """Count a message."""
        self._messages = max(0, self._messages - 1)
        self._rejected = False

    def on_status(self, message: Any) -> None:
        """Take the end of a request."""
        headers: dict[str, str] = message.headers or {}
        status, text = headers.get("Status", ""), headers.get("Description", "")
        reason = text.lower()
        requested = int(message.subject.rpartition(".")[2])
        pending = int(headers.get("Nats-Pending-Messages", 0 if "batch completed" in reason else requested))
        self._messages = max(0, self._messages - pending)
        self._open = max(0, self._open - 1)
        if "consumer deleted" in reason or "push based" in reason:
            self._fail(f"the consumer {self._durable} was deleted")
        elif "message size exceeds" in reason:
            if pending == requested:  # the next message is larger than the request
                self._min_bytes *= 2
        elif status in ("404", "408") or "batch completed" in reason:
            self._rejected = False
        else:
            if not self._rejected:
                log.warning("source.request_rejected", durable=self._durable, error=f"{status} {text}".strip())
            self._rejected = True
            self._retry_at = self._loop.time() + RETRY_SECONDS
        self._wake()

    def on_reconnect(self) -> None:
        """Forget all requests, as the server does when a connection breaks.

        If it has not noticed that, it sends as many messages once more. They wait in the source.
        """
        self._messages = self._open = 0

    def check(self) -> None:
        """Forget requests whose answer is overdue."""
        if self._messages and self._loop.time() - self._sent_at > LOST_SECONDS:
            log.warning("source.request_lost", durable=self._durable, messages=self._messages)
            self._messages = self._open = 0

    def close(self) -> None:
        """Cancel the timer."""
        if self._timer is not None:
            self._timer.cancel()

    async def send(self, room: int) -> None:
        """Request as many messages as there is room for, if that is worth a request now."""
        count = room - self._messages
        if count <= 0:
            return
        self._open = min(self._open, self._messages)
        if (wait := self._retry_at - self._loop.time()) > 0:
            self._wake_later(wait)
        elif self._open and count * SHARE < self._window.elements and not self._timer_fired:
            self._wake_later(TOP_UP_SECONDS)  # there may be more room until then
        elif self._open < MAX_REQUESTS and (not self._rejected or await self._consumer_exists()):
            await self._request(count)

    async def _request(self, count: int) -> None:
        self.close()
        self._timer, self._timer_fired = None, False
        self._open += 1
        self._messages += count
        self._sent_at = self._loop.time()
        # Their share of the window, so that messages wait with as many bytes as the window has, plus these minimums.
        size = max(count * self._window.bytes // self._window.elements, self._min_bytes)
        request = {"batch": count, "expires": int(EXPIRY_SECONDS * 1e9), "max_bytes": size}
        await self._client.publish(self._subject, json.dumps(request).encode(), f"{self.inbox}.{count}")

    async def _consumer_exists(self) -> bool:
        """Check the consumer after a rejected request."""
        try:
            await self._client.jetstream().consumer_info(self._stream, self._durable)
        except NotFoundError:
            self._fail(f"the consumer {self._durable} was deleted")
            return False
        except (nats.errors.Error, TimeoutError) as error:
            log.warning("source.request_rejected", durable=self._durable, error=describe(error))
            self._retry_at = self._loop.time() + RETRY_SECONDS
            self._wake_later(RETRY_SECONDS)
            return False
        return True

    def _wake_later(self, seconds: float) -> None:
        if self._timer is None:
            self._timer = self._loop.call_later(seconds, self._on_timer)

    def _on_timer(self) -> None:
        self._timer, self._timer_fired = None, True
        self._wake()
