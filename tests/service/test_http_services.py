"""HTTP services, against real sockets."""

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

import msgspec
import pytest
from aiohttp import web
from aiohttp.test_utils import unused_port

from penstock import Flow, from_iterable, remaining_seconds
from penstock.errors import CallTimeout, InvalidCallResult, InvalidItem, ServiceErrorResponse, ServiceUnreachable
from penstock.flowfile.quantities import read_duration
from penstock.services import NONE, Backoff, CallFailed, Service
from penstock.services.deadline_header import format_deadline, parse_grpc_timeout
from penstock.services.http_client import (
    ConnectionStatistics,
    ExchangeFailed,
    HttpClient,
    connection_error_reason,
    parse_retry_after,
)
from penstock.services.url_template import UrlTemplate
from penstock_http.simulation.faults import FaultSettings
from penstock_http.simulation.services import simulated
from waiting import HANG_SECONDS, until_async

Reply = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Job:
    """An item of a queue: an object with a value."""

    def __init__(self, value: Any) -> None:
        self.value = value


async def call(service: Service, *values: Any) -> list[Any]:
    """The results of a service, in the order of the values."""
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
    """A server that gives the same response to every request."""
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
    """A server that reads the head of a request, writes some bytes and closes the connection."""

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
    """A handler with a constant response, and the requests that it has received."""
    requests: list[web.Request] = []

    async def reply(request: web.Request) -> web.StreamResponse:
        requests.append(request)
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return web.json_response(body, status=status, headers=named)

    return reply, requests


@pytest.mark.parametrize("value", [{"orderId": 7}, SimpleNamespace(orderId=7)])
async def test_the_result_is_the_json_body_of_a_2xx(client: HttpClient, value: Any) -> None:
    """The value can be a dict or an object."""
    async with simulated(FaultSettings(latency_scale=0)) as url:
        pricing = Service.http("pricing", f"{url}/prices/{{orderId}}", client=client)
        assert await call(pricing, value) == [{"price": 1007}]


async def test_an_http_service_can_have_a_rate(client: HttpClient) -> None:
    """Also a batch service."""
    url = "http://127.0.0.1:1/{id}"
    assert Service.http("s", url, client=client, rate=5).rate == 5
    assert Service.http_batch("s", "http://127.0.0.1:1/", client=client, rate=5).rate == 5


async def test_a_204_results_in_none(client: HttpClient) -> None:
    """A 2xx without content is a valid response."""

    async def reply(_: web.Request) -> web.StreamResponse:
        return web.Response(status=204)

    async with server(reply) as url:
        assert await call(Service.http("s", url, client=client), {}) == [None]


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504])
async def test_temporary_statuses_are_retried(client: HttpClient, status: int) -> None:
    """408, 425, 429 and 5xx use all attempts; then the error has the status."""
    reply, requests = always(status)
    async with server(reply) as url:
        service = Service.http("s", url, client=client, attempts=3, backoff=NONE)
        (failed,) = await call(service, {})
    assert isinstance(failed.error, ServiceErrorResponse)
    assert (failed.error.status, failed.attempts, len(requests), service.statistics().retries) == (status, 3, 3, 2)


@pytest.mark.parametrize("status", [300, 301, 302, 304, 307, 308, 400, 401, 404, 409, 410, 422, 451])
async def test_other_statuses_are_not_retried(client: HttpClient, status: int) -> None:
    """A redirect is not followed either."""
    reply, requests = always(status, Location="/elsewhere")
    async with server(reply) as url:
        (failed,) = await call(Service.http("s", url, client=client, attempts=3, backoff=NONE), {})
    assert (failed.error.status, failed.attempts, len(requests)) == (status, 1, 1)


@pytest.mark.parametrize("form", ["seconds", "date"])
async def test_a_retry_waits_for_retry_after(client: HttpClient, form: str) -> None:
    """The next attempt is not earlier."""
    times: list[float] = []

    async def reply(_: web.Request) -> web.StreamResponse:
        times.append(time.monotonic())
        at = format_datetime(datetime.now(UTC) + timedelta(seconds=2), usegmt=True)  # integer seconds: 1 to 2 remain
        asked = "0.2" if form == "seconds" else at
        return web.json_response(1, status=503 if len(times) < 2 else 200, headers={"Retry-After": asked})

    async with server(reply) as url:
        assert await call(Service.http("s", url, client=client, attempts=2, backoff=Backoff(first=0)), {}) == [1]
    assert times[1] - times[0] >= (0.2 if form == "seconds" else 0.9)


