"""Proxies of the environment."""

from __future__ import annotations

import pytest

from http_client.conftest import Run
from http_client.hostile import Close, Hang, Step, hostile
from http_client.test_hostile_servers import LIMIT, OK
from penstock.errors import ServiceUnreachable
from penstock.services.http_client import HttpClient, Origin
from penstock.services.http_client.proxies import proxy_for

BASIC = b"Proxy-Authorization: Basic bWU6cyBl\r\n"


def test_a_proxy_gets_the_whole_url(run: Run) -> None:
    """With its user and password, which the service does not get."""

    async def main() -> bytes:
        async with hostile([[OK]]) as proxy:
            http = HttpClient(environment={"HTTP_PROXY": proxy.url.replace("//", "//me:s%20e@")})
            assert await http.request("s", "GET", "http://prices.internal:81/x?y=1", limit=LIMIT) == b"1234"
            await http.aclose()
            return proxy.requests[0]

    request = run(main())
    assert request.startswith(b"GET http://prices.internal:81/x?y=1 HTTP/1.1\r\n")
    assert b"\r\nHost: prices.internal:81\r\n" in request
    assert BASIC in request


def test_a_proxy_makes_a_tunnel_for_https(run: Run) -> None:
    """The request in it is encrypted: here the proxy itself responds to the handshake, and not in TLS."""

    async def main() -> bytes:
        async with hostile([[b"HTTP/1.1 200 Established\r\n\r\n", Hang, b"no TLS"]]) as proxy:
            http = HttpClient(environment={"https_proxy": proxy.url.replace("//", "//me:s%20e@")})
            with pytest.raises(ServiceUnreachable, match="SSL"):
                await http.request("s", "GET", "https://[2001:db8::1]/x", limit=LIMIT)
            return proxy.requests[0]

    assert run(main()) == b"CONNECT [2001:db8::1]:443 HTTP/1.1\r\nHost: [2001:db8::1]:443\r\n" + BASIC + b"\r\n"


REFUSALS: list[tuple[list[Step], str]] = [
    (
        [b"HTTP/1.1 407 Authentication Required\r\nContent-Length: 0\r\n\r\n"],
        "its proxy refused the connection with 407",
    ),
    ([b"SSH-2.0-x\r\n\r\n"], "its proxy did not respond in HTTP/1.1"),
    ([b"HTTP/1.1 200 OK\r\n\r\nmore"], "its proxy sent data before the connection was used"),
    ([b"HTTP/1.1 200 OK\r\nX: " + b"a" * 100_000], "its proxy did not respond in HTTP/1.1"),
    ([b"HTTP/1.1 2", Close], "its proxy closed the connection"),
    ([Close], "its proxy closed the connection"),
]


@pytest.mark.parametrize(("steps", "reason"), REFUSALS)
def test_a_proxy_can_refuse_a_tunnel(run: Run, steps: list[Step], reason: str) -> None:
    """The reason is in the error."""

    async def main() -> int:
        async with hostile([steps]) as proxy:
            http = HttpClient(environment={"https_proxy": proxy.url})
            with pytest.raises(ServiceUnreachable, match=reason):
                await http.request("s", "GET", "https://prices.internal/x", limit=LIMIT)
            return http.statistics().open

    assert run(main()) == 0


@pytest.mark.parametrize(
    ("url", "variables", "proxied"),
    [
        ("http://a.example", {}, False),
        ("http://a.example", {"HTTP_PROXY": "http://p:1"}, True),
        ("http://a.example", {"http_proxy": "p:1"}, True),
        ("http://a.example", {"http_proxy": ""}, False),
        ("http://a.example", {"ALL_PROXY": "http://p:1"}, True),
        ("http://a.example", {"HTTPS_PROXY": "http://p:1"}, False),
        ("https://a.example", {"HTTPS_PROXY": "http://p:1"}, True),
        ("http://a.example", {"HTTP_PROXY": "http://p:1", "REQUEST_METHOD": "GET"}, False),
        ("http://localhost:80", {"HTTP_PROXY": "http://p:1"}, False),
        ("http://127.8.0.1", {"HTTP_PROXY": "http://p:1"}, False),
        ("http://[::1]", {"HTTP_PROXY": "http://p:1"}, False),
        ("http+unix://%2Fx", {"ALL_PROXY": "http://p:1"}, False),
        ("http://a.example", {"HTTP_PROXY": "http://p:1", "NO_PROXY": "*"}, False),
        ("http://a.example", {"HTTP_PROXY": "http://p:1", "no_proxy": "b, A.example"}, False),
        ("http://x.a.example.", {"HTTP_PROXY": "http://p:1", "NO_PROXY": ".a.example"}, False),
        ("http://x.a.example", {"HTTP_PROXY": "http://p:1", "NO_PROXY": "*.a.example"}, False),
        ("http://xa.example", {"HTTP_PROXY": "http://p:1", "NO_PROXY": "a.example"}, True),
        ("http://a.example:81", {"HTTP_PROXY": "http://p:1", "NO_PROXY": "a.example:80"}, True),
        ("http://a.example:81", {"HTTP_PROXY": "http://p:1", "NO_PROXY": "a.example:81"}, False),
        ("http://10.1.2.3", {"HTTP_PROXY": "http://p:1", "NO_PROXY": "10.0.0.0/8"}, False),
        ("http://11.1.2.3", {"HTTP_PROXY": "http://p:1", "NO_PROXY": "10.0.0.0/8,x/y"}, True),
        ("http://[2001:db8::1]", {"HTTP_PROXY": "http://p:1", "NO_PROXY": "2001:db8::/32"}, False),
        ("http://[2001:db8::1]:81", {"HTTP_PROXY": "http://p:1", "NO_PROXY": "[2001:db8::1]:81"}, False),
    ],
)
def test_the_environment_names_the_proxy(url: str, variables: dict[str, str], proxied: bool) -> None:
    """In the ways in which other programs understand it."""
    proxy = proxy_for(Origin.parse(url), variables)
    assert (proxy is not None and (proxy.host, proxy.port) == ("p", 1)) == proxied


@pytest.mark.parametrize("text", ["https://p:1", "socks5://p:1", "http://", "http://p:x"])
def test_an_invalid_proxy_fails_the_call(run: Run, text: str) -> None:
    """Its URL may contain a password, so only the variable is named."""

    async def main() -> None:
        http = HttpClient(environment={"HTTP_PROXY": text})
        with pytest.raises(ServiceUnreachable, match="HTTP_PROXY"):
            await http.request("s", "GET", "http://prices.internal/x", limit=LIMIT)

    run(main())
