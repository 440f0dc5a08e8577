"""Services over HTTP, against real sockets."""

from __future__ import annotations

import asyncio
import re
import ssl
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from types import SimpleNamespace
from typing import Any

import aiohttp
import msgspec
import pytest
from aiohttp import web
from aiohttp.test_utils import unused_port

from penstock.errors import CallTimeout, InvalidCallResult, InvalidItem, ServiceErrorResponse, ServiceUnreachable
from penstock.services import NONE, Backoff, CallFailed, Service
from penstock.services.http_client import HttpClient, connection_error_reason, parse_retry_after
from penstock.services.url_template import UrlTemplate
from penstock_http.simulation.faults import FaultSettings
from penstock_http.simulation.services import simulated
from waiting import HANG_SECONDS

Reply = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Job:
    """What a queue is given: something with a value."""

    def __init__(self, value: Any) -> None:
        self.value = value


async def ask(service: Service, *values: Any) -> list[Any]:
    """The answers of a service, in the order of the values."""
    found: dict[Job, Any] = {}
    complete = asyncio.Event()

    def done(jobs: Any, answers: Any) -> None:
        found.update(zip(jobs, answers, strict=True))
        if len(found) == len(values):
            complete.set()

    jobs = [Job(value) for value in values]
    queue = service.open_queue(done)
    try:
        queue.submit(jobs)
        async with asyncio.timeout(HANG_SECONDS):
            await complete.wait()
    finally:
        await queue.aclose()
    return [found[job] for job in jobs]


@pytest.fixture
async def client() -> AsyncGenerator[HttpClient, None]:
    client = HttpClient()
    yield client
    await client.aclose()


@asynccontextmanager
async def server(reply: Reply) -> AsyncGenerator[str, None]:
    """A server that answers everything in one way."""
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", reply)
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.2)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


