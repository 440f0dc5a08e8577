"""Conversion of PostgreSQL errors to `StoreError`, with advice."""

from __future__ import annotations

import ssl

from penstock.backends.postgres import asyncpg, cause_of, is_connection_error, message_of, reason_of
from penstock.errors import StoreError

_ADVICE: dict[type[BaseException], str] = {
    asyncpg.InvalidCatalogNameError: "{message}; create it with `createdb`, or name another database in the URL",
    asyncpg.InvalidPasswordError: "{message}; correct the user and the password in the URL",
    asyncpg.InvalidAuthorizationSpecificationError: "{message}; correct the user in the URL, or pg_hba.conf",
    asyncpg.InsufficientPrivilegeError: "{message}; grant this user CREATE on the database, or let its "
    "owner open it once",
    asyncpg.ReadOnlySQLTransactionError: "the server is a standby; name the primary server, or several with "
    "target_session_attrs=read-write",
    asyncpg.TooManyConnectionsError: "{message}; raise max_connections of the server, or close other connections",
    asyncpg.DiskFullError: "the disk of the server is full; free some space, the letters are stored by a later attempt",
    asyncpg.QueryCanceledError: "a statement was cancelled ({message})",
    asyncpg.CannotConnectNowError: "{message}",
}
"""What to do about an error. The first class that matches counts."""

_PERMANENT = (
    asyncpg.InvalidCatalogNameError,
    asyncpg.InvalidAuthorizationSpecificationError,
    asyncpg.InsufficientPrivilegeError,
    asyncpg.UndefinedTableError,
    asyncpg.DataCorruptedError,
    ssl.SSLCertVerificationError,
)
"""Errors that recur until somebody changes the URL or the database."""


def concerns_store(error: Exception) -> bool:
    """Check whether an error means that the store does not work; otherwise it concerns one letter."""
    cause = cause_of(error)
    return isinstance(cause, (StoreError, *_ADVICE, *_PERMANENT)) or is_connection_error(cause)


def to_store_error(error: Exception, url: str) -> StoreError:
    """Convert an error of the database to a `StoreError`. A `StoreError` is returned unchanged."""
    if isinstance(error, StoreError):
        return error
    cause = cause_of(error)
    store_error = StoreError(f"dead-letter store {url}: {_advice(cause)}")
    store_error.__cause__ = cause
    store_error.permanent = isinstance(cause, _PERMANENT)
    return store_error


def _advice(error: BaseException) -> str:
    for kind, advice in _ADVICE.items():
        if isinstance(error, kind):
            return advice.format(message=message_of(error))
    if isinstance(error, ssl.SSLError):
        return f"TLS failed ({message_of(error)}); correct sslmode and sslrootcert in the URL"
    if is_connection_error(error):
        return f"cannot reach the server ({reason_of(error)}); check host and port in the URL, and that it runs"
    if isinstance(error, (asyncpg.DataError, OverflowError, UnicodeError)):
        return f"a letter contains a value that PostgreSQL cannot store ({message_of(error)})"
    return message_of(error)
