"""A real Prometheus scrapes a real service: every query of the dashboard and every rule has data, in an outage too."""

from __future__ import annotations

import asyncio
import json
import math
import shutil
import socket
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
import yaml
from aiohttp import ClientError, ClientSession, ClientTimeout

from penstock_http.simulation.faults import FaultSettings
from penstock_http.simulation.services import simulated
from waiting import HANG_SECONDS

pytestmark = [pytest.mark.prometheus, pytest.mark.asyncio(loop_scope="module")]

TIMEOUT = HANG_SECONDS
"""Seconds to wait for a server to be ready, and for a query to have data."""

VARIABLES = {
    "$flow": "orders",
    "$instance": ".*",
    "$__rate_interval": "1m",
    "$__range": "1m",
    "$__interval": "1s",
}
"""Values of Grafana's variables. The interval of rates is long, because the load takes only a moment."""

UNUSED = {"Sinks that cannot be reached", "TLS certificate", "Workers that cannot receive"}
"""Panels of what the service of these tests does not use."""

ORDERS = [json.dumps({"orderId": number}) for number in range(1, 501)]
"""An upload. Every third order is out of stock."""


OUTAGE_ORDERS = 2000
"""The orders of an upload during which the inventory is down; more than are in flight at once."""


class Inventory:
    """The simulated inventory, over HTTP on one port: it can be stopped, and then refuses connections."""

    def __init__(self) -> None:
        self.port = 0
        self._running = AsyncExitStack()

    async def start(self) -> None:
        """Serve, on the port of the last time."""
        url = await self._running.enter_async_context(simulated(FaultSettings(latency_scale=0.05), port=self.port))
        self.port = int(url.rsplit(":", 1)[1])

    async def stop(self) -> None:
        """Close all connections and stop listening."""
        await self._running.aclose()


class Prometheus:
    """The API of a running Prometheus."""

    def __init__(self, http: ClientSession, url: str) -> None:
        self._http = http
        self._url = url

    async def get(self, path: str, **parameters: str) -> Any:
        """Return the data of a response. Raises `AssertionError` with the error of Prometheus."""
        async with self._http.get(f"{self._url}/api/v1/{path}", params=parameters) as response:
            document = await response.json()
            assert document["status"] == "success", document["error"]
            return document["data"]

    async def values(self, query: str) -> list[float]:
        """Return the current values of a query without NaN."""
        result = (await self.get("query", query=query))["result"]
        return [value for value in (float(sample["value"][1]) for sample in result) if not math.isnan(value)]

    async def labelled(self, query: str) -> dict[tuple[str, ...], float]:
        """Return the current values of a query by the values of their labels."""
        result = (await self.get("query", query=query))["result"]
        return {tuple(sample["metric"].values()): float(sample["value"][1]) for sample in result}

    async def has_data(self, query: str) -> bool:
        """Wait until a query has data. Returns False after a timeout."""
        return await becomes_true(lambda: self.values(query))

    async def is_ready(self) -> bool:
        """Return whether Prometheus is ready."""
        try:
            async with self._http.get(f"{self._url}/-/ready") as response:
                return response.status == 200
        except ClientError:
            return False


async def becomes_true(condition: Any) -> bool:
    """Check a condition five times a second until it is true. Returns False after `TIMEOUT`."""
    deadline = asyncio.get_running_loop().time() + TIMEOUT
    while not await condition():
        if asyncio.get_running_loop().time() > deadline:
            return False
        await asyncio.sleep(0.2)
    return True


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def substituted(query: str) -> str:
    for name, value in VARIABLES.items():
        query = query.replace(name, value)
    return query


@asynccontextmanager
async def process(*command: str | Path) -> AsyncIterator[tuple[Process, list[str]]]:
    """Run a process in a block. Yields it and the lines that it has written to standard error so far."""
    started = await asyncio.create_subprocess_exec(*map(str, command), stdin=DEVNULL, stdout=DEVNULL, stderr=PIPE)
    lines: list[str] = []
    reading = asyncio.create_task(_read(started, lines), name=f"standard error of {command[0]}")
    try:
        yield started, lines
    finally:
        await _end(started)
        await reading


