"""Connections: how many there are, which are used again, and that none is left."""

from __future__ import annotations

import asyncio
import gc
import socket
from collections.abc import Callable

import pytest
from aiohttp import web
from aiohttp.test_utils import unused_port

from http_client.conftest import Run
from http_client.hostile import Close, Hang, hostile
from http_client.test_hostile_servers import LIMIT, OK, client, get
from penstock.errors import ServiceUnreachable
from penstock.services import Service
from penstock.services.http_client import HttpClient
from penstock.services.http_client.connection import HttpConnection
from service.test_http_services import call, server
from waiting import until_async


def named(name: str) -> bytes:
    """A response that says which connection it comes from."""
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(name), name.encode())


def test_the_connection_that_was_used_last_is_used_next(run: Run) -> None:
    """So that the others become idle and are closed."""

    async def main() -> tuple[list[bytes], list[bytes]]:
        scripts = [[[named(name)]] * 3 for name in "abc"]
        async with client() as http, hostile(*scripts) as listening:
            first = await asyncio.gather(*[get(http, listening) for _ in range(3)])
            last = [await get(http, listening) for _ in range(2)]
            return sorted(first), last

    first, last = run(main())
    assert first == [b"a", b"b", b"c"]
    assert last[0] == last[1]


def test_a_pool_has_a_limit(run: Run) -> None:
    """Further requests wait for a connection, and a cancelled one passes it on."""
    most = 0

    async def reply(_: web.Request) -> web.StreamResponse:
        nonlocal most
        most = max(most, http.statistics().open)
        await asyncio.sleep(0.01)
        return web.json_response(1)

    http = HttpClient(connections_per_host=3, environment={})

    async def main() -> tuple[int, int]:
        async with server(reply) as url:
            requests = [asyncio.ensure_future(http.request("s", "GET", url, limit=LIMIT)) for _ in range(40)]
            await asyncio.sleep(0.015)
            assert http.statistics().awaited > 20
            for request in requests[::2]:
                request.cancel()
            results = await asyncio.gather(*requests, return_exceptions=True)
            statistics = http.statistics()
            await http.aclose()
        assert statistics.awaited == 0
        return sum(result == b"1" for result in results), statistics.open

    answered, left = run(main())
    assert 20 <= answered < 30
    assert left <= 3
    assert most == 3


@pytest.mark.parametrize("fail", [True, False])
def test_a_request_that_waits_gets_the_place_of_a_connection_that_failed(run: Run, fail: bool) -> None:
    """Otherwise it would wait forever."""

    async def main() -> list[object]:
        http = HttpClient(connections_per_host=1, environment={})
        async with hostile([[Close] if fail else [OK, Close]], [[OK]]) as listening:
            results = await asyncio.gather(*[get(http, listening) for _ in range(2)], return_exceptions=True)
            await http.aclose()
            return results

    results = run(main())
    assert isinstance(results[0], ServiceUnreachable) == fail
    assert results[1] == b"1234"


@pytest.mark.parametrize(("header", "seconds"), [(b"", 4.0), (b"Keep-Alive: max=5, timeout=2\r\n", 1.0)])
def test_an_idle_connection_is_closed(run: Run, header: bytes, seconds: float) -> None:
    """After 4 seconds, or one second before the server closes it."""

    async def main() -> float:
        answer = b"HTTP/1.1 200 OK\r\n%bContent-Length: 4\r\n\r\n1234" % header
        async with client() as http, hostile([[answer]]) as listening:
            await get(http, listening)
            began = asyncio.get_running_loop().time()
            await until_async(lambda: not listening.open)
            assert http.statistics().open == 0
            return asyncio.get_running_loop().time() - began

    assert seconds - 0.1 <= run(main()) < seconds + 3


def test_cancelling_a_request_closes_its_connection(run: Run) -> None:
    """While it waits for the response."""

    async def main() -> int:
        async with client() as http, hostile([[Hang]]) as listening:
            request = asyncio.ensure_future(get(http, listening))
            await until_async(lambda: listening.requests)
            request.cancel()
            await asyncio.wait((request,))
            await until_async(lambda: not listening.open)
            assert request.cancelled()
            return http.statistics().open

    assert run(main()) == 0


def test_cancelling_at_any_moment_leaves_nothing_behind(run: Run) -> None:
    """While it looks the host up, connects, sends, waits, or has its response already."""

    async def main() -> None:
        async with client() as http, hostile([[OK]] * 100) as listening:
            for iterations in range(30):
                request = asyncio.ensure_future(get(http, listening))
                for _ in range(iterations):
                    await asyncio.sleep(0)
                request.cancel()
                await asyncio.wait((request,))
                statistics = http.statistics()
                assert statistics.open == statistics.idle, iterations
            assert await get(http, listening) == b"1234"

    run(main())


