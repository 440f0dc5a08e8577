"""`penstock simulate`: the two services as a server and as a command."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import socket
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from invoking import invoke
from penstock_http.simulation.faults import FaultSettings
from penstock_http.simulation.services import simulated
from waiting import HANG_SECONDS, ending_async

ROOT = Path(__file__).parents[2]
COMMAND = (sys.executable, "-m", "penstock", "simulate")


@asynccontextmanager
async def session(**knobs: Any) -> AsyncGenerator[aiohttp.ClientSession, None]:
    """A client of the services, which have no latency by default."""
    async with (
        simulated(FaultSettings(**{"latency_scale": 0, **knobs})) as url,
        aiohttp.ClientSession(url, timeout=aiohttp.ClientTimeout(total=HANG_SECONDS)) as session,
    ):
        yield session


async def get(session: aiohttp.ClientSession, path: str, **headers: str) -> tuple[int, Any]:
    """The status and the JSON of a response."""
    async with session.get(path, headers=headers) as response:
        return response.status, await response.json(content_type=None)


async def test_prices_and_stock() -> None:
    """A price is 1000 + id; the inventory has every order, and fails for ids divisible by 3."""
    async with session() as client:
        assert await get(client, "/prices/7") == (200, {"price": 1007})
        assert await get(client, "/stock/7") == (200, {"inStock": True})
        async with client.get("/stock/9") as response:
            problem = await response.json(content_type="application/problem+json")
    assert problem == {"type": "InventoryUnavailable", "title": "Inventory unavailable", "status": 503}


@pytest.mark.parametrize("service", ["prices", "stock"])
@pytest.mark.parametrize(
    ("id", "status"),
    [("x", 400), ("1.5", 400), ("-1", 400), ("٣", 400), ("0", 404), ("9" * 16, 404), ("9" * 5_000, 404)],
)
async def test_invalid_ids(service: str, id: str, status: int) -> None:
    """An id that is not an integer is a 400; an id that no order has is a 404."""
    async with session() as client:
        assert (await get(client, f"/{service}/{id}"))[0] == status


async def test_prices_of_an_array() -> None:
    """Ids and orders can be mixed; each gets its own result, in order."""
    async with session() as client:
        async with client.post("/prices", json=[1, {"orderId": 2}, "3", {}, True, -1]) as response:
            one, two, *bad = await response.json()
        assert (one, two) == ({"price": 1001}, {"price": 1002})
        assert {item["error"]["type"] for item in bad} == {"UnknownOrder"}
        for body in (b"{}", b"[", b"\xff", b"[" * 100_000):
            async with client.post("/prices", data=body) as response:
                assert response.status == 400


async def test_a_request_can_set_its_own_faults() -> None:
    """By query parameters and headers."""
    async with session() as client:
        assert (await get(client, "/prices/1?error-rate=1"))[0] == 500
        assert (await get(client, "/prices/1", **{"Error-Rate": "1"}))[0] == 500
        assert (await get(client, "/prices/1?error-rate=2"))[0] == 400
        assert (await get(client, "/prices/1?error-rate=nan"))[0] == 400
        assert (await get(client, "/prices/1?error-rate=often"))[0] == 400
        assert (await get(client, "/prices/1"))[0] == 200


async def test_latency_delays_the_head_and_slow_body_the_body() -> None:
    """Latency before the head, `slow-body` after it."""
    loop = asyncio.get_running_loop()
    async with session() as client:
        start = loop.time()
        async with client.get("/stock/1?latency-scale=1&slow-body=0.2") as response:
            head = loop.time() - start
            body = await response.json()
    assert body == {"inStock": True}
    assert head >= 0.15
    assert loop.time() - start >= head + 0.15


async def test_a_seed_repeats_the_same_faults() -> None:
    """Another seed gives other faults."""

    async def statuses(seed: int) -> list[int]:
        async with session(error_rate=0.5, seed=seed) as client:
            return [(await get(client, "/prices/1"))[0] for _ in range(30)]

    first = await statuses(1)
    assert first == await statuses(1)
    assert set(first) == {200, 500}
    assert first != await statuses(2)


async def test_an_aborted_request_is_counted_as_cancelled() -> None:
    """The statistics of each service distinguish ended and cancelled requests."""
    async with session() as client:
        await get(client, "/prices/1")
        with contextlib.suppress(TimeoutError):
            await client.get("/stock/1?hang-rate=1", timeout=aiohttp.ClientTimeout(total=1))
        async with asyncio.timeout(HANG_SECONDS):
            while (await get(client, "/statistics"))[1]["stock"]["cancelled"] < 1:
                await asyncio.sleep(0.01)
        _, statistics = await get(client, "/statistics")
    assert statistics == {
        "prices": {"begun": 1, "ended": 1, "cancelled": 0},
        "stock": {"begun": 1, "ended": 0, "cancelled": 1},
    }


@pytest.mark.parametrize("ending", [signal.SIGTERM, signal.SIGINT])
async def test_the_command_logs_its_url_and_ends_on_a_signal(ending: signal.Signals) -> None:
    """One line of JSON has the URL; a signal ends the process with code 0, even while a request hangs."""
    process = await asyncio.create_subprocess_exec(
        *COMMAND, "--port", "0", "--latency-scale", "0", cwd=ROOT, stderr=asyncio.subprocess.PIPE
    )
    assert process.stderr is not None
    async with ending_async(process), asyncio.timeout(HANG_SECONDS):
        line = json.loads(await process.stderr.readline())
        async with aiohttp.ClientSession(line["url"]) as client:
            assert await get(client, "/prices/1") == (200, {"price": 1001})
            hanging = asyncio.create_task(get(client, "/prices/1?hang-rate=1"))
            while (await get(client, "/statistics"))[1]["prices"]["begun"] < 2:
                await asyncio.sleep(0.01)
            process.send_signal(ending)
            assert await process.wait() == 0
            with pytest.raises(aiohttp.ClientError):
                await hanging
        rest = await process.stderr.read()
    assert line["event"] == "http.listening"
    assert rest == b""


async def test_a_port_in_use_is_exit_code_1() -> None:
    """With one line as the message."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        process = await asyncio.create_subprocess_exec(
            *COMMAND, "--port", str(taken.getsockname()[1]), stderr=asyncio.subprocess.PIPE
        )
        _, message = await process.communicate()
        port = taken.getsockname()[1]
    assert process.returncode == 1
    reason = f"cannot listen on 127.0.0.1:{port}: Address already in use"
    assert message.decode() == f"penstock simulate: {reason}; choose another port with --port, or 0 for a free one\n"


@pytest.mark.parametrize(
    "arguments",
    [["--error-rate", "2"], ["--jitter", "-1"], ["--port", "70000"], ["--port", "x"], ["--hang-rate", "nan"]],
)
def test_an_invalid_option_is_exit_code_2(arguments: list[str]) -> None:
    """Before the command listens."""
    result = invoke("simulate", *arguments)
    assert result.exit_code == 2
    assert "Usage: penstock simulate" in result.stderr