@asynccontextmanager
async def raw_server(answer: bytes, *, reset: bool = False) -> AsyncGenerator[str, None]:
    """A server that reads a request's head, writes some bytes and hangs up."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        await writer.drain()
        if reset:
            writer.transport.abort()
        else:
            writer.close()

    listening = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}"
    finally:
        listening.close()
        await listening.wait_closed()


def always(status: int, body: Any = None, **headers: str) -> tuple[Reply, list[web.Request]]:
    """A reply that never changes, and the requests it was given to."""
    requests: list[web.Request] = []

    async def reply(request: web.Request) -> web.StreamResponse:
        requests.append(request)
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return web.json_response(body, status=status, headers=named)

    return reply, requests


@pytest.mark.parametrize("value", [{"orderId": 7}, SimpleNamespace(orderId=7)])
async def test_a_2xx_answers_for_dicts_and_for_objects(client: HttpClient, value: Any) -> None:
    """The answer is the JSON body of a 2xx."""
    async with simulated(FaultSettings(latency_scale=0)) as url:
        pricing = Service.http("pricing", f"{url}/prices/{{orderId}}", client=client)
        assert await ask(pricing, value) == [{"price": 1007}]


async def test_a_service_over_http_may_have_a_rate(client: HttpClient) -> None:
    """As any other service, one for many values at once included."""
    url = "http://127.0.0.1:1/{id}"
    assert Service.http("s", url, client=client, rate=5).rate == 5
    assert Service.http_batch("s", "http://127.0.0.1:1/", client=client, rate=5).rate == 5


async def test_a_204_answers_with_none(client: HttpClient) -> None:
    """A 2xx without content is an answer too."""

    async def reply(_: web.Request) -> web.StreamResponse:
        return web.Response(status=204)

    async with server(reply) as url:
        assert await ask(Service.http("s", url, client=client), {}) == [None]


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504])
async def test_a_busy_or_broken_service_is_asked_again(client: HttpClient, status: int) -> None:
    """408, 425, 429 and 5xx take all attempts; then the failure says what the status was."""
    reply, requests = always(status)
    async with server(reply) as url:
        service = Service.http("s", url, client=client, attempts=3, backoff=NONE)
        (failed,) = await ask(service, {})
    assert isinstance(failed.error, ServiceErrorResponse)
    assert (failed.error.status, failed.attempts, len(requests), service.statistics().retries) == (status, 3, 3, 2)


@pytest.mark.parametrize("status", [300, 301, 302, 304, 307, 308, 400, 401, 404, 409, 410, 422, 451])
async def test_a_final_status_is_asked_for_once(client: HttpClient, status: int) -> None:
    """Any other status is final; a redirect is not followed."""
    reply, requests = always(status, Location="/elsewhere")
    async with server(reply) as url:
        (failed,) = await ask(Service.http("s", url, client=client, attempts=3, backoff=NONE), {})
    assert (failed.error.status, failed.attempts, len(requests)) == (status, 1, 1)


@pytest.mark.parametrize("form", ["seconds", "date"])
async def test_retry_after_is_waited_for(client: HttpClient, form: str) -> None:
    """The next attempt comes no earlier than the service asked for."""
    times: list[float] = []

    async def reply(_: web.Request) -> web.StreamResponse:
        times.append(time.monotonic())
        at = format_datetime(datetime.now(UTC) + timedelta(seconds=2), usegmt=True)  # whole seconds: 1 to 2 left
        asked = "0.2" if form == "seconds" else at
        return web.json_response(1, status=503 if len(times) < 2 else 200, headers={"Retry-After": asked})

    async with server(reply) as url:
        assert await ask(Service.http("s", url, client=client, attempts=2, backoff=Backoff(first=0)), {}) == [1]
    assert times[1] - times[0] >= (0.2 if form == "seconds" else 0.9)


def test_retry_after_is_a_number_a_date_or_nothing() -> None:
    """A date in the past asks for no wait; what cannot be read asks for nothing."""
    now = datetime(2026, 1, 1, tzinfo=UTC)
    asked = ["3", "Thu, 01 Jan 2026 00:00:09 GMT", "Thu, 01 Jan 2015 00:00:09 GMT", "-1", "nan", "inf", "soon", None]
    assert [parse_retry_after(text, now) for text in asked] == [3.0, 9.0, 0.0, 0.0, None, None, None, None]


@pytest.mark.parametrize(
    ("body", "message", "kind"),
    [
        ({"type": "about:blank", "title": "Gone fishing", "detail": "until May"}, "Gone fishing: until May", None),
        ({"error": {"type": "OutOfStock", "message": "none left"}}, "none left", "OutOfStock"),
        ({"error": "none left"}, "none left", None),
        ({"message": "none left", "type": "OutOfStock"}, "none left", "OutOfStock"),
        (["?"], "Service Unavailable", None),
    ],
)
async def test_what_the_service_says_is_in_the_error(
    client: HttpClient, body: Any, message: str, kind: str | None
) -> None:
    """A problem document and its relatives give the error its message."""
    reply, _ = always(503, body)
    async with server(reply) as url:
        (failed,) = await ask(Service.http("stock", url, client=client), {})
    assert (str(failed.error), failed.error.kind) == (f"stock answered 503 {message}", kind)


async def test_unavailable_inventory_keeps_its_name(client: HttpClient) -> None:
    """The simulated inventory refuses ids divisible by 3, by name."""
    async with simulated(FaultSettings(latency_scale=0)) as url:
        inventory = Service.http("inventory", f"{url}/stock/{{orderId}}", client=client, attempts=2, backoff=NONE)
        fine, failed = await ask(inventory, {"orderId": 1}, {"orderId": 3})
    assert fine == {"inStock": True}
    assert (failed.error.kind, failed.error.reason, failed.attempts) == (
        "InventoryUnavailable",
        "Inventory unavailable",
        2,
    )


async def test_cancelling_reaches_the_server(client: HttpClient) -> None:
    """A queue that closes takes its requests with it, on the server's side too."""
    async with simulated(FaultSettings(latency_scale=0, hang_rate=1)) as url:
        service = Service.http("pricing", f"{url}/prices/{{orderId}}", client=client)
        queue = service.open_queue(lambda jobs, answers: None)
        queue.submit([Job({"orderId": number}) for number in range(1, 9)])
        await until(client, url, begun=8)
        await queue.aclose()
        assert await until(client, url, cancelled=8) == {"begun": 8, "ended": 0, "cancelled": 8}
    assert service.statistics().results["cancelled"] == 8


