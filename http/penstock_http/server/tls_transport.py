"""TLS between the socket and the HTTP connection, by `ssl.MemoryBIO`.

asyncio's own TLS has a second buffer in front of that of the socket, which the limits of a stream and the check whether
a client has received its response do not see. It takes 256 KiB for each connection, drops what is not sent yet when a
client sends on after the end, and waits for the client before it closes. Here is one buffer, that of the socket.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from typing import Any, cast

RECORD = 16 * 1024
"""Maximum content of a TLS record in bytes."""

PLAIN_HTTP = (
    b"HTTP/1.1 400 Bad Request\r\nContent-Type: application/problem+json\r\nContent-Length: %d\r\n"
    b"Connection: close\r\n\r\n%b"
)

_HINT = b'{"type":"about:blank","title":"Bad Request","status":400,"detail":"this port speaks TLS: use https://"}\n'


class TlsTransport(asyncio.Transport, asyncio.Protocol):
    """The protocol of a socket, and the transport of a protocol that is connected after the handshake.

    It is in `handshakes` until its handshake is complete or has failed. `on_failure` is called with the reason if the
    handshake fails or takes longer than `timeout` seconds. It is not called for a client that closes the connection: it
    may only have checked the port.
    """

    def __init__(
        self,
        protocol: asyncio.Protocol,
        context: ssl.SSLContext,
        *,
        timeout: float,
        handshakes: set[TlsTransport],
        on_failure: Callable[[str], object],
    ) -> None:
        super().__init__()
        self._protocol = protocol
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        self._handshakes = handshakes
        self._on_failure = on_failure
        self._timeout = timeout
        self._timer: asyncio.TimerHandle | None = None
        self._loop = asyncio.get_running_loop()
        self._accepted_at = self._loop.time()
        self._socket: asyncio.Transport | None = None
        self._connected = False
        self._writing_paused = False

    # The protocol of the socket

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._socket = cast("asyncio.Transport", transport)
        self._handshakes.add(self)
        self._timer = self._loop.call_later(self._timeout, self._fail, "the client did not complete it in time")

    def data_received(self, data: bytes) -> None:
        self._incoming.write(data)
        if not self._connected:
            self._shake_hands()
        if self._connected:
            self._read()

    def eof_received(self) -> bool | None:
        return self._protocol.eof_received() if self._connected else None

    def connection_lost(self, exc: Exception | None) -> None:
        self._end_handshake()
        if self._connected:
            self._protocol.connection_lost(exc)

    def pause_writing(self) -> None:
        self._writing_paused = True
        if self._connected:
            self._protocol.pause_writing()

    def resume_writing(self) -> None:
        self._writing_paused = False
        if self._connected:
            self._protocol.resume_writing()

    @property
    def age(self) -> float:
        """Seconds since the connection was accepted."""
        return self._loop.time() - self._accepted_at

    # The transport of the protocol

    @property
    def socket_transport(self) -> asyncio.Transport:
        """The transport of the socket."""
        assert self._socket is not None
        return self._socket

    def write(self, data: bytes | bytearray | memoryview[Any]) -> None:
        if self.is_closing():
            return
        rest = memoryview(data).cast("B")
        try:
            while rest:
                rest = rest[self._tls.write(rest) :]
        except ssl.SSLError:  # the client has reported an error
            self.abort()
        self._flush()

    def close(self) -> None:
        """Send what is buffered, and that it is all; then close. The answer of the client is not waited for."""
        if self.is_closing():
            return
        try:
            self._tls.unwrap()
        except ssl.SSLError:  # most often `SSLWantReadError`: the client has not said the same
            pass
        self._flush()
        self.socket_transport.close()

    def abort(self) -> None:
        self.socket_transport.abort()

    def is_closing(self) -> bool:
        return self.socket_transport.is_closing()

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        found = {"sslcontext": self._tls.context, "ssl_object": self._tls}.get(name)
        return self.socket_transport.get_extra_info(name, default) if found is None else found

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        assert isinstance(protocol, asyncio.Protocol)
        self._protocol = protocol

    def get_protocol(self) -> asyncio.BaseProtocol:
        return self._protocol

    def is_reading(self) -> bool:
        return self.socket_transport.is_reading()

    def pause_reading(self) -> None:
        self.socket_transport.pause_reading()

    def resume_reading(self) -> None:
        self.socket_transport.resume_reading()

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self.socket_transport.set_write_buffer_limits(high, low)

    def get_write_buffer_limits(self) -> tuple[int, int]:
        return self.socket_transport.get_write_buffer_limits()

    def get_write_buffer_size(self) -> int:
        return self.socket_transport.get_write_buffer_size()

    def can_write_eof(self) -> bool:
        return False

    # TLS

    def _shake_hands(self) -> None:
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            self._flush()
        except ssl.SSLError as error:
            if error.reason == "HTTP_REQUEST":
                self.socket_transport.write(PLAIN_HTTP % (len(_HINT), _HINT))
            self._flush()  # the alert that says why
            self._fail((error.reason or str(error)).lower().replace("_", " "))
        else:
            self._end_handshake()
            self._flush()
            self._connected = True
            self._protocol.connection_made(self)
            if self._writing_paused:
                self._protocol.pause_writing()

    def _read(self) -> None:
        """Pass on everything that was received, as one piece."""
        chunks: list[bytes] = []
        ended = False
        while not ended:
            try:
                chunks.append(self._tls.read(RECORD))
                ended = not chunks[-1]
            except ssl.SSLWantReadError:
                break
            except ssl.SSLZeroReturnError:
                ended = True
            except ssl.SSLError:  # damaged in transit, or an alert of the client
                self._flush()
                self.abort()
                return
        self._flush()  # the answer to a change of keys
        if data := b"".join(chunks):
            self._protocol.data_received(data)
        if ended and not self.is_closing():
            self._protocol.eof_received()
            self.close()

    def _flush(self) -> None:
        if self._outgoing.pending and not self.is_closing():
            self.socket_transport.write(self._outgoing.read())

    def _fail(self, reason: str) -> None:
        self._end_handshake()
        if not self.is_closing():
            self._on_failure(reason)
            self.socket_transport.close()

    def _end_handshake(self) -> None:
        self._handshakes.discard(self)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