@pytest.mark.parametrize(
    ("status", "headers"),
    [(429, {"Retry-After": "0.5"}), (200, {"RateLimit": '"a";r=0;t=1', "RateLimit-Policy": '"a";q=9;w=1'})],
)
async def test_a_response_can_hold_all_calls(client: HttpClient, status: int, headers: dict[str, str]) -> None:
    """By Retry-After, or by a RateLimit that is used up: also those that have not started."""
    times: list[float] = []

    async def reply(_: web.Request) -> web.StreamResponse:
        times.append(time.monotonic())
        first = len(times) == 1
        return web.json_response(1, status=status if first else 200, headers=headers if first else {})

    async with server(reply) as url:
        service = Service.http("s", url, client=client, attempts=2, max_in_flight=1, backoff=NONE)
        assert await call(service, *[{}] * 5) == [1] * 5
    assert times[1] - times[0] >= (0.5 if status == 429 else 1)
    assert 0.4 < service.statistics().paced_seconds < HANG_SECONDS


def test_retry_after_is_a_number_or_a_date() -> None:
    """A date in the past and an invalid value mean no wait."""
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
async def test_the_error_has_the_message_of_the_response(
    client: HttpClient, body: Any, message: str, kind: str | None
) -> None:
    """From a problem document or similar JSON."""
    reply, _ = always(503, body)
    async with server(reply) as url:
        (failed,) = await call(Service.http("stock", url, client=client), {})
    assert (str(failed.error), failed.error.kind) == (f"stock responded 503 {message}", kind)


async def test_the_error_has_the_type_of_the_problem_document(client: HttpClient) -> None:
    """The simulated inventory fails for ids divisible by 3 with a type of its own."""
    async with simulated(FaultSettings(latency_scale=0)) as url:
        inventory = Service.http("inventory", f"{url}/stock/{{orderId}}", client=client, attempts=2, backoff=NONE)
        fine, failed = await call(inventory, {"orderId": 1}, {"orderId": 3})
    assert fine == {"inStock": True}
    assert (failed.error.kind, failed.error.reason, failed.attempts) == (
        "InventoryUnavailable",
        "Inventory unavailable",
        2,
    )


async def test_closing_a_queue_cancels_its_requests(client: HttpClient) -> None:
    """The server sees them aborted."""
    async with simulated(FaultSettings(latency_scale=0, hang_rate=1)) as url:
        service = Service.http("pricing", f"{url}/prices/{{orderId}}", client=client)
        queue = service.open_queue(lambda jobs, answers: None)
        queue.submit([Job({"orderId": number}) for number in range(1, 9)])
        await until(client, url, begun=8)
        await queue.aclose()
        assert await until(client, url, cancelled=8) == {"begun": 8, "ended": 0, "cancelled": 8}
    assert service.statistics().results["cancelled"] == 8


async def test_closing_a_queue_cancels_a_slow_body(client: HttpClient) -> None:
    """Also while a response body is being read."""
    async with simulated(FaultSettings(latency_scale=0, slow_body=60)) as url:
        queue = Service.http("p", f"{url}/prices/{{orderId}}", client=client).open_queue(lambda jobs, answers: None)
        queue.submit([Job({"orderId": 1})])
        await until(client, url, begun=1)
        await asyncio.sleep(0.05)  # for the head to arrive; in any case the connection must be closed
        await queue.aclose()
        assert (await until(client, url, cancelled=1))["ended"] == 0


async def until(client: HttpClient, url: str, **wanted: int) -> dict[str, int]:
    """The statistics of the simulated prices, once a condition is true."""
    async with asyncio.timeout(HANG_SECONDS):
        while True:
            content = await client.request("simulation", "GET", f"{url}/statistics", limit=10_000)
            tally: dict[str, int] = msgspec.json.decode(content)["prices"]
            if all(tally[name] == value for name, value in wanted.items()):
                return tally
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("fault", ["hang-rate=1", "slow-body=30"])
async def test_the_timeout_covers_the_whole_response(client: HttpClient, fault: str) -> None:
    """A response that does not arrive completely in time is a timeout."""
    async with simulated(FaultSettings(latency_scale=0)) as url:
        service = Service.http(
            "pricing", f"{url}/prices/{{orderId}}?{fault}", client=client, timeout=1, attempts=2, backoff=NONE
        )
        (failed,) = await call(service, {"orderId": 1})
        assert isinstance(failed.error, CallTimeout)
        assert (failed.attempts, service.statistics().results["timeout"]) == (2, 2)
        await until(client, url, cancelled=2)


