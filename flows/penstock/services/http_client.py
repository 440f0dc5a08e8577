"""Send HTTP requests to services, and turn connection errors and error responses into exceptions."""

from __future__ import annotations

import asyncio
import math
import os
import re
import socket
import ssl
from codecs import BOM_UTF8
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, cast

import aiohttp
import msgspec
from yarl import URL

from penstock.errors import (
    SERVICE_MESSAGE_LIMIT,
    InvalidCallResult,
    InvalidItem,
    ServiceErrorResponse,
    ServiceUnreachable,
    describe,
)

DEFAULT_HEADERS = {"Accept": "application/json, application/problem+json", "User-Agent": "penstock"}

ERROR_TYPE = re.compile(r"[A-Za-z][\w.-]{0,99}")
"""A name for a type of error. RFC 9457 also allows a URL, which is ignored."""

HOSTNAME_MISMATCHES = (62, 63, 64)
"""OpenSSL's codes for a certificate of another host, e-mail or IP address (X509_V_ERR_…_MISMATCH)."""


class HttpClient:
    """One session with its pool of connections, created on the event loop that first uses it. Close it after use.

    `connections_per_host` limits the pool (further calls wait, within their timeout). `dns_seconds` is how long a
    resolved host name is cached.
    """

    def __init__(self, *, connections_per_host: int = 1024, dns_seconds: int = 60) -> None:
        if connections_per_host < 1:
            raise ValueError(f"connections_per_host: expected an integer >= 1, got {connections_per_host}")
        self._connections_per_host = connections_per_host
        self._dns_seconds = dns_seconds
        self._session: aiohttp.ClientSession | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    @property
    def session(self) -> aiohttp.ClientSession:
        """The session of the running event loop."""
        loop = asyncio.get_running_loop()
        if self._session is None or self._session.closed or self._loop is not loop:
            self._loop = loop
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(
                    limit=0,  # there are few hosts, and each has its own limit
                    limit_per_host=self._connections_per_host,
                    ttl_dns_cache=self._dns_seconds,
                ),
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=None),  # the service has the timeout
                cookie_jar=aiohttp.DummyCookieJar(),  # services share the session, but not the cookies of one of them
                headers=DEFAULT_HEADERS,
            )
        return self._session

    async def request(
        self,
        service: str,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
        limit: int,
    ) -> bytes:
        """Send a request and return the body of a 2xx response, at most `limit` bytes. `url` is percent-encoded.

        When it is cancelled, the connection is closed. Raises `InvalidItem` for a request that cannot be sent,
        `ServiceErrorResponse` for any other status (redirects included: following one would send values to a host
        that the
        flow does not name), `ServiceUnreachable` for connection errors, `InvalidCallResult` for a longer body.
        """
        try:
            target = URL(url, encoded=True)
            async with self.session.request(
                method, target, headers=headers, data=body, allow_redirects=False
            ) as response:
                content = await _read(response, limit)
        except (aiohttp.InvalidURL, ValueError) as error:
            raise InvalidItem(f"the request to {service} cannot be sent: {connection_error_reason(error)}") from error
        except (aiohttp.ClientError, OSError) as error:
            raise ServiceUnreachable(service, connection_error_reason(error)) from error

        if not 200 <= response.status < 300:
            retry_after = response.headers.get("Retry-After")
            raise _response_error(service, response.status, response.reason or "", content or b"", retry_after)
        if content is None:
            raise InvalidCallResult(f"the response of {service} is longer than its limit of {limit} bytes")
        return content

    async def aclose(self) -> None:
        """Close all connections."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()


async def _read(response: aiohttp.ClientResponse, limit: int) -> bytes | None:
    """Read the body; None if it is longer than `limit`. Reading to the end makes the connection reusable."""
    content = bytearray()
    async for chunk in response.content.iter_any():
        content += chunk
        if len(content) > limit:
            response.close()
            return None
    return bytes(content)


def connection_error_reason(error: Exception) -> str:
    """Describe a connection error in one line, without the host.

    The host may come from a variable of the environment, and errors are read by more people than may know it.
    """
    match error:
        case aiohttp.InvalidURL() | aiohttp.NonHttpUrlClientError():
            return "its URL is not a valid HTTP URL"
        case aiohttp.ClientResponseError():
            return error.message
        case aiohttp.ClientConnectorCertificateError():
            return connection_error_reason(error.certificate_error)
        case aiohttp.ClientConnectorError():
            return connection_error_reason(error.os_error)
        case ssl.SSLCertVerificationError():
            mismatch = error.verify_code in HOSTNAME_MISMATCHES
            return "its certificate is for another host" if mismatch else error.verify_message
        case socket.gaierror() | ssl.SSLError():
            return error.strerror or type(error).__name__
        case OSError():
            # `strerror` of asyncio contains the address. If several addresses failed, there is no `errno`.
            return os.strerror(error.errno) if error.errno else _reason_without_errno(error)
        case _:
            return describe(error)


def _reason_without_errno(error: OSError) -> str:
    """Describe an error of asyncio or aiohttp. The messages of aiohttp do not contain the host, those of asyncio do."""
    return describe(error) if isinstance(error, aiohttp.ClientError) else "no connection could be made"


def _response_error(
    service: str, status: int, reason: str, body: bytes, retry_after: str | None
) -> ServiceErrorResponse:
    """Make the exception for an error response; `reason` is the message if the body has none."""
    try:
        document: Any = msgspec.json.decode(body.removeprefix(BOM_UTF8))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        document = None
    message, kind = _parse_error_body(document)
    return ServiceErrorResponse(service, status, message or reason, parse_retry_after(retry_after), kind)


def batch_item_error(service: str, error: Any) -> ServiceErrorResponse:
    """Make the exception for one item of a batch."""
    message, kind = _parse_error_body({"error": error})
    status = cast("dict[str, Any]", error).get("status") if isinstance(error, dict) else None
    known = status if type(status) is int else None
    return ServiceErrorResponse(service, known, message or "it gave no reason", kind=kind)


def _parse_error_body(body: Any) -> tuple[str, str | None]:
    """Return message and type of `{"error": {…}}`, `{"error": "…"}`, `{"message": …}` or a problem (RFC 9457)."""
    if not isinstance(body, dict):
        return "", None
    fields = cast("dict[str, Any]", body)
    error = fields.get("error")
    if isinstance(error, str):
        return error[:SERVICE_MESSAGE_LIMIT], None
    if isinstance(error, dict):
        fields = cast("dict[str, Any]", error)
    values = [fields.get(key) for key in ("message", "title", "detail")]
    texts = [text for text in values if isinstance(text, str) and text]
    kind = fields.get("type")
    known = kind if isinstance(kind, str) and ERROR_TYPE.fullmatch(kind) else None
    return ": ".join(texts)[:SERVICE_MESSAGE_LIMIT], known


def parse_retry_after(retry_after: str | None, now: datetime | None = None) -> float | None:
    """Return the seconds to wait of a `Retry-After`, which is a number or a date; None if there is no valid one."""
    if retry_after is None:
        return None
    try:
        seconds = float(retry_after)
        return max(seconds, 0.0) if math.isfinite(seconds) else None
    except ValueError:
        pass
    try:
        at = parsedate_to_datetime(retry_after)
    except (ValueError, OverflowError):
        return None
    return max((at.replace(tzinfo=at.tzinfo or UTC) - (now or datetime.now(UTC))).total_seconds(), 0.0)