async def _read(started: Process, lines: list[str]) -> None:
    # Reads to the end, because a full pipe would block the process.
    async for line in started.stderr:
        lines.append(line.decode(errors="replace"))  # noqa: PERF401 - the lines are read meanwhile


async def _end(started: Process) -> None:
    if started.returncode is None:
        started.terminate()
    try:
        await asyncio.wait_for(started.wait(), HANG_SECONDS)
    except TimeoutError:
        started.kill()
        await started.wait()


def listening_at(lines: list[str]) -> str | None:
    """Return the address in the log line `http.listening`."""
    for line in lines:
        if '"http.listening"' in line and (event := json.loads(line))["event"] == "http.listening":
            return event["url"].rstrip("/")
    return None


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def http() -> AsyncIterator[ClientSession]:
    """An HTTP client for both servers."""
    async with ClientSession(timeout=ClientTimeout(total=TIMEOUT)) as session:
        yield session


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def inventory() -> AsyncIterator[Inventory]:
    """The inventory service of the orders."""
    started = Inventory()
    await started.start()
    yield started
    await started.stop()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def service(tmp_path_factory: pytest.TempPathFactory, inventory: Inventory) -> AsyncIterator[str]:
    """The URL of a running Penstock with two processes, which calls the inventory over HTTP."""
    letters = tmp_path_factory.mktemp("letters") / "letters.db"
    options = [
        "--processes",
        "2",
        "--port",
        "0",
        "--workers",
        "0",
        "--latency-scale",
        "0.05",
        "--dead-letters",
        f"sqlite:///{letters}",
    ]
    options += ["--inventory-url", f"http://127.0.0.1:{inventory.port}/stock/{{orderId}}"]
    async with process(sys.executable, "-m", "penstock", "serve", *options) as (server, lines):

        async def is_listening() -> bool:
            return listening_at(lines) is not None or server.returncode is not None

        assert await becomes_true(is_listening), "".join(lines)
        assert server.returncode is None, "".join(lines)
        yield listening_at(lines)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def prometheus(
    service: str, http: ClientSession, prometheus_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Prometheus]:
    """A Prometheus with our configuration and short intervals, which has scraped the service since before the load."""
    program = shutil.which("prometheus")
    if program is None:
        pytest.skip("Prometheus is not installed: apt-get install prometheus")
    folder = tmp_path_factory.mktemp("prometheus")
    (folder / "prometheus.yml").write_text(quick_configuration(prometheus_folder, service))
    address = f"127.0.0.1:{free_port()}"
    options = [f"--config.file={folder / 'prometheus.yml'}", f"--storage.tsdb.path={folder / 'data'}"]
    async with process(program, *options, f"--web.listen-address={address}") as (_, lines):
        api = Prometheus(http, f"http://{address}")
        assert await becomes_true(api.is_ready), "".join(lines)
        assert await api.has_data("penstock_received_total"), "the service was never scraped"
        await create_load(service, http)
        yield api