async def test_cancelling_reaches_a_body_that_dribbles(client: HttpClient) -> None:
    """The same holds while a body is being read."""
    async with simulated(FaultSettings(latency_scale=0, slow_body=60)) as url:
        queue = Service.http("p", f"{url}/prices/{{orderId}}", client=client).open_queue(lambda jobs, answers: None)
        queue.submit([Job({"orderId": 1})])
        await until(client, url, begun=1)
        await asyncio.sleep(0.05)  # for the head to arrive; either way the connection has to go
        await queue.aclose()
        assert (await until(client, url, cancelled=1))["ended"] == 0


async def until(client: HttpClient, url: str, **wanted: int) -> dict[str, int]:
    """The statistics of the simulated prices, once they say so."""
    async with asyncio.timeout(HANG_SECONDS):
        while True:
            async with client.session.get(f"{url}/statistics") as response:
                tally: dict[str, int] = (await response.json())["prices"]
            if all(tally[name] == value for name, value in wanted.items()):
                return tally
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("fault", ["hang-rate=1", "slow-body=30"])
async def test_a_timeout_covers_the_whole_exchange(client: HttpClient, fault: str) -> None:
    """An answer that does not come, or not to its end, is a timeout."""
    async with simulated(FaultSettings(latency_scale=0)) as url:
        service = Service.http(
            "pricing", f"{url}/prices/{{orderId}}?{fault}", client=client, timeout=1, attempts=2, backoff=NONE
        )
        (failed,) = await ask(service, {"orderId": 1})
        assert isinstance(failed.error, CallTimeout)
        assert (failed.attempts, service.statistics().results["timeout"]) == (2, 2)
        await until(client, url, cancelled=2)


async def test_a_refused_connection_is_tried_again(client: HttpClient) -> None:
    """Nobody listens: the service is unreachable, which may pass."""
    url = f"http://127.0.0.1:{unused_port()}/"
    (failed,) = await ask(Service.http("s", url, client=client, attempts=3, backoff=NONE), {})
    assert isinstance(failed.error, ServiceUnreachable)
    assert failed.attempts == 3
    assert "127.0.0.1" not in str(failed.error)
    assert "could not be reached: " in str(failed.error)


async def test_a_host_that_has_no_address_is_no_word_in_the_error(client: HttpClient) -> None:
    """It may have come from a variable; the reason is enough."""
    (failed,) = await ask(Service.http("s", "http://hidden.invalid/", client=client, attempts=1, backoff=NONE), {})
    assert isinstance(failed.error, ServiceUnreachable)
    assert "hidden" not in str(failed.error)


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (aiohttp.InvalidUrlClientError("http://[hidden/"), "its URL is not a valid HTTP URL"),
        (ConnectionResetError(104, "hidden"), "Connection reset by peer"),
        (OSError("Multiple exceptions: hidden, hidden"), "no connection could be made"),
        (aiohttp.ServerDisconnectedError(), "Server disconnected"),
        (ssl.SSLError(1, "[SSL] wrong version number"), "[SSL] wrong version number"),
    ],
)
def test_why_a_connection_failed_is_said_without_the_host(error: Exception, reason: str) -> None:
    """Whoever raised it."""
    assert connection_error_reason(error) == reason


