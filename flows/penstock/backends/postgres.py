"""Connections to PostgreSQL servers, with asyncpg."""

from __future__ import annotations

import socket
from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any, Protocol
from urllib.parse import parse_qsl, quote, urlencode, urlsplit, urlunsplit

from penstock.errors import describe

asyncpg: Any = import_module("asyncpg")
"""The driver, which has no types."""

CONNECT_SECONDS = 10.0
"""The default timeout for a connection. The option `connect_timeout` of the URL changes it."""

COMMAND_SECONDS = 30.0
"""Timeout of one statement."""

SCHEMA = "penstock"
"""The default schema. The option `search_path` of the URL changes it."""

_SETTINGS = {
    "application_name": "penstock",
    "synchronous_commit": "on",  # a server may have it off, and lose commits that it has confirmed
    "search_path": SCHEMA,
    "jit": "off",  # compiling a query takes longer than any of ours
}
"""Settings of a connection. Options of the URL with the same names have precedence."""

USER_SETTINGS = {name: _SETTINGS[name] for name in ("application_name", "synchronous_commit")}
"""Settings of a connection to tables of users, which are found by the search path of the database."""

_OWN_OPTIONS = ("connect_timeout",)
"""Options that libpq knows and asyncpg would send to the server as a setting, which it rejects."""

_NO_CONNECTION: tuple[type[Exception], ...] = (
    OSError,  # also TimeoutError
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,  # of asyncpg 0.32, if the connection breaks at certain moments
    asyncpg.PostgresConnectionError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.CannotConnectNowError,
)


class PostgresConnection(Protocol):
    """What is used of a connection of asyncpg."""

    async def execute(self, query: str, *values: Any) -> str:
        """Execute a statement, or several without values."""
        ...

    async def fetch(self, query: str, *values: Any) -> Sequence[Any]:
        """Return the rows."""
        ...

    async def fetchrow(self, query: str, *values: Any) -> Any:
        """Return the first row, or None."""
        ...

    async def fetchval(self, query: str, *values: Any) -> Any:
        """Return the first value of the first row, or None."""
        ...

    async def prepare(self, query: str) -> Any:
        """Prepare a statement; its result describes the columns."""
        ...

    def transaction(self, **options: Any) -> AbstractAsyncContextManager[Any]:
        """Begin a transaction, or set a savepoint in one."""
        ...

    async def copy_to_table(self, table_name: str, **options: Any) -> str:
        """Copy rows into a table: `source`, `columns`, `schema_name` and `format`."""
        ...

    def is_closed(self) -> bool:
        """Whether the connection was closed or lost."""
        ...

    async def close(self, *, timeout: float) -> None:
        """Disconnect."""
        ...

    def terminate(self) -> None:
        """Close the socket without waiting."""
        ...


@dataclass(frozen=True, slots=True)
class PostgresServer:
    """How to connect to a database: by a URL as libpq has it, `postgresql://USER:PASSWORD@HOST:PORT/DATABASE?OPTIONS`.

    `?host=/FOLDER` is a Unix socket, `?sslmode=` is as in libpq, and unknown options are settings of the connection.
    """

    dsn: str = field(repr=False)
    """The URL without the options that are kept here."""
    settings: Mapping[str, str]
    connect_seconds: float

    @classmethod
    def of(cls, url: str, defaults: Mapping[str, str] = _SETTINGS) -> PostgresServer:
        """Parse a URL. `defaults` are settings that the URL may change. Raises `ValueError`."""
        parts = urlsplit(url)
        options = dict(parse_qsl(parts.query, keep_blank_values=True))
        settings = dict(defaults) | {name: value for name, value in options.items() if name in _SETTINGS}
        seconds = float(options.get("connect_timeout", 0)) or CONNECT_SECONDS
        rest = {name: value for name, value in options.items() if name not in settings and name not in _OWN_OPTIONS}
        dsn = urlunsplit(parts._replace(query=urlencode(rest, quote_via=quote)))
        return cls(dsn, settings, seconds)

    @property
    def schema(self) -> str:
        """The schema that new tables are created in."""
        return self.settings["search_path"].split(",")[0].strip().strip('"')

    async def connect(self) -> PostgresConnection:
        """Open a connection. Raises an `OSError` or an error of asyncpg."""
        connection: PostgresConnection = await asyncpg.connect(
            self.dsn,
            timeout=self.connect_seconds,
            command_timeout=COMMAND_SECONDS,
            server_settings=dict(self.settings),
        )
        return connection


def quote_name(name: str) -> str:
    """Return a name of a table or column as SQL has it.

    >>> quote_name('a "b" c')
    '"a ""b"" c"'
    """
    return '"{}"'.format(name.replace('"', '""'))


def reason_of(error: BaseException) -> str:
    """Return in a few words why there is no connection."""
    if isinstance(error, TimeoutError):
        return "no answer"
    if isinstance(error, ConnectionRefusedError):
        return "it refuses connections"
    if isinstance(error, socket.gaierror):
        return "the host is unknown"
    if isinstance(error, OSError):
        return error.strerror or describe(error)
    return message_of(error)


def message_of(error: BaseException) -> str:
    """Return the first line of the message of an error of the database."""
    text = getattr(error, "message", None) or str(error)
    return text.splitlines()[0] if text else describe(error)


def cause_of(error: BaseException) -> BaseException:
    """Return the error of the driver or of the system that an error of SQLAlchemy is about."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, (asyncpg.PostgresError, asyncpg.InterfaceError, OSError)):
            return seen
        seen = getattr(seen, "orig", None) or seen.__cause__
    return error


def is_connection_error(error: BaseException) -> bool:
    """Check whether an error means that there is no connection: it is unknown whether the last command was executed."""
    return isinstance(error, _NO_CONNECTION) and not isinstance(error, asyncpg.ClientConfigurationError)