def quick_configuration(prometheus_folder: Path, service: str) -> str:
    """Return prometheus.yml with intervals of one second and this service as its target."""
    configuration = yaml.safe_load((prometheus_folder / "prometheus.yml").read_text())
    configuration["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    configuration["rule_files"] = [str(prometheus_folder / name) for name in configuration["rule_files"]]
    (job,) = configuration["scrape_configs"]
    job["static_configs"] = [{"targets": [service.removeprefix("http://")]}]
    return yaml.safe_dump(configuration)


async def create_load(service: str, http: ClientSession) -> None:
    """Upload orders and an invalid line, request sample orders, and send a request that is rejected."""
    lines = "\n".join([*ORDERS, "not an order"])
    async with http.post(
        f"{service}/orders/bulk", data=lines, headers={"content-type": "application/x-ndjson"}
    ) as response:
        end = json.loads((await response.text()).splitlines()[-1])
        assert end["end"]["received"] == len(ORDERS) + 1
    async with http.get(f"{service}/orders/bulk", params={"count": "100"}) as response:
        await response.read()
    async with http.post(f"{service}/orders/bulk", data="<order/>", headers={"content-type": "text/xml"}) as response:
        assert response.status == 415


async def test_every_panel_query_has_data(prometheus: Prometheus, panels: list[Any]) -> None:
    """After load no panel is empty, but those of what the service does not use. Panels of rare events show 0."""
    queries = [(panel.title, query) for panel in panels for query in panel.queries if panel.title not in UNUSED]
    found = await asyncio.gather(*(prometheus.has_data(substituted(query)) for _, query in queries))

    assert [query for query, has_data in zip(queries, found, strict=True) if not has_data] == []


async def test_queries_leave_no_variable_unsubstituted(panels: list[Any]) -> None:
    """The test above runs the queries that Grafana would run: it knows every variable in them."""
    assert [query for panel in panels for query in panel.queries if "$" in substituted(query)] == []


async def test_metrics_count_every_element_of_the_load(prometheus: Prometheus) -> None:
    """601 elements are received and settled, as many as the load has."""
    expected = float(len(ORDERS) + 1 + 100)

    async def all_are_settled() -> bool:
        return await prometheus.values('sum(penstock_settled_total{flow="orders"})') == [expected]

    assert await becomes_true(all_are_settled)
    assert await prometheus.values('sum(penstock_received_total{flow="orders"})') == [expected]


async def test_every_rule_is_evaluated_without_an_error(prometheus: Prometheus) -> None:
    """Each alert can be computed from the metrics of the service."""
    rules: list[dict[str, Any]] = []

    async def all_are_evaluated() -> bool:
        groups = (await prometheus.get("rules"))["groups"]
        rules[:] = [rule for group in groups for rule in group["rules"]]
        return bool(rules) and all(rule["health"] != "unknown" for rule in rules)

    assert await becomes_true(all_are_evaluated)
    assert [(rule["name"], rule.get("lastError")) for rule in rules if rule["health"] != "ok"] == []


async def test_no_critical_alert_fires_for_a_healthy_service(prometheus: Prometheus) -> None:
    """After a normal load, with orders that fail by design, no critical alert fires or is pending."""

    async def all_is_quiet() -> bool:
        return await prometheus.values('ALERTS{severity="critical"}') == []

    assert await becomes_true(all_is_quiet)


async def test_panels_name_the_service_that_holds_up_a_flow(
    prometheus: Prometheus, service: str, inventory: Inventory, http: ClientSession, panels: list[Any]
) -> None:
    """In an outage the row of flow and service shows it, and the alert is pending. The orders wait."""
    (table,) = (panel for panel in panels if panel.title == "Which service holds up which flow")
    waiting, in_flight, limit, breaker, *_, backpressure = map(substituted, table.queries)
    shown: dict[tuple[str, ...], tuple[float, ...]] = {}

    async def inventory_is_named() -> bool:
        queries = (waiting, in_flight, limit, breaker, backpressure)
        columns = await asyncio.gather(*map(prometheus.labelled, queries))
        common = set.intersection(*map(set, columns))  # a scrape may come between two queries
        shown.update({key: tuple(column[key] for column in columns) for key in common})
        if not {("orders", "inventory"), ("orders", "pricing")} <= shown.keys():
            return False
        alerts = await prometheus.values('ALERTS{alertname="PenstockBreakerOpen",service="inventory"}')
        match shown["orders", "inventory"], shown["orders", "pricing"]:
            case (calls, _, reduced, state, seconds), (0, 0, full, 0, _):
                return calls > 100 and reduced < full and state > 0 and seconds > 0 and alerts == [1]
        return False

    async def is_closed() -> bool:
        return (await prometheus.labelled(breaker))["orders", "inventory"] == 0

    assert await becomes_true(is_closed)
    await inventory.stop()
    upload = asyncio.create_task(upload_orders(service, http))
    try:
        assert await becomes_true(inventory_is_named), shown
    finally:
        await inventory.start()
    summary = await upload
    assert summary["received"] == OUTAGE_ORDERS
    assert summary["failed"] <= 30  # probes, if the outage takes long
    assert await becomes_true(is_closed)


async def upload_orders(service: str, http: ClientSession) -> dict[str, Any]:
    """Upload orders that the inventory has, and return the end record."""
    lines = "\n".join(json.dumps({"orderId": 3 * number + 1}) for number in range(OUTAGE_ORDERS))
    headers = {"content-type": "application/x-ndjson"}
    async with http.post(f"{service}/orders/bulk", data=lines, headers=headers) as response:
        return json.loads((await response.text()).splitlines()[-1])["end"]