async def test_a_refused_connection_is_retried(client: HttpClient) -> None:
    """The service is unreachable, which may be temporary."""
    url = f"http://127.0.0.1:{unused_port()}/"
    (failed,) = await call(Service.http("s", url, client=client, attempts=3, backoff=NONE), {})
    assert isinstance(failed.error, ServiceUnreachable)
    assert failed.attempts == 3
    assert "127.0.0.1" not in str(failed.error)
    assert "could not be reached: " in str(failed.error)


async def test_an_unknown_host_is_not_in_the_error(client: HttpClient) -> None:
    """The host may come from a variable; the reason is enough."""
    (failed,) = await call(Service.http("s", "http://hidden.invalid/", client=client, attempts=1, backoff=NONE), {})
    assert isinstance(failed.error, ServiceUnreachable)
    assert "hidden" not in str(failed.error)


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (ConnectionResetError(104, "hidden"), "Connection reset by peer"),
        (OSError("Multiple exceptions: hidden, hidden"), "no connection could be made"),
        (ExchangeFailed("the connection was closed before a response"), "the connection was closed before a response"),
        (ssl.SSLError(1, "[SSL] wrong version number"), "[SSL] wrong version number"),
    ],
)
def test_connection_errors_do_not_name_the_host(error: Exception, reason: str) -> None:
    """Whatever raised the error."""
    assert connection_error_reason(error) == reason


