"""What is sent and received: compressed bodies, headers, and URLs that data cannot change."""

from __future__ import annotations

import asyncio
import gzip
import sys
import zlib
from typing import Any

import pytest
from structlog.testing import capture_logs

from http_client.conftest import Run, new_uvloop
from http_client.hostile import hostile
from http_client.test_hostile_servers import LIMIT, OK, client, get
from penstock import Flow, from_iterable
from penstock.errors import InvalidCallResult, InvalidItem, ServiceUnreachable
from penstock.services import CallFailed, Service
from penstock.services.http_client import Origin
from service.test_http_services import call

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

TEXT = b'{"price": 1001}' * 100


def gz(content: bytes) -> bytes:
    """Compress without the time, which would be in the name of the test."""
    return gzip.compress(content, mtime=0)


def encoded(body: bytes, encoding: bytes) -> bytes:
    """A response in a content encoding."""
    return b"HTTP/1.1 200 OK\r\nContent-Encoding: %b\r\nContent-Length: %d\r\n\r\n%b" % (encoding, len(body), body)


@pytest.mark.parametrize(
    ("body", "encoding"),
    [
        (gz(TEXT), b"gzip"),
        (gz(TEXT[:100]) + gz(TEXT[100:]), b"X-GZIP"),
        (zlib.compress(TEXT), b"deflate"),
        (zstd.compress(TEXT), b"zstd"),
        (TEXT, b"identity"),
        (TEXT, b""),
    ],
)
def test_a_compressed_response_is_decompressed(run: Run, body: bytes, encoding: bytes) -> None:
    """gzip, deflate and zstd."""

    async def main() -> bytes:
        async with client() as http, hostile([[encoded(body, encoding)]]) as server:
            return await get(http, server)

    assert run(main()) == TEXT


BOMB = gz(b"0" * 10_000_000)
INVALID: list[tuple[bytes, bytes, type[Exception], str]] = [
    (BOMB[: LIMIT - 1000], b"gzip", InvalidCallResult, "longer than its limit of 10000 bytes"),
    (zstd.compress(b"0" * 10_000_000), b"zstd", InvalidCallResult, "longer than its limit"),
    (gz(TEXT)[:-1], b"gzip", ServiceUnreachable, "its response is invalid: the gzip body is cut off"),
    (zstd.compress(TEXT)[:-1], b"zstd", ServiceUnreachable, "the zstd body is cut off"),
    (TEXT, b"gzip", ServiceUnreachable, "the gzip body cannot be decompressed"),
    (TEXT, b"br", InvalidCallResult, "has the content encoding 'br'; allowed: gzip, "),
    (gz(TEXT), b"gzip, gzip", InvalidCallResult, "has the content encoding 'gzip, gzip'"),
]


@pytest.mark.parametrize(("body", "encoding", "error", "message"), INVALID)
def test_an_invalid_compressed_response_fails(
    run: Run, body: bytes, encoding: bytes, error: type[Exception], message: str
) -> None:
    """Also one that is small, but has a large content."""

    async def main() -> None:
        async with client() as http, hostile([[encoded(body, encoding)]]) as server:
            with pytest.raises(error, match=message):
                await get(http, server)

    run(main())


def test_a_request_has_these_headers(run: Run) -> None:
    """Defaults, those of the service instead of them, and the password in the URL. Nothing asks for compression."""

    async def main() -> list[bytes]:
        async with client() as http, hostile([[OK], [OK]]) as server:
            url = server.url.replace("//", "//me:s%20e@")
            await call(Service.http("s", f"{url}/x y".replace(" ", "%20"), client=http, max_in_flight=1), {})
            headers = {"user-agent": "own", "HOST": "other.example", "Accept-Encoding": "gzip", "X-Id": "{id}"}
            body = {"price": 1}
            await call(
                Service.http("s", f"{server.url}?q={{id}}", client=http, method="POST", headers=headers, body=body),
                {"id": "a b"},
            )
            port = server.url.rpartition(":")[2].encode()
            return [request.replace(port, b"PORT") for request in server.requests]

    assert run(main()) == [
        b"GET /x%20y HTTP/1.1\r\nHost: 127.0.0.1:PORT\r\nAccept: application/json, application/problem+json\r\n"
        b"User-Agent: penstock\r\nAuthorization: Basic bWU6cyBl\r\n\r\n",
        b"POST /?q=a%20b HTTP/1.1\r\nAccept: application/json, application/problem+json\r\nuser-agent: own\r\n"
        b"HOST: other.example\r\nAccept-Encoding: gzip\r\nX-Id: a b\r\nContent-Type: application/json\r\n"
        b'Content-Length: 11\r\n\r\n{"price":1}',
    ]


