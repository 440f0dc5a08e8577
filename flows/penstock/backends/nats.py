"""A connection to NATS servers that is restored when it breaks, and the URLs of such servers."""

from __future__ import annotations

import re
import ssl
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl, unquote

from nats.aio.client import Client
from nats.errors import AuthorizationError, NoServersError

from penstock.errors import BrokerError, FlowDefinitionError, describe
from penstock.support.logger import get_logger
from penstock.support.text import suggest

log = get_logger()

CONNECT_SECONDS = 5.0
"""Timeout of one attempt to connect."""

REQUEST_SECONDS = 10.0
"""Timeout of one request to the server."""

USAGE = "nats://[USER:PASSWORD@]HOST[:PORT][?tls=yes&credentials=FILE]"

PORT = 4222

_HOST = re.compile(r"(?:[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::(?P<port>[0-9]{1,5}))?")
_OPTIONS = {"tls": ("yes", "no"), "credentials": None}
"""The options of a URL, with their values; None: any."""


@dataclass(frozen=True, slots=True)
class NatsUrl:
    """The parts of the URL of servers. A user without a password is a token."""

    servers: Sequence[str]
    """`host:port` of each server."""
    user: str | None
    password: str | None
    options: Mapping[str, str]


def parse_url(url: str, subject: str) -> NatsUrl:
    """Parse the URL of servers, such as `nats://me:secret@one:4222,two:4222?tls=yes`, variables substituted.

    `subject` is what has the URL, for errors, which show no password. Raises `FlowDefinitionError`.
    """
    if not url.startswith("nats://"):
        raise FlowDefinitionError(f"{subject}: invalid URL; use {USAGE}")
    rest, _, query = url.removeprefix("nats://").partition("?")
    credentials, _, location = rest.rpartition("@")
    hosts, slash, path = location.partition("/")
    if "/" in credentials or "@" in query:
        raise FlowDefinitionError(f"{subject}: write / as %2F, ? as %3F and @ as %40 in a user or password")
    if path or (slash and not hosts):
        raise FlowDefinitionError(f"{subject}: expected no path after the host; the stream is a setting of its own")
    options = dict(parse_qsl(query, keep_blank_values=True))
    for name, value in options.items():
        if name not in _OPTIONS:
            known = suggest(name, _OPTIONS)
            hint = f"did you mean {known}?" if known else f"allowed: {', '.join(_OPTIONS)}"
            raise FlowDefinitionError(f"{subject}: unknown option {name!r} of the URL; {hint}")
        if (allowed := _OPTIONS[name]) is not None and value not in allowed:
            raise FlowDefinitionError(f"{subject}: option {name} of the URL: expected {' or '.join(allowed)}")
    user, _, password = credentials.partition(":")
    servers = [_server(host, subject) for host in hosts.split(",")]
    return NatsUrl(servers, unquote(user) or None, unquote(password) or None, options)


def hide_password(url: str) -> str:
    """Remove user and password from a URL.

    >>> hide_password("nats://me:s3cret@host")
    'nats://host'
    """
    return re.sub(r"//.*@", "//", url, count=1, flags=re.DOTALL)


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
        await client.close()
        raise
    connected = True
    client.options["max_reconnect_attempts"] = -1
    return client


async def connect_url(
    url: NatsUrl,
    subject: str,
    *,
    on_disconnect: Callable[[], None] = lambda: None,
    on_reconnect: Callable[[], None] = lambda: None,
    name: str = "penstock",
) -> Client:
    """Connect to one of the servers of a URL. Raises `BrokerError`, which says what to do; `subject` is what needs it."""
    try:
        return await connect(
            url.servers, url.user, url.password, url.options, on_disconnect, on_reconnect=on_reconnect, name=name
        )
    except AuthorizationError:
        raise BrokerError(subject, "access is denied; check user and password, or the token") from None
    except (NoServersError, OSError, TimeoutError) as error:
        servers = ", ".join(url.servers)
        raise BrokerError(subject, f"cannot reach {servers}; check that a NATS server runs there") from error


def _server(host: str, subject: str) -> str:
    found = _HOST.fullmatch(host)
    if found is None or int(found["port"] or 0) > 65535:
        problem = f"invalid host {host!r}" if host else "the host is missing"
        raise FlowDefinitionError(f"{subject}: {problem}; use {USAGE}")
    return host if found["port"] else f"{host}:{PORT}"