HALF = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{"
BROKEN_CHUNK = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n{}\r\n"
BROKEN_GZIP = b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 9\r\n\r\nnot gzip!"


@pytest.mark.parametrize("reset", [False, True])
@pytest.mark.parametrize("answer", [b"", HALF, b"HTP 1\r\n\r\n", BROKEN_CHUNK, BROKEN_GZIP])
async def test_a_broken_connection_is_service_unreachable(client: HttpClient, answer: bytes, reset: bool) -> None:
    """Every failure below HTTP statuses is one error, which is retried."""
    async with raw_server(answer, reset=reset) as url:
        (failed,) = await call(Service.http("s", url, client=client, attempts=2, backoff=NONE), {})
    assert isinstance(failed.error, ServiceUnreachable)
    assert failed.attempts == 2


@pytest.mark.parametrize("status", [200, 503])
async def test_a_response_is_limited(client: HttpClient, status: int) -> None:
    """More than `limit` bytes are an error; of an error response the status still counts."""
    reply, requests = always(status, "x" * 5_000)
    async with server(reply) as url:
        (failed,) = await call(Service.http("s", url, client=client, limit=1_000, attempts=2, backoff=NONE), {})
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
async def test_a_response_that_is_not_json_is_an_invalid_result(
    client: HttpClient, text: str | bytes, reason: str
) -> None:
    """It fails the element and is not retried."""

    async def reply(_: web.Request) -> web.StreamResponse:
        return web.Response(body=text if isinstance(text, bytes) else text.encode())

    async with server(reply) as url:
        (failed,) = await call(Service.http("s", url, client=client, attempts=3), {})
    assert isinstance(failed.error, InvalidCallResult)
    assert re.search(reason, str(failed.error))
    assert failed.attempts == 1


class Cents(msgspec.Struct):
    cents: int


async def test_a_response_is_converted_to_a_type(client: HttpClient) -> None:
    """To a Struct, or a type such as a dict of numbers; one that does not fit is an invalid response."""
    reply, _ = always(200, {"cents": 5})
    async with server(reply) as url:
        assert await call(Service.http("s", url, client=client, response=Cents), {}) == [Cents(5)]
        assert await call(Service.http("s", url, client=client, response=dict[str, int]), {}) == [{"cents": 5}]
        (failed,) = await call(Service.http("s", url, client=client, response=list[int]), {})
    assert isinstance(failed.error, InvalidCallResult)
    assert "Expected `array`, got `object`" in str(failed.error)


async def test_a_response_expression_that_fails_is_an_invalid_result(client: HttpClient) -> None:
    """`response` extracts the result from the body; if that fails, so does the element."""
    reply, _ = always(200, {"cents": 5})
    async with server(reply) as url:
        assert await call(Service.http("s", url, client=client, response=lambda body: body["cents"]), {}) == [5]
        (failed,) = await call(Service.http("s", url, client=client, response=lambda body: body["euros"]), {})
    assert isinstance(failed.error, InvalidCallResult)


@pytest.mark.parametrize("text", ["a/b", "ä ö", "../x", "%2e", "?q#f", "a+b&c=d", "😀", True])
async def test_fields_are_percent_encoded(client: HttpClient, text: str | bool) -> None:
    """Whatever a field contains, the server gets it in the position of the template, in path and query."""
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
    answers = await call(Service.http("s", url, client=client), {"name": text})
    await runner.cleanup()
    body = text if isinstance(text, str) else "true"  # as in JSON
    assert (answers, seen) == ([1], [(body, body)])


@pytest.mark.parametrize("value", [{}, {"id": None}, {"id": ""}, {"id": ".."}, {"id": [1]}, {"id": "\ud800"}, 7])
async def test_a_missing_field_fails_without_a_retry(client: HttpClient, value: Any) -> None:
    """Without a URL there is no request and no further attempt."""
    service = Service.http("s", "http://127.0.0.1:1/{id}", client=client, attempts=5)
    (failed,) = await call(service, value)
    assert isinstance(failed.error, InvalidItem)
    assert failed.attempts == 1


@pytest.mark.parametrize("template", ["{host}/x", "http://{host}/x", "http://h/{a.}", "http://h/{0}", "ftp://h/"])
def test_an_invalid_template_is_rejected(template: str) -> None:
    """When the service is created, not with the first value."""
    with pytest.raises(ValueError, match=r"field|host|address"):
        UrlTemplate(template)


async def test_a_body_is_sent_as_json(client: HttpClient) -> None:
    """`body` is computed from the value; if it cannot be encoded as JSON, the element fails at once."""

    def a_of(value: dict[str, Any]) -> Any:
        return value["a"]

    async def reply(request: web.Request) -> web.StreamResponse:
        return web.json_response([request.method, request.content_type, request.headers["X-Key"], await request.json()])

    async with server(reply) as url:
        service = Service.http("s", url, client=client, method="PUT", headers={"X-Key": "k"}, body=a_of, attempts=2)
        fine, failed, unsendable = await call(service, {"a": [1]}, {}, {"a": object()})
    assert fine == ["PUT", "application/json", "k", [1]]
    assert [(type(each.error), each.attempts) for each in (failed, unsendable)] == [(InvalidItem, 1)] * 2


@pytest.mark.parametrize("status", [200, 500])
async def test_connections_are_reused(client: HttpClient, status: int) -> None:
    """An error response returns its connection to the pool too."""
    peers: list[Any] = []

    async def reply(request: web.Request) -> web.StreamResponse:
        peers.append(request.transport and request.transport.get_extra_info("peername"))
        return web.json_response({"message": "x" * 10_000}, status=status)

    async with server(reply) as url:
        await call(Service.http("s", url, client=client, max_in_flight=1), *[{}] * 20)
    assert (len(peers), len(set(peers))) == (20, 1)


async def test_an_error_in_a_batch_fails_one_element() -> None:
    """One request has many values; an item of the response that is an error fails only its own element."""
    client = HttpClient()
    async with simulated(FaultSettings(latency_scale=0)) as url:
        service = Service.http_batch("pricing", f"{url}/prices", client=client, field="orderId")
        values = [{"orderId": 1}, {"orderId": -1}, {}, {"orderId": 4}]
        (answers,) = await call(service, values)
        await until(client, url, begun=1)
    await client.aclose()
    assert (answers[0], answers[3]) == ({"price": 1001}, {"price": 1004})
    assert (type(answers[1]), answers[1].kind, answers[1].status) == (ServiceErrorResponse, "UnknownOrder", 404)
    assert isinstance(answers[2], InvalidItem)


async def test_a_batch_without_valid_values_sends_no_request(client: HttpClient) -> None:
    """If no value of a batch can be sent, each fails with its own error."""
    service = Service.http_batch("s", "http://127.0.0.1:1/", client=client, field="orderId")
    (answers,) = await call(service, [{}, {"orderId": object()}])
    assert [type(answer) for answer in answers] == [InvalidItem, InvalidItem]


@pytest.mark.parametrize("body", [[1], {"a": 1}, None, [1, 2, 3]])
async def test_a_batch_response_of_another_length_is_an_invalid_result(client: HttpClient, body: Any) -> None:
    """The results cannot be assigned to values, so all fail."""
    reply, _ = always(200, body)
    async with server(reply) as url:
        (failed,) = await call(Service.http_batch("s", url, client=client, attempts=2), [1, 2])
    assert type(failed) is CallFailed
    assert isinstance(failed.error, InvalidCallResult)


async def test_statistics_count_the_connections_of_the_service(client: HttpClient) -> None:
    """Those of another service with the same client are not counted, and a Python service has none."""
    release = asyncio.Event()

    async def reply(request: web.Request) -> web.Response:
        await release.wait()
        return web.json_response(1)

    async with server(reply) as url, server(reply) as other_url:
        service = Service.http("pricing", f"{url}/{{id}}", client=client, max_in_flight=2)
        other = Service.http("stock", other_url, client=client)
        assert service.statistics().connections == ConnectionStatistics(open=0, idle=0, awaited=0)

        calls = asyncio.ensure_future(call(service, {"id": 1}, {"id": 2}, {"id": 3}))
        await until_async(lambda: service.statistics().connections == ConnectionStatistics(open=2, idle=0, awaited=0))
        release.set()
        await calls
        assert service.statistics().connections == ConnectionStatistics(open=2, idle=2, awaited=0)
        assert other.statistics().connections == ConnectionStatistics()
    assert Service("python", str).statistics().connections is None


def test_a_client_serves_one_event_loop_after_another() -> None:
    """A session belongs to its event loop; the next loop gets a new one."""
    client = HttpClient()

    async def once() -> Any:
        async with simulated(FaultSettings(latency_scale=0)) as url:
            (answer,) = await call(Service.http("p", f"{url}/prices/{{orderId}}", client=client), {"orderId": 1})
        await client.aclose()
        return answer

    assert [asyncio.run(once()), asyncio.run(once())] == [{"price": 1001}] * 2


@pytest.mark.parametrize(
    ("header", "pattern"), [("Penstock-Deadline", r"1\.\d{1,3}s"), ("Grpc-Timeout", r"1\d{3}m"), ("X-Time", r"1\.\d+s")]
)
async def test_the_remaining_time_is_forwarded(header: str, pattern: str) -> None:
    """In the format that belongs to the name of the header; and not at all without a deadline."""
    received: list[str | None] = []

    async def reply(request: web.Request) -> web.Response:
        received.append(request.headers.get(header))
        return web.json_response(await request.json() if request.method == "POST" else 1)

    async with server(reply) as url:
        one = Service.http("one", f"{url}/{{id}}", deadline_header=header)
        many = Service.http_batch("many", url, deadline_header=header)
        flow = Flow[Any]("f").map_async(one).batch(many, size=1, max_wait=1)
        for each in (flow.deadline(2), flow):
            assert (await each.run(from_iterable([{"id": 1}]))).ok == 1
    assert received[2:] == [None, None]
    assert all(text is not None and re.fullmatch(pattern, text) for text in received[:2])


async def test_a_function_that_converts_a_response_knows_the_remaining_time() -> None:
    """The remaining time is that of its own call, also on a connection that another call has used."""
    remaining: list[float | None] = []

    async def reply(_: web.Request) -> web.StreamResponse:
        return web.json_response(1)

    async with server(reply) as url:
        service = Service.http("s", url, response=lambda _: remaining.append(remaining_seconds()))
        service.retain()
        flow = Flow("f").map_async(service)
        for each in (flow.deadline(100), flow):
            await each.run(from_iterable([1]))
        await asyncio.wait(service.release())
    assert remaining == [pytest.approx(100, abs=HANG_SECONDS), None]


def test_a_header_of_deadlines_has_a_valid_name() -> None:
    """And is not set twice."""
    with pytest.raises(ValueError, match="invalid header name 'a b'"):
        Service.http("s", "http://h", deadline_header="a b")
    with pytest.raises(ValueError, match="X-Time is in headers and is the deadline_header: remove one"):
        Service.http("s", "http://h", headers={"x-time": "1"}, deadline_header="X-Time")


@pytest.mark.parametrize(
    ("seconds", "text", "grpc"),
    [(1.5, "1.5s", "1500m"), (2, "2s", "2000m"), (0.0004, "0.001s", "1m"), (1e6, "1000000s", "1000000S")],
)
def test_the_formats_of_a_deadline(seconds: float, text: str, grpc: str) -> None:
    """Rounded down to milliseconds, but never to 0. What is sent can be read again."""
    assert format_deadline("Penstock-Deadline", seconds) == text
    assert format_deadline("GRPC-Timeout", seconds) == grpc
    assert read_duration(text) == pytest.approx(seconds, abs=1e-3)
    assert parse_grpc_timeout(grpc) == pytest.approx(seconds, abs=1e-3)


@pytest.mark.parametrize("text", ["", "2", "2s", "-1S", "1.5S", "123456789S", "2 S", "S", "\uff12S"])
def test_other_texts_are_no_timeout_of_grpc(text: str) -> None:
    """An integer of at most 8 digits, and a unit."""
    assert parse_grpc_timeout(text) is None
