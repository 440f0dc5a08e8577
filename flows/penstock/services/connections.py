"""The HTTP connections of a process, and one exchange on them: a request, and the body of its answer."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import aiohttp
from yarl import URL

from penstock.errors import Invalid, ServiceUnreachable, WrongAnswer
from penstock.services.reasons import reason_of
from penstock.services.refusal import refusal

JSON_HEADERS = {"Accept": "application/json, application/problem+json", "User-Agent": "penstock"}


class HttpClient:
    """One session with its pool of connections, made on the loop that first asks for it. Close it after use.

    `connections_per_host` bounds the pool (a call beyond it waits, within its timeout); `dns_seconds` is how
    long an address that was looked up is used.
    """

    def __init__(self, *, connections_per_host: int = 1024, dns_seconds: int = 60) -> None:
        if connections_per_host < 1:
            raise ValueError(f"a client needs at least 1 connection per host, got {connections_per_host}")
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
                    limit=0,  # hosts are few, and each has its own limit
                    limit_per_host=self._connections_per_host,
                    ttl_dns_cache=self._dns_seconds,
                ),
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=None),  # time is the service's affair
                cookie_jar=aiohttp.DummyCookieJar(),  # services share the session, not what one of them says
                headers=JSON_HEADERS,
            )
        return self._session

    async def exchange(
        self,
        service: str,
        method: str,
        url: URL,
        *,
        headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
        limit: int,
    ) -> bytes:
        """The body of a 2xx with at most `limit` bytes; cancelled, it closes the connection it is made on.

        Raises `Invalid` for a request that can never be sent, `ServiceRefused` for any other status (redirects
        included: following one would send values to a host nobody named), `ServiceUnreachable` if the connection
        breaks, `WrongAnswer` beyond the limit.
        """
        try:
            async with self.session.request(method, url, headers=headers, data=body, allow_redirects=False) as response:
                content = await _read(response, limit)
        except (aiohttp.InvalidURL, ValueError) as error:
            raise Invalid(f"the request to {service} cannot be sent: {reason_of(error)}") from error
        except (aiohttp.ClientError, OSError) as error:
            raise ServiceUnreachable(service, reason_of(error)) from error

        if not 200 <= response.status < 300:
            asked = response.headers.get("Retry-After")
            raise refusal(service, response.status, response.reason or "", content or b"", asked)
        if content is None:
            raise WrongAnswer(f"{service} answered with more than {limit} bytes, which is its limit")
        return content

    async def aclose(self) -> None:
        """Close all connections."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()


async def _read(response: aiohttp.ClientResponse, limit: int) -> bytes | None:
    """The body, None if longer than `limit`. Read to its end, it leaves the connection to other calls."""
    content = bytearray()
    async for chunk in response.content.iter_any():
        content += chunk
        if len(content) > limit:
            response.close()
            return None
    return bytes(content)