HALF = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{"
BROKEN_CHUNK = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n{}\r\n"
BROKEN_GZIP = b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 9\r\n\r\nnot gzip!"


@pytest.mark.parametrize("reset", [False, True])
@pytest.mark.parametrize("answer", [b"", HALF, b"HTP 1\r\n\r\n", BROKEN_CHUNK, BROKEN_GZIP])
async def test_a_broken_connection_is_a_service_out_of_reach(client: HttpClient, answer: bytes, reset: bool) -> None:
    """Whatever breaks below HTTP's statuses comes out as one error, worth another attempt."""
    async with raw_server(answer, reset=reset) as url:
        (failed,) = await ask(Service.http("s", url, client=client, attempts=2, backoff=NONE), {})
    assert isinstance(failed.error, ServiceUnreachable)
    assert failed.attempts == 2


@pytest.mark.parametrize("status", [200, 503])
async def test_a_body_is_read_up_to_its_limit(client: HttpClient, status: int) -> None:
    """More than `limit` bytes are no answer; of a refusal the status still counts."""
    reply, requests = always(status, "x" * 5_000)
    async with server(reply) as url:
        (failed,) = await ask(Service.http("s", url, client=client, limit=1_000, attempts=2, backoff=NONE), {})
    assert isinstance(failed.error, InvalidCallResult if status == 200 else ServiceErrorResponse)
    assert len(requests) == (1 if status == 200 else 2)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("<html>", "JSON is malformed"),
        ('{"a":', "truncated"),
        ("[" * 100_000, "nested too deeply|truncated"),
        ('"\ud800"'.encode("utf-8", "surrogatepass"), "not UTF-8 at byte 1$"),
    ],
)
async def test_an_answer_that_is_no_json_is_wrong(client: HttpClient, text: str | bytes, reason: str) -> None:
    """A wrong answer fails the element, and is not asked for again."""

    async def reply(_: web.Request) -> web.StreamResponse:
        return web.Response(body=text if isinstance(text, bytes) else text.encode())

    async with server(reply) as url:
        (failed,) = await ask(Service.http("s", url, client=client, attempts=3), {})
    assert isinstance(failed.error, InvalidCallResult)
    assert re.search(reason, str(failed.error))
    assert failed.attempts == 1


class Cents(msgspec.Struct):
    cents: int


async def test_a_response_is_converted_to_a_type(client: HttpClient) -> None:
    """To a Struct, or a type such as a dict of numbers; one that does not fit is an invalid response."""
    reply, _ = always(200, {"cents": 5})
    async with server(reply) as url:
        assert await ask(Service.http("s", url, client=client, response=Cents), {}) == [Cents(5)]
        assert await ask(Service.http("s", url, client=client, response=dict[str, int]), {}) == [{"cents": 5}]
        (failed,) = await ask(Service.http("s", url, client=client, response=list[int]), {})
    assert isinstance(failed.error, InvalidCallResult)
    assert "Expected `array`, got `object`" in str(failed.error)


async def test_an_answer_that_is_not_understood_is_wrong(client: HttpClient) -> None:
    """`answer` takes from the body what is wanted; when that is not there, the answer is wrong."""
    reply, _ = always(200, {"cents": 5})
    async with server(reply) as url:
        assert await ask(Service.http("s", url, client=client, response=lambda said: said["cents"]), {}) == [5]
        (failed,) = await ask(Service.http("s", url, client=client, response=lambda said: said["euros"]), {})
    assert isinstance(failed.error, InvalidCallResult)


@pytest.mark.parametrize("text", ["a/b", "ä ö", "../x", "%2e", "?q#f", "a+b&c=d", "😀", True])
async def test_a_field_stays_in_its_place(client: HttpClient, text: str | bool) -> None:
    """Whatever a field holds, the server finds it where the template has it, in path and query."""
    seen: list[tuple[str, str]] = []

    async def reply(request: web.Request) -> web.StreamResponse:
        seen.append((request.match_info["name"], request.query["also"]))
        return web.json_response(1)

    app = web.Application()
    app.router.add_get("/orders/{name}/price", reply)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    url = f"http://127.0.0.1:{runner.addresses[0][1]}/orders/{{name}}/price?also={{name}}"
    answers = await ask(Service.http("s", url, client=client), {"name": text})
    await runner.cleanup()
    said = text if isinstance(text, str) else "true"  # as JSON has it
    assert (answers, seen) == ([1], [(said, said)])


@pytest.mark.parametrize("value", [{}, {"id": None}, {"id": ""}, {"id": ".."}, {"id": [1]}, {"id": "\ud800"}, 7])
async def test_a_value_without_its_field_fails_once(client: HttpClient, value: Any) -> None:
    """A value that makes no address is the element's fault: no request, and no further attempt."""
    service = Service.http("s", "http://127.0.0.1:1/{id}", client=client, attempts=5)
    (failed,) = await ask(service, value)
    assert isinstance(failed.error, InvalidItem)
    assert failed.attempts == 1


