"""TLS inside the protocol, by `ssl.MemoryBIO`: asyncio's own costs 30 µs more per exchange."""

from __future__ import annotations

import asyncio
import ssl
from dataclasses import dataclass

from penstock.services.http_client.connection import ConnectionOwner, HttpConnection
from penstock.services.http_client.exchange import ExchangeFailed
from penstock.services.http_client.reasons import connection_error_reason

RECORD = 16 * 1024
"""Maximum content of a TLS record in bytes."""


@dataclass(frozen=True, slots=True)
class Tls:
    """The files of a TLS connection, in PEM.

    `ca` has the certificates of the authorities to trust, instead of those of the system. `cert` is the certificate of
    the client, followed by those that sign it, and `key` its private key, which may be in the file of `cert` too.
    """

    ca: str | None = None
    cert: str | None = None
    key: str | None = None

    def __post_init__(self) -> None:
        if self.key is not None and self.cert is None:
            raise ValueError("tls: key is given without cert, the certificate that belongs to it")

    def context(self) -> ssl.SSLContext:
        """Read the files. Raises `ValueError`, which names a file that cannot be read."""
        try:
            context = ssl.create_default_context(cafile=self.ca)
        except (OSError, ssl.SSLError) as error:
            raise ValueError(f"tls: ca {self.ca!r} cannot be read: {connection_error_reason(error)}") from error
        if self.cert is not None:
            try:
                context.load_cert_chain(self.cert, self.key, password=_no_password)
            except (OSError, ssl.SSLError, ValueError) as error:
                name = f"cert {self.cert!r}" + ("" if self.key is None else f" or key {self.key!r}")
                raise ValueError(f"tls: {name} cannot be read: {connection_error_reason(error)}") from error
        context.set_alpn_protocols(["http/1.1"])
        return context


def _no_password() -> str:
    """Reject an encrypted key: OpenSSL would ask for its password on the terminal."""
    raise ValueError("the key is encrypted")


class TlsConnection(HttpConnection):
    """A connection in TLS. `ready` is resolved after the handshake."""

    __slots__ = ("_incoming", "_outgoing", "_shaken", "_tls", "ready")

    def __init__(
        self, owner: ConnectionOwner, context: ssl.SSLContext, host: str, loop: asyncio.AbstractEventLoop
    ) -> None:
        super().__init__(owner)
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._tls = context.wrap_bio(
            self._incoming, self._outgoing, server_hostname=host.removesuffix("."), session=owner.tls_session
        )
        self._shaken = False
        self.ready: asyncio.Future[None] = loop.create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._shake_hands()

    def data_received(self, data: bytes) -> None:
        self._incoming.write(data)
        if not self._shaken:
            self._shake_hands()
        if self._shaken:
            self._read()

    def eof_received(self) -> None:
        """Fail: the peer has ended the connection without saying so inside TLS, so anything may be missing."""
        if self.ready.done():
            self._fail_closed("the connection was closed")
        else:
            self._refuse("the connection was closed during the TLS handshake")

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        if not self.ready.done():
            self._refuse("the connection was closed during the TLS handshake")

    def _write(self, data: bytes) -> None:
        sent = self._tls.write(data)
        while sent < len(data):
            sent += self._tls.write(data[sent:])
        self.transport.write(self._outgoing.read())

    def _finish(self) -> None:
        if not self.used:  # the first response: in TLS 1.3 the session comes after the handshake
            self._owner.tls_session = self._tls.session
        super()._finish()

    def _shake_hands(self) -> None:
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            self._flush()
            return
        except ssl.SSLError as error:
            self._flush()  # the alert that says why
            self._refuse(connection_error_reason(error))
            return
        self._flush()
        self._shaken = True
        if not self.ready.done():
            self.ready.set_result(None)

    def _read(self) -> None:
        receive = super().data_received
        while not self.closed:
            try:
                data = self._tls.read(RECORD)
            except ssl.SSLWantReadError:
                break
            except ssl.SSLZeroReturnError:
                data = b""
            except ssl.SSLError as error:
                self.fail(connection_error_reason(error))
                return
            if not data:  # the peer has ended the connection inside TLS
                super().eof_received()
                self.abort()
                return
            receive(data)
        self._flush()

    def _flush(self) -> None:
        if self._outgoing.pending and not self.transport.is_closing():
            self.transport.write(self._outgoing.read())

    def _refuse(self, reason: str) -> None:
        if not self.ready.done():
            self.ready.set_exception(ExchangeFailed(reason))
            self.ready.exception()  # it is not logged if the task that waits was cancelled
        self._close()
        if not self.transport.is_closing():
            self.transport.close()  # not `abort`: the alert is sent
