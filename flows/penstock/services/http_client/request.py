"""A request that reports its end by a callback. It needs a task only while it waits for a connection."""

from __future__ import annotations

import asyncio
from contextvars import Context
from typing import Protocol

from penstock.errors import ServiceUnreachable
from penstock.services.http_client.connection import HttpConnection
from penstock.services.http_client.exchange import ExchangeFailed, Response
from penstock.services.http_client.reasons import connection_error_reason
from penstock.support.tasks import Report


class Connections(Protocol):
    """A pool of connections."""

    loop: asyncio.AbstractEventLoop

    def take_idle(self) -> HttpConnection | None:
        """Return an idle connection, if there is one."""
        ...

    async def acquire(self) -> HttpConnection:
        """Open a connection, or wait for one if there are as many as allowed."""
        ...


class Request:
    """A request of a service. `content` is all that is sent; the body of its response has at most `limit` bytes.

    `head_only`: the response has no body, because the method is HEAD. If the server has closed a kept connection, a
    `repeatable` request is sent again once, on another one. `on_end` receives the response or the error, which is
    `ServiceUnreachable`, or `CancelledError` of a request that was cancelled. It is called once, perhaps before `start`
    returns.
    """

    __slots__ = (
        "_connection",
        "_content",
        "_head_only",
        "_limit",
        "_on_end",
        "_opening",
        "_pool",
        "_repeatable",
        "_service",
    )

    def __init__(
        self,
        pool: Connections,
        service: str,
        content: bytes,
        limit: int,
        head_only: bool,
        repeatable: bool,
        on_end: Report[Response],
    ) -> None:
        self._pool = pool
        self._service = service
        self._content = content
        self._limit = limit
        self._head_only = head_only
        self._repeatable = repeatable
        self._on_end = on_end
        self._connection: HttpConnection | None = None
        self._opening: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Send the request, now if a connection is idle."""
        connection = self._pool.take_idle()
        if connection is None:
            self._acquire()
        else:
            self._send(connection)

    def cancel(self) -> asyncio.Future[None] | None:
        """End the request and close its connection. Return a future to wait for if it has no connection yet."""
        if self._opening is not None:
            self._opening.cancel()
        elif self._connection is not None:
            connection, self._connection = self._connection, None
            connection.receiver = None
            connection.abort()
            self._on_end(None, asyncio.CancelledError())
        return self._opening

    def responded(self, response: Response) -> None:
        """Receive the response. Called by the connection, which serves other requests from now on."""
        self._connection = None
        self._on_end(response, None)

    def failed(self, error: BaseException) -> None:
        """Receive why there is no response. The connection is closed, or could not be opened."""
        self._connection = None
        if self._repeatable and isinstance(error, ExchangeFailed) and error.unanswered:
            self._repeatable = False
            self._acquire()
            return
        if not isinstance(error, (ExchangeFailed, OSError, ValueError)):
            self._on_end(None, error)
            return
        unreachable = ServiceUnreachable(self._service, connection_error_reason(error))
        unreachable.__cause__ = error
        self._on_end(None, unreachable)

    def _send(self, connection: HttpConnection) -> None:
        self._connection = connection
        connection.send(self._content, self, self._limit, self._head_only)

    def _acquire(self) -> None:
        self._opening = self._pool.loop.create_task(
            self._acquire_and_send(), name=f"{self._service}:connect", context=Context()
        )  # an empty context: connections outlive the call that opens them
        self._opening.add_done_callback(self._opened)

    async def _acquire_and_send(self) -> None:
        # Sent by this task, in this iteration of the event loop: in the next one the connection may be closed.
        try:
            connection = await self._pool.acquire()
        except asyncio.CancelledError:
            raise
        except BaseException as error:
            self._opening = None
            self.failed(error)
        else:
            self._opening = None
            self._send(connection)

    def _opened(self, task: asyncio.Task[None]) -> None:
        if task.cancelled():
            self._opening = None
            self._on_end(None, asyncio.CancelledError())
