"""`penstock work`: the workers of flows, with metrics and health, and without the bulk API."""

from __future__ import annotations

import asyncio
import json
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import make_mocked_request
from prometheus_client import CollectorRegistry

from commands.killing import run
from laws.virtual import quiet
from penstock import Flow
from penstock.runtime import Supervisor
from penstock.sources import Emitter, Source
from penstock_http.aggregate.health import merge_readiness
from penstock_http.processes.peers import OnlyProcess
from penstock_http.routes import all_processes, system
from penstock_http.routes.all_processes import ALL_PROCESSES, AllProcesses
from service.processes import until, working

CLOCK = "flow: clock\nworkers: {w: {source: {ticks: 20ms}}}\n"


def write(folder: Path, name: str, text: str) -> Path:
    """Write a flow file."""
    (file := folder / name).write_text(text)
    return file


def test_workers_run_and_only_metrics_and_health_are_served(tmp_path: Path) -> None:
    """Every other path is unknown, also those that `penstock serve` has."""
    with working(tmp_path, write(tmp_path, "clock.yaml", CLOCK)) as process:
        until(lambda: process.metric("penstock_received_total", flow="clock") >= 5, period=0.1)
        paths = ("/metrics", "/health/live", "/health/ready")
        assert [process.request("GET", path).status for path in paths] == [200] * 3
        unknown = ("/openapi.json", "/flows", "/clock/bulk?count=1", "/dead-letters", "/")
        assert [process.request("GET", path).status for path in unknown] == [404] * 5
        assert process.request("POST", "/clock/bulk", b"{}\n").status == 404
        assert process.request("POST", "/metrics", b"").status == 405
        assert process.stop() == 0
        ended = process.event("run.ended", kind="worker")
        assert (ended["reason"], ended["received"], ended["cancelled"]) == ("draining", ended["ok"], 0)


def test_a_process_is_not_ready_while_a_worker_or_a_sink_cannot_be_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    """For half a minute; `penstock serve` is, because it still accepts requests."""

    class Broker(Source[int]):
        async def produce(self, emitter: Emitter[int]) -> None:
            emitter.report_connection(lambda: not 10 <= asyncio.get_running_loop().time() < 100)
            await asyncio.sleep(1e9)

    outages = [("kafka priced", 31.0), ("nats audit", 3.0)]

    async def main() -> list[tuple[int, Any]]:
        supervisor = Supervisor()
        supervisor.start_worker("w", Flow("f"), Broker)
        state: Any = SimpleNamespace(supervisor=supervisor, stop=asyncio.Event(), peers=OnlyProcess())
        found: list[tuple[int, Any]] = []
        for second in (5, 15, 40, 50, 105, 110):
            await asyncio.sleep(second - asyncio.get_running_loop().time())
            if second == 110:
                monkeypatch.setattr(all_processes, "outage_seconds", lambda: outages)
            for workers_only in (True, False):
                app = web.Application()
                app[ALL_PROCESSES] = AllProcesses(state, CollectorRegistry(), workers_only=workers_only)
                response = await system.ready(make_mocked_request("GET", "/health/ready", app=app))
                found.append((response.status, json.loads(response.text or "")))
        await supervisor.shut_down(1)
        return found

    found = quiet(main())

    assert [status for status, _ in found[1::2]] == [200] * 6
    assert [status for status, _ in found[::2]] == [200, 200, 200, 503, 200, 503]
    assert found[6][1] == {"status": "not_working", "workers": ["f/w"], "sinks": []}
    assert merge_readiness({1: {"status": "ready"}, 2: found[6][1], 3: None}) == found[6][1] | {
        "processes": [
            {"process": 1, "status": "ready"},
            {"process": 2, "status": "not_working"},
            {"process": 3, "status": "no_answer"},
        ]
    }
    assert found[10][1] == {"status": "not_working", "workers": [], "sinks": ["kafka priced"]}


@pytest.mark.parametrize("words", [("idle.yaml",), ("clock.yaml", "idle.yaml"), (".",), ("clock.yaml", "idle:flow")])
def test_a_flow_without_a_worker_is_an_error(words: tuple[str, ...], tmp_path: Path) -> None:
    """It would do nothing, and its user would wait for results."""
    write(tmp_path, "clock.yaml", CLOCK)
    write(tmp_path, "idle.yaml", "flow: idle\n")
    write(tmp_path, "idle.py", 'from penstock import Flow\n\nflow = Flow("idle")\n')
    code, output, error = run(tmp_path, "work", "--port", "0", "--dead-letters", "memory:", *words)
    assert (code, output) == (2, b"")
    assert "flow idle has no worker, and penstock work runs nothing else; describe one under workers:" in error


def test_the_setting_for_no_workers_is_one_of_serve(tmp_path: Path) -> None:
    """Both commands may share a file of settings, in which `workers = 0` leaves the workers to this command."""
    settings = write(tmp_path, "penstock.toml", "workers = 0\nmax_runs = 5\n")
    with working(tmp_path, "--config", settings, write(tmp_path, "clock.yaml", CLOCK)) as process:
        until(lambda: process.metric("penstock_received_total", flow="clock") >= 1, period=0.1)


def test_a_reload_replaces_the_workers_and_keeps_those_of_a_flow_that_lost_its_own(tmp_path: Path) -> None:
    """SIGHUP reloads as in `penstock serve`; a flow without a worker is rejected then too."""
    file = write(tmp_path, "clock.yaml", CLOCK)
    with working(tmp_path, file) as process:
        write(tmp_path, "clock.yaml", "flow: clock\n")
        process.signal(signal.SIGHUP)
        assert "has no worker" in process.event("flow.invalid", flow="clock")["message"]
        write(tmp_path, "clock.yaml", CLOCK.replace("20ms", "10ms"))
        process.signal(signal.SIGHUP)
        assert process.event("run.ended", kind="worker", revision=1)["cancelled"] == 0
        before = process.metric("penstock_received_total", flow="clock")
        until(lambda: process.metric("penstock_received_total", flow="clock") > before, period=0.1)
        assert process.metric("penstock_runs_active", kind="worker") == 1


def test_a_second_signal_cancels_what_is_in_flight(tmp_path: Path) -> None:
    """The first one would wait for the grace period."""
    write(tmp_path, "slow.py", "import asyncio\n\n\nasync def call(value):\n    await asyncio.sleep(600)\n")
    text = CLOCK + "services: {slow: {call: 'slow:call', timeout: 900s}}\nsteps: [{map_async: slow}]\n"
    flags = ("--grace-period", 60, write(tmp_path, "clock.yaml", text))
    with working(tmp_path, *flags, excused=("run.tasks_not_cancelled",)) as process:
        until(lambda: process.metric("penstock_in_flight", flow="clock") >= 3, period=0.1)
        process.signal(signal.SIGTERM)
        process.event("shutdown.phase", phase="draining")
        process.signal(signal.SIGTERM)
        assert process.wait() == 1
        ended = process.event("run.ended", kind="worker")
        assert ended["cancelled"] == ended["received"] >= 3