@pytest.mark.parametrize("template", ["{host}/x", "http://{host}/x", "http://h/{a.}", "http://h/{0}", "ftp://h/"])
def test_a_template_that_cannot_work_is_refused(template: str) -> None:
    """A wrong template is found when the service is made, not at the first value."""
    with pytest.raises(ValueError, match=r"field|host|address"):
        UrlTemplate(template)


async def test_a_body_is_sent_as_json(client: HttpClient) -> None:
    """`body` is made of the value; what cannot be written as JSON fails the element at once."""

    def a_of(value: dict[str, Any]) -> Any:
        return value["a"]

    async def reply(request: web.Request) -> web.StreamResponse:
        return web.json_response([request.method, request.content_type, request.headers["X-Key"], await request.json()])

    async with server(reply) as url:
        service = Service.http("s", url, client=client, method="PUT", headers={"X-Key": "k"}, body=a_of, attempts=2)
        fine, failed, unsendable = await ask(service, {"a": [1]}, {}, {"a": object()})
    assert fine == ["PUT", "application/json", "k", [1]]
    assert [(type(each.error), each.attempts) for each in (failed, unsendable)] == [(InvalidItem, 1)] * 2


@pytest.mark.parametrize("status", [200, 500])
async def test_one_connection_serves_call_after_call(client: HttpClient, status: int) -> None:
    """The session is pooled, and a failed answer gives its connection back too."""
    peers: list[Any] = []

    async def reply(request: web.Request) -> web.StreamResponse:
        peers.append(request.transport and request.transport.get_extra_info("peername"))
        return web.json_response({"message": "x" * 10_000}, status=status)

    async with server(reply) as url:
        await ask(Service.http("s", url, client=client, max_in_flight=1), *[{}] * 20)
    assert (len(peers), len(set(peers))) == (20, 1)


async def test_a_batch_has_one_bad_item() -> None:
    """One request for many values; an item that is an error fails its element alone."""
    client = HttpClient()
    async with simulated(FaultSettings(latency_scale=0)) as url:
        service = Service.http_batch("pricing", f"{url}/prices", client=client, field="orderId")
        values = [{"orderId": 1}, {"orderId": -1}, {}, {"orderId": 4}]
        (answers,) = await ask(service, values)
        await until(client, url, begun=1)
    await client.aclose()
    assert (answers[0], answers[3]) == ({"price": 1001}, {"price": 1004})
    assert (type(answers[1]), answers[1].kind, answers[1].status) == (ServiceErrorResponse, "UnknownOrder", 404)
    assert isinstance(answers[2], InvalidItem)


async def test_a_batch_without_a_value_to_send_asks_nobody(client: HttpClient) -> None:
    """When no value of a group can be sent, each fails by its own fault and there is no request."""
    service = Service.http_batch("s", "http://127.0.0.1:1/", client=client, field="orderId")
    (answers,) = await ask(service, [{}, {"orderId": object()}])
    assert [type(answer) for answer in answers] == [InvalidItem, InvalidItem]


@pytest.mark.parametrize("said", [[1], {"a": 1}, None, [1, 2, 3]])
async def test_a_batch_of_another_length_is_a_wrong_answer(client: HttpClient, said: Any) -> None:
    """Answers that cannot be told apart are answers for nobody."""
    reply, _ = always(200, said)
    async with server(reply) as url:
        (failed,) = await ask(Service.http_batch("s", url, client=client, attempts=2), [1, 2])
    assert type(failed) is CallFailed
    assert isinstance(failed.error, InvalidCallResult)


def test_a_client_serves_one_event_loop_after_another() -> None:
    """A session belongs to its loop; the next loop gets a new one."""
    client = HttpClient()

    async def once() -> Any:
        async with simulated(FaultSettings(latency_scale=0)) as url:
            (answer,) = await ask(Service.http("p", f"{url}/prices/{{orderId}}", client=client), {"orderId": 1})
        await client.aclose()
        return answer

    assert [asyncio.run(once()), asyncio.run(once())] == [{"price": 1001}] * 2