@pytest.mark.parametrize("value", ["a\r\nX-Evil: 1", "a\nb", "\r\n\r\nGET /evil HTTP/1.1", "a\0b", "\x85", "\u2028"])
@pytest.mark.parametrize("place", ["header", "path", "query"])
def test_a_field_cannot_add_a_header_or_a_request(run: Run, value: str, place: str) -> None:
    """In a URL it is encoded, in a header it is rejected."""
    headers = {"X-Name": "{name}"} if place == "header" else {}
    suffix = {"header": "", "path": "/{name}/x", "query": "/?q={name}"}[place]

    async def main() -> tuple[Any, list[bytes]]:
        async with client() as http, hostile([[OK]]) as server:
            (result,) = await call(
                Service.http("s", server.url + suffix, client=http, headers=headers), {"name": value}
            )
            return result, server.requests

    result, requests = run(main())
    if place == "header":
        assert type(result) is CallFailed
        assert type(result.error) is InvalidItem
        assert requests == []
    else:
        assert result == 1234
        assert [len(request.split(b"\r\n")) for request in requests] == [6]


@pytest.mark.parametrize(
    "url",
    ["http:///x", "ftp://h/", "http://h:x/", "http://h/a b", "http://h/#a", "http://h/\r\nX: y", "h/x", "http://ä/"],
)
def test_an_invalid_url_is_not_sent(run: Run, url: str) -> None:
    """Of `HttpClient.request`, which takes any text."""

    async def main() -> None:
        async with client() as http:
            with pytest.raises(InvalidItem, match="cannot be sent: its URL is not a valid HTTP URL"):
                await http.request("s", "GET", url, limit=LIMIT)

    run(main())


@pytest.mark.parametrize(
    ("text", "host", "port", "authority"),
    [
        ("http://h", "h", 80, "h"),
        ("HTTPS://h:443", "h", 443, "h"),
        ("https://h:80", "h", 80, "h:80"),
        ("http://[::1]:81", "::1", 81, "[::1]:81"),
        ("http://[fe80::1%25eth0]", "fe80::1%eth0", 80, "[fe80::1]"),
        ("http+unix://%2Frun%2Fa.sock", "/run/a.sock", 0, "localhost"),
    ],
)
def test_an_origin_is_parsed(text: str, host: str, port: int, authority: str) -> None:
    """The host to connect to, and the header Host."""
    origin = Origin.parse(text)
    assert (origin.host, origin.port, origin.authority) == (host, port, authority)


@pytest.mark.parametrize("loop_factory", [None, new_uvloop])
def test_an_exit_of_a_function_that_converts_a_response_ends_the_process(loop_factory: Any) -> None:
    """And only one of several does: the others would interrupt the end of the event loop, which cancels the run."""
    ended: list[str] = []

    def leave(_: Any) -> None:
        raise SystemExit(7)

    async def main() -> None:
        async with client() as http, hostile(*[[[OK]]] * 3) as listening:
            service = Service.http("s", listening.url, client=http, response=leave)
            try:
                await Flow[Any]("f").map_async(service).run(from_iterable([1, 2, 3]))
            except asyncio.CancelledError:
                ended.append("cancelled")
                raise

    with capture_logs(), pytest.raises(SystemExit) as exited, asyncio.Runner(loop_factory=loop_factory) as runner:
        runner.run(main())
    assert (exited.value.code, ended) == (7, ["cancelled"])
