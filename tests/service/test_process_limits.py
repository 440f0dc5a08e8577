"""Limits and background work of a service with two processes, seen from outside."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

from penstock.deadletters import DeadLetter, create_store
from penstock.support.ids import now
from redrive.letters import letter
from service.processes import Process, serving, until
from service.test_all_processes import frozen
from service.wire import NDJSON, Client, orders

MAX_IN_FLIGHT = 6
MAX_RUNS = 8

FLOW = f"""
flow: orders
item: {{orderId: {{type: integer, minimum: 1}}}}
services:
  prices: {{get: "http://127.0.0.1:PORT/{{orderId}}", max_in_flight: {MAX_IN_FLIGHT}}}
steps:
  - enrich: [prices]
"""

TICKS = """
flow: ticks
steps:
  - filter: "true"
workers:
  hourly: {source: {ticks: 10ms, count: 1}, every: 1h}
"""


class Outside:
    """A service that answers after 50 ms. Counts the requests that it has at once."""

    def __init__(self) -> None:
        self.now = self.peak = self.done = 0
        self.calls = Counter[str]()
        """The requests so far, by path."""
        self.port = 0

    @contextmanager
    def running(self) -> Iterator[Outside]:
        """Run in a thread."""
        ready = threading.Event()
        thread = threading.Thread(target=lambda: asyncio.run(self._run(ready)))
        thread.start()
        ready.wait()
        try:
            yield self
        finally:
            self._loop.call_soon_threadsafe(self._stop.set)
            thread.join()

    async def _run(self, ready: threading.Event) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        ready.set()
        await self._stop.wait()
        server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while first := await reader.readline():
                self.calls[first.decode().split()[1]] += 1
                while await reader.readline() != b"\r\n":
                    pass
                self.now += 1
                self.peak = max(self.peak, self.now)
                try:
                    await asyncio.sleep(0.05)
                finally:
                    self.now -= 1
                    self.done += 1
                writer.write(
                    b'HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 11\r\n\r\n{"price":1}'
                )
        except ConnectionError:
            pass
        finally:
            writer.close()


def open_stream(server: Process) -> Client | None:
    """Open a long stream, and wait for its first result. Returns None if there are too many."""
    client = server.connect()
    client.request("POST", "/orders/bulk", orders(5000), Content_Type=NDJSON)
    response = client.response()
    if response.status == 200:
        return client
    assert (response.status, response.complete().json()["code"]) == (503, "too_many_runs")
    client.close()
    return None


def is_cut(client: Client) -> bool:
    """Read what has arrived. Returns whether the connection has ended."""
    client.sock.setblocking(False)
    try:
        while client.sock.recv(65_536):
            pass
    except BlockingIOError:
        return False
    except ConnectionError:
        pass
    return True


def test_two_processes_keep_the_limits_of_one(tmp_path: Path) -> None:
    """Calls in flight, open streams and workers. When the process that leads is killed, the other one has all of it."""
    outside = Outside()
    with outside.running():
        (tmp_path / "flow.yaml").write_text(FLOW.replace("PORT", str(outside.port)))
        (tmp_path / "ticks.yaml").write_text(TICKS)
        files = tmp_path / "flow.yaml", tmp_path / "ticks.yaml"
        flags = "--processes", 2, "--process-timeout", 3600, "--max-runs", MAX_RUNS, "--workers", 1
        with serving(tmp_path, *files, *flags) as server, ExitStack() as stack:
            leader = server.event("process.leads")
            shared = server.event("limits.shared")
            assert shared["max_in_flight"] == {"prices": MAX_IN_FLIGHT}
            assert shared["workers_in_one_process"] == ["ticks/hourly"]
            assert server.event("run.ended", flow="ticks")["process"] == leader["process"]

            streams: list[Client] = []
            stack.callback(lambda: [client.close() for client in streams])
            for pid in server.members().values():
                with frozen(pid):  # so that the other one accepts them
                    streams += [client for _ in range(MAX_RUNS // 2) if (client := open_stream(server)) is not None]
            assert len(streams) == MAX_RUNS
            assert open_stream(server) is None
            until(lambda: outside.peak >= MAX_IN_FLIGHT)
            done = outside.done
            until(lambda: outside.done > done + 60)
            assert outside.peak == MAX_IN_FLIGHT

            os.kill(leader["pid"], signal.SIGKILL)
            server.event("process.leads", process=3 - leader["process"])
            cut = [client for client in streams if is_cut(client)]
            assert len(cut) == MAX_RUNS // 2
            streams += [until(lambda: open_stream(server)) for _ in cut]
            assert open_stream(server) is None
            continued = server.event("workers.continued", flow="ticks", process=3 - leader["process"])
            assert list(continued["due"]) == ["hourly"]  # in an hour, although the previous leader was killed
            assert len(server.logged("run.ended", flow="ticks")) == 1


LETTERS = """
flow: {name}
key: orderId
services: {{prices: {{get: "http://127.0.0.1:{port}/{name}/{{orderId}}", attempts: 1, breaker: none}}}}
steps: [{{enrich: [prices]}}]
dead_letters: {{store: "{store}", keep: {{max: 300}}}}
{more}
"""


def failed(flow: str, count: int, **facts: Any) -> list[DeadLetter]:
    """Letters of a flow that failed at its service yesterday, oldest first."""
    inputs = [json.dumps({"orderId": number}).encode() for number in range(1, count + 1)]
    yesterday = now() - timedelta(days=1)
    facts = {"flow": flow, "step": "prices", "failed_at": yesterday, "started_at": yesterday} | facts
    return [letter(number, input=input, input_size=len(input), **facts) for number, input in enumerate(inputs)]


async def add(store_url: str, letters: list[DeadLetter]) -> None:
    store = create_store(store_url)
    await store.open()
    await store.add(letters)
    await store.aclose()


def test_two_processes_do_with_dead_letters_what_one_does(tmp_path: Path) -> None:
    """Expired letters are deleted once. Each letter is redriven once, automatically or by a job."""
    store = f"sqlite:///{tmp_path}/shop.db"
    asyncio.run(add(store, failed("other", 5, type="TooMany") + failed("other", 300) + failed("shop", 100)))
    outside = Outside()
    with outside.running():
        for name, more in (("shop", "redrive: recovered"), ("other", "")):
            text = LETTERS.format(name=name, port=outside.port, store=store, more=more)
            (tmp_path / f"{name}.yaml").write_text(text)
        files = tmp_path / "shop.yaml", tmp_path / "other.yaml"
        with serving(tmp_path, *files, "--processes", 2, "--process-timeout", 3600, "--dead-letters", store) as server:
            leader = server.event("process.leads")["process"]
            assert server.event("dead_letters.expired", flow="other")["letters"] == 5
            query = json.dumps({"query": {"flow": "other"}}).encode()
            job = server.request("POST", "/dead-letters/redrives", query, Content_Type="application/json").json()
            server.event("redrive.ended", job=job["id"], state="completed", resolved=300)
            probe = server.event("redrive.ended", state="completed", resolved=1)
            rest = server.event("redrive.ended", state="completed", resolved=99)
            assert probe["process"] == rest["process"] == leader
            until(lambda: len(server.logged("redrive.ended")) == 3)
            paths = [
                f"/{name}/{number}" for name, count in (("shop", 100), ("other", 300)) for number in range(1, count + 1)
            ]
            assert outside.calls == Counter(paths)
            assert len(server.logged("dead_letters.expired")) == 1