def test_closing_fails_requests_and_closes_connections(run: Run) -> None:
    """The client can be used again afterwards."""

    async def main() -> bytes:
        http = HttpClient(environment={})
        async with hostile([[Hang]], [[OK]]) as listening:
            request = asyncio.ensure_future(get(http, listening))
            await until_async(lambda: listening.requests)
            await http.aclose()
            with pytest.raises(ServiceUnreachable, match="the client was closed"):
                await request
            await until_async(lambda: not listening.open)
            result = await get(http, listening)
            await http.aclose()
            return result

    assert run(main()) == b"1234"


def test_closed_connections_are_no_garbage(run: Run) -> None:
    """They are freed at once, and not by the garbage collector, which is tuned to run rarely."""

    async def main() -> int:
        http = HttpClient(environment={})
        async with hostile([[OK]]) as listening:
            await asyncio.gather(*[get(http, listening) for _ in range(10)])
            await http.aclose()
            await until_async(lambda: not listening.open)
        return sum(isinstance(each, HttpConnection) for each in gc.get_objects())

    gc.collect()
    gc.disable()
    try:
        assert run(main()) == 0
    finally:
        gc.enable()


@pytest.mark.filterwarnings("error")
def test_a_service_leaves_no_connection_behind() -> None:
    """Also one that lives longer than its event loop."""
    service = Service.http("s", f"http://127.0.0.1:{(port := unused_port())}/")

    async def main() -> int:
        listening = await asyncio.start_server(serve, "127.0.0.1", port)
        async with listening:
            assert await call(service, *[{}] * 20) == [1234] * 20
            return len(asyncio.all_tasks() - {asyncio.current_task()} - handlers)

    handlers: set[asyncio.Task[None] | None] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        handlers.add(asyncio.current_task())
        while True:
            try:
                await reader.readuntil(b"\r\n\r\n")
            except asyncio.IncompleteReadError:
                break
            writer.write(OK)
        writer.close()

    for _ in range(2):
        assert asyncio.run(main()) == 0
        gc.collect()


Address = tuple[socket.AddressFamily, socket.SocketKind, int, str, tuple[object, ...]]


def resolving(*addresses: tuple[str, int]) -> tuple[Callable[[str, int], list[Address]], list[str]]:
    """A look-up with these addresses, and the hosts that it was asked for."""
    asked: list[str] = []

    def look_up(host: str, _: int) -> list[Address]:
        asked.append(host)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", address) for address in addresses]

    return look_up, asked


def test_all_addresses_of_a_host_are_tried(run: Run) -> None:
    """And looked up once for requests at the same time."""

    async def main() -> tuple[list[bytes], list[str]]:
        async with hostile([[OK]]) as listening:
            port = int(listening.url.rpartition(":")[2])
            look_up, asked = resolving(("127.0.0.1", unused_port()), ("127.0.0.1", port))
            http = HttpClient(look_up=look_up, environment={})
            send = [http.request("s", "GET", "http://prices.internal/x", limit=LIMIT) for _ in range(5)]
            answers = await asyncio.gather(*send)
            await http.aclose()
            assert {request.split(b"\r\n")[1] for request in listening.requests} == {b"Host: prices.internal"}
            return answers, asked

    answers, asked = run(main())
    assert answers == [b"1234"] * 5
    assert asked == ["prices.internal"]


def test_a_host_is_looked_up_again_when_it_cannot_be_reached(run: Run) -> None:
    """It may have moved."""

    async def main() -> list[str]:
        look_up, asked = resolving(("127.0.0.1", unused_port()))
        http = HttpClient(look_up=look_up, environment={})
        for _ in range(2):
            with pytest.raises(ServiceUnreachable, match=r"Connection refused|no connection could be made"):
                await http.request("s", "GET", "http://prices.internal/x", limit=LIMIT)
        return asked

    assert len(run(main())) == 2


def test_an_exit_during_the_look_up_ends_the_request(run: Run) -> None:
    """With the same exception: otherwise the request would never end."""

    class Exit(BaseException):
        pass

    def look_up(host: str, _: int) -> list[Address]:
        raise Exit(host)

    async def main() -> None:
        await HttpClient(look_up=look_up, environment={}).request("s", "GET", "http://prices.internal/x", limit=LIMIT)

    with pytest.raises(Exit):
        run(main())


def test_a_unix_socket_is_a_host(run: Run, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Its percent-encoded path."""
    path = str(tmp_path_factory.mktemp("s") / "prices.sock")

    async def main() -> tuple[list[object], list[bytes]]:
        async with client() as http, hostile([[OK]] * 2, path=path) as listening:
            service = Service.http("s", f"{listening.url}/orders/{{id}}", client=http)
            return await call(service, {"id": 7}), listening.requests

    answers, requests = run(main())
    assert answers == [1234]
    assert requests[0].startswith(b"GET /orders/7 HTTP/1.1\r\nHost: localhost\r\n")


def has_ipv6() -> bool:
    """Whether this machine has the address ::1."""
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


@pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6")
def test_an_ipv6_address_is_a_host(run: Run) -> None:
    """In brackets."""

    async def main() -> bytes:
        async with client() as http, hostile([[OK]], host="::1") as listening:
            await get(http, listening)
            return listening.requests[0]

    assert b"\r\nHost: [::1]:" in run(main())
