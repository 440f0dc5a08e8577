"""A connection to NATS servers that is restored when it breaks."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from nats.aio.client import Client
from nats.errors import AuthorizationError, NoServersError

from penstock.backends.server_url import ServerUrl
from penstock.errors import BrokerError, BrokerUnreachable, describe
from penstock.support.logger import get_logger

log = get_logger()

CONNECT_SECONDS = 5.0
"""Timeout of one attempt to connect."""

REQUEST_SECONDS = 10.0
"""Timeout of one request to the server."""


async def connect(
    servers: Sequence[str],
    user: str | None,
    password: str | None,
    options: Mapping[str, str],
    on_disconnect: Callable[[], None],
    *,
    on_reconnect: Callable[[], None] = lambda: None,
    name: str = "penstock",
) -> Client:
    """Connect to one of the servers. A user without a password is a token.

    `on_disconnect` is called when the connection breaks: replies to earlier requests do not come any more.
    `on_reconnect` is called when it is restored. `name` is what the server shows in its list of connections.

    When the connection breaks later, it is restored as soon as a server is reachable, without a limit of attempts.
    """
    secure = options.get("tls") == "yes"
    login: dict[str, Any] = {}
    if user and password is None:
        login = {"token": user}
    elif user:
        login = {"user": user, "password": password}
    if "credentials" in options:
        login["user_credentials"] = options["credentials"]
    client = Client()
    connected = False

    async def on_error(error: Exception) -> None:
        if connected:
            log.warning("nats.error", error=describe(error))
        elif not first:
            first.append(error)

    async def on_disconnected() -> None:
        on_disconnect()

    async def on_reconnected() -> None:
        on_reconnect()

    first: list[Exception] = []
    try:
        await client.connect(
            [f"{'tls' if secure else 'nats'}://{server}" for server in servers],
            error_cb=on_error,
            disconnected_cb=on_disconnected,
            reconnected_cb=on_reconnected,
            name=name,
            connect_timeout=int(CONNECT_SECONDS),
            reconnect_time_wait=1,
            max_reconnect_attempts=2,
            tls=ssl.create_default_context() if secure else None,
            **login,
        )
    except NoServersError:
        await client.close()
        raise (first[0] if first else NoServersError()) from None
    except BaseException:  # also a cancellation: the socket may be open already
        with suppress(AssertionError):  # it was not, such as if credentials cannot be read
            await client.close()
        raise
    connected = True
    client.options["max_reconnect_attempts"] = -1
    return client


async def connect_url(
    url: ServerUrl,
    subject: str,
    *,
    on_disconnect: Callable[[], None] = lambda: None,
    on_reconnect: Callable[[], None] = lambda: None,
    name: str = "penstock",
) -> Client:
    """Connect to one of the servers of a URL. `subject` is what needs the connection.

    Raises `BrokerError`, or `BrokerUnreachable`.
    """
    try:
        return await connect(
            url.servers, url.user, url.password, url.options, on_disconnect, on_reconnect=on_reconnect, name=name
        )
    except AuthorizationError:
        raise BrokerError(subject, "access is denied; check user and password, or the token") from None
    except ImportError as error:
        raise BrokerError(subject, f"credentials need the package {error.name}; install nats-py[nkeys]") from error
    except (NoServersError, OSError, TimeoutError) as error:
        if isinstance(error, OSError) and error.filename is not None:
            raise BrokerError(subject, f"cannot read the credentials {error.filename}: {error.strerror}") from error
        servers = ", ".join(url.servers)
        raise BrokerUnreachable(subject, f"cannot reach {servers}; check that a NATS server runs there") from error
