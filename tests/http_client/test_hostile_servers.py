"""Servers that cut, delay, garble and flood: a response is complete and correct, or the call fails."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import pytest

from http_client.conftest import Run
from http_client.hostile import Bytewise, Close, Hang, Hostile, Reset, Step, hostile
from penstock.errors import CallTimeout, InvalidCallResult, ServiceErrorResponse, ServiceUnreachable
from penstock.services import NONE, Service
from penstock.services.http_client import HttpClient
from service.test_http_services import call

LIMIT = 10_000
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n1234"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
TO_THE_END = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n1234"

VALID = {
    "a length": OK,
    "chunks": CHUNKED + b"3\r\n123\r\n1\r\n4\r\n0\r\n\r\n",
    "chunk extensions": CHUNKED + b'3;a=b;c="d"\r\n123\r\n01\r\n4\r\n0;x\r\n\r\n',
    "trailers": CHUNKED + b"4\r\n1234\r\n0\r\nX-Sum: 7\r\nX: y\r\n\r\n",
    "odd case": b"HTTP/1.1 200 OK\r\ntransfer-ENCODING:\tChunked \r\n\r\n4\r\n1234\r\n0\r\n\r\n",
    "no reason": b"HTTP/1.1 200 \r\nContent-Length: 4\r\n\r\n1234",
    "100 Continue": b"HTTP/1.1 100 Continue\r\n\r\n" + OK,
    "early hints": b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\nContent-Length: 7\r\n\r\n" * 3 + OK,
    "Connection: close": b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 4\r\n\r\n1234",
    "HTTP/1.0 with a length": b"HTTP/1.0 200 OK\r\nContent-Length: 4\r\n\r\n1234",
    "HTTP/1.0 keep-alive": b"HTTP/1.0 200 OK\r\nConnection: keep-alive, close\r\nContent-Length: 4\r\n\r\n1234",
}


@asynccontextmanager
async def client() -> AsyncIterator[HttpClient]:
    """A client that is closed, and has left no connection."""
    made = HttpClient(environment={})
    try:
        yield made
        statistics = made.statistics()
        assert statistics.open == statistics.idle, "only idle connections are open"
        assert statistics.awaited == 0
    finally:
        await made.aclose()


async def get(http: HttpClient, server: Hostile, method: str = "GET") -> bytes:
    """The body of a response."""
    return await http.request("s", method, f"{server.url}/x", limit=LIMIT)


@pytest.mark.parametrize("answer", VALID.values(), ids=VALID.keys())
def test_a_valid_response_is_read_in_any_pieces(run: Run, answer: bytes) -> None:
    """At once, and byte by byte."""

    async def main() -> list[bytes]:
        async with client() as http, hostile([[answer]], [[Bytewise(answer)]]) as server:
            first = await get(http, server)
            await http.aclose()
            return [first, await get(http, server)]

    assert run(main()) == [b"1234", b"1234"]


@pytest.mark.parametrize("version", [b"1.0", b"1.1"])
def test_a_response_can_end_with_the_connection(run: Run, version: bytes) -> None:
    """If it has neither a length nor chunks."""

    async def main() -> bytes:
        async with client() as http, hostile([[TO_THE_END.replace(b"1.1", version), Close]]) as server:
            return await get(http, server)

    assert run(main()) == b"1234"


INVALID: dict[str, list[Step]] = {
    "nothing": [Close],
    "a reset": [Reset],
    "garbage": [b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", Hang],
    "another protocol": [b"SSH-2.0-OpenSSH_9.2p1\r\n", Hang],
    "HTTP/0.9": [b"HTTP/0.9 200 OK\r\nContent-Length: 4\r\n\r\n1234", Hang],
    "HTTP/2.0": [b"HTTP/2.0 200 OK\r\nContent-Length: 4\r\n\r\n1234", Hang],
    "RTSP": [b"RTSP/1.0 200 OK\r\nContent-Length: 4\r\n\r\n1234", Hang],
    "status 000": [b"HTTP/1.1 000 OK\r\nContent-Length: 4\r\n\r\n1234", Hang],
    "status 99": [b"HTTP/1.1 99 OK\r\nContent-Length: 4\r\n\r\n1234", Hang],
    "empty lines first": [b"\r\n\r\n" + OK, Hang],
    "too short": [b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n1234", Close],
    "a length and chunks": [CHUNKED.replace(b"\r\n\r\n", b"\r\nContent-Length: 4\r\n\r\n") + b"0\r\n\r\n", Hang],
    "two lengths": [b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\nContent-Length: 5\r\n\r\n1234", Hang],
    "a list of lengths": [b"HTTP/1.1 200 OK\r\nContent-Length: 4, 4\r\n\r\n1234", Hang],
    "a negative length": [b"HTTP/1.1 200 OK\r\nContent-Length: -4\r\n\r\n1234", Hang],
    "a huge length": [b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999999\r\n\r\n1234", Hang],
    "a hexadecimal length": [b"HTTP/1.1 200 OK\r\nContent-Length: 0x4\r\n\r\n1234", Hang],
    "gzip in transfer": [b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n4\r\n1234\r\n0\r\n\r\n", Hang],
    "chunked twice": [CHUNKED.replace(b"chunked", b"chunked\r\nTransfer-Encoding: chunked") + b"0\r\n\r\n", Hang],
    "identity in transfer": [b"HTTP/1.1 200 OK\r\nTransfer-Encoding: identity\r\n\r\n1234", Close],
    "a chunk size that is none": [CHUNKED + b"zz\r\n1234\r\n0\r\n\r\n", Hang],
    "a huge chunk size": [CHUNKED + b"f" * 20 + b"\r\n1234", Hang],
    "a chunk that is too long": [CHUNKED + b"4\r\n12345\r\n0\r\n\r\n", Hang],
    "no last chunk": [CHUNKED + b"4\r\n1234\r\n", Close],
    "a folded header": [b"HTTP/1.1 200 OK\r\nX: a\r\n b\r\nContent-Length: 4\r\n\r\n1234", Hang],
    "NUL in a header": [b"HTTP/1.1 200 OK\r\nX: a\0b\r\nContent-Length: 4\r\n\r\n1234", Hang],
    "line feeds only": [b"HTTP/1.1 200 OK\nContent-Length: 4\n\n1234", Hang],
    "a space before a colon": [b"HTTP/1.1 200 OK\r\nContent-Length : 4\r\n\r\n1234", Hang],
    "another protocol follows": [b"HTTP/1.1 101 Switching\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\nabc", Hang],
    "101 without a protocol": [b"HTTP/1.1 101 Switching\r\n\r\nabc", Hang],
    "100,000 headers": [b"HTTP/1.1 200 OK\r\n" + b"X-Header: 1\r\n" * 100_000 + OK[17:], Hang],
    "a header without end": [b"HTTP/1.1 200 OK\r\nX: " + b"a" * 500_000, Hang],
    "a status line without end": [b"HTTP/1.1 200 " + b"a" * 500_000, Hang],
    "a chunk line without end": [CHUNKED + b"1;" + b"a" * 500_000, Hang],
    "trailers without end": [CHUNKED + b"1\r\n1\r\n0\r\n" + b"X-Trailer: 1\r\n" * 50_000, Hang],
    "interim responses without end": [b"HTTP/1.1 100 Continue\r\n\r\n" * 20_000, Hang],
    "an interim response only": [b"HTTP/1.1 100 Continue\r\n\r\n", Close],
}


@pytest.mark.parametrize("steps", INVALID.values(), ids=INVALID.keys())
def test_an_invalid_response_fails_the_call(run: Run, steps: list[Step]) -> None:
    """It closes the connection, without a second attempt of its own, and without a wait for more."""

    async def main() -> tuple[str, int]:
        async with client() as http, hostile([steps]) as server:
            with pytest.raises(ServiceUnreachable) as failed:
                await get(http, server)
            while server.open:
                await asyncio.sleep(0.001)
            return str(failed.value), len(server.requests)

    message, requests = run(main())
    assert requests == 1
    assert re.fullmatch(r"s could not be reached: [ -~]{5,150}", message)
    assert "127.0.0.1" not in message


@pytest.mark.parametrize("end", [Close, Reset])
@pytest.mark.parametrize("answer", [OK, VALID["chunks"], VALID["trailers"], VALID["100 Continue"]])
def test_a_response_that_is_cut_anywhere_fails_the_call(run: Run, answer: bytes, end: type[Close | Reset]) -> None:
    """At every byte, by the end of the connection or a reset."""

    async def main() -> list[int]:
        cuts = [[[answer[:size], end]] for size in range(len(answer))]
        wrong: list[int] = []
        async with client() as http, hostile(*cuts) as server:
            for size in range(len(answer)):
                try:
                    await get(http, server)
                except ServiceUnreachable:
                    continue
                wrong.append(size)
            assert len(server.connections) == len(answer)
        return wrong

    assert run(main()) == []


@pytest.mark.parametrize("extra", [OK, b"HTTP/1.1 2", b"garbage", b"\0"])
def test_bytes_after_a_response_close_the_connection(run: Run, extra: bytes) -> None:
    """A second response would otherwise be that of the next request."""

    async def main() -> tuple[list[bytes], int]:
        async with client() as http, hostile([[OK + extra], [OK]]) as server:
            answers = [await get(http, server), await get(http, server)]
            return answers, len(server.connections)

    assert run(main()) == ([b"1234", b"1234"], 2)


def test_bytes_on_an_idle_connection_close_it(run: Run) -> None:
    """They are not taken for the response to the next request."""

    async def main() -> list[bytes]:
        late = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nWRONG"
        async with client() as http, hostile([[OK, Bytewise(late, 0.001)], [OK]]) as server:
            first = await get(http, server)
            while server.open:
                await asyncio.sleep(0.001)
            return [first, await get(http, server)]

    assert run(main()) == [b"1234", b"1234"]


@pytest.mark.parametrize("form", ["length", "chunks", "tiny chunks", "to the end"])
@pytest.mark.parametrize("status", [200, 500])
def test_a_body_without_end_is_cut_at_the_limit(run: Run, form: str, status: int) -> None:
    """For a 2xx the response is invalid; otherwise the status counts."""
    head = b"HTTP/1.1 %d X\r\n" % status
    body = {
        "length": head + b"Content-Length: 1000000\r\n\r\n" + b"x" * 1_000_000,
        "chunks": head + b"Transfer-Encoding: chunked\r\n\r\n" + b"10\r\n0123456789abcdef\r\n" * 10_000,
        "tiny chunks": head + b"Transfer-Encoding: chunked\r\n\r\n" + b"1\r\nx\r\n" * 20_000,
        "to the end": head + b"\r\n" + b"x" * 1_000_000,
    }[form]

    async def main() -> None:
        async with client() as http, hostile([[body, Hang]]) as server:
            with pytest.raises(InvalidCallResult if status == 200 else ServiceErrorResponse):
                await get(http, server)
            while server.open:
                await asyncio.sleep(0.001)

    run(main())


@pytest.mark.parametrize("steps", [[Hang], [Bytewise(OK, 0.5), Hang], [OK[:30], Hang], [OK[:-1], Hang]])
def test_the_timeout_ends_a_slow_response(run: Run, steps: list[Step]) -> None:
    """No byte, a byte now and then, a part of the head, or all but the last byte."""

    async def main() -> None:
        async with client() as http, hostile([steps]) as server:
            service = Service.http("s", f"{server.url}/", client=http, timeout=0.2, backoff=NONE)
            (failed,) = await call(service, {})
            assert isinstance(failed.error, CallTimeout)
            while server.open:
                await asyncio.sleep(0.001)

    run(main())


CLOSING: list[Sequence[Step]] = [[Close], [Reset]]


@pytest.mark.parametrize("steps", CLOSING)
@pytest.mark.parametrize(("method", "key"), [("GET", ""), ("PUT", ""), ("DELETE", ""), ("POST", "7")])
def test_a_request_on_a_closed_connection_is_repeated_once(
    run: Run, method: str, key: str, steps: Sequence[Step]
) -> None:
    """If it is repeatable: without counting as an attempt, and on a new connection."""

    async def main() -> tuple[int, int, int]:
        async with client() as http, hostile([[OK], steps], [[OK], [OK]]) as server:
            headers = {"Idempotency-Key": "{key}"} if key else {}
            service = Service.http("s", server.url, client=http, method=method, headers=headers, max_in_flight=1)
            assert await call(service, *[{"key": key or "-"}] * 3) == [1234] * 3
            statistics = service.statistics()
            return statistics.retries, len(server.connections), len(server.requests)

    assert run(main()) == (0, 2, 4)


@pytest.mark.parametrize("steps", CLOSING)
def test_a_post_on_a_closed_connection_is_not_repeated(run: Run, steps: Sequence[Step]) -> None:
    """The server may have acted on it."""

    async def main() -> int:
        async with client() as http, hostile([[OK], steps], [[OK]]) as server:
            assert await get(http, server, "POST") == b"1234"
            with pytest.raises(ServiceUnreachable, match="before a response"):
                await get(http, server, "POST")
            return len(server.requests)

    assert run(main()) == 2


INTERIM = b"HTTP/1.1 100 Continue\r\n\r\n"


@pytest.mark.parametrize("part", [OK[:9], INTERIM])
def test_a_request_is_not_repeated_after_a_part_of_its_response(run: Run, part: bytes) -> None:
    """The server has read it, also if it has sent only an interim response."""

    async def main() -> int:
        async with client() as http, hostile([[OK], [part, Close]], [[OK]]) as server:
            await get(http, server)
            with pytest.raises(ServiceUnreachable, match="before the end of its response"):
                await get(http, server)
            return len(server.requests)

    assert run(main()) == 2


def test_a_request_is_not_repeated_twice(run: Run) -> None:
    """The new connection is closed as well: this is not about kept connections."""

    async def main() -> int:
        async with client() as http, hostile([[OK], [Close]], [[Close]]) as server:
            await get(http, server)
            with pytest.raises(ServiceUnreachable, match="before a response"):
                await get(http, server)
            return len(server.requests)

    assert run(main()) == 3


@pytest.mark.parametrize(
    "framing", [b"Content-Length: 4", b"Transfer-Encoding: chunked", b"X: y", b"Connection: close"]
)
def test_a_response_to_head_has_no_body(run: Run, framing: bytes) -> None:
    """Whatever its headers announce; the connection is used again."""

    async def main() -> tuple[list[bytes], int]:
        answer = b"HTTP/1.1 200 OK\r\n%b\r\n\r\n" % framing
        async with client() as http, hostile([[answer], [OK]], [[OK]]) as server:
            answers = [await get(http, server, "HEAD"), await get(http, server)]
            return answers, len(server.connections)

    assert run(main()) == ([b"", b"1234"], 2 if framing == b"Connection: close" else 1)


def test_a_response_before_the_end_of_the_request_is_taken(run: Run) -> None:
    """The server has read only the head of a large request. The connection is not used again."""

    async def main() -> tuple[int | None, int]:
        listening: Hostile
        async with client() as http, early() as listening:
            with pytest.raises(ServiceErrorResponse) as failed:
                await http.request("s", "POST", listening.url, body=b"x" * 20_000_000, limit=LIMIT)
            return failed.value.status, http.statistics().open

    assert run(main()) == (413, 0)


@asynccontextmanager
async def early() -> AsyncIterator[Hostile]:
    """A server that responds to the head of a request."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n")
        await asyncio.sleep(0.1)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield Hostile(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/")
    finally:
        server.close()
        await server.wait_closed()
        await asyncio.sleep(0.11)
