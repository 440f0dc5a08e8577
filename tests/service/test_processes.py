"""`penstock serve --processes 2`: a stuck, killed, replaced or stopped process loses nothing that others can do."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections import Counter
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest

from service.conftest import Serve
from service.processes import Process, until
from service.test_all_processes import YAML, frozen
from service.test_shutdown import STUCK, await_delivery
from service.wire import NDJSON, Client, orders
from stores.children import command_of, running

TWO = ("--processes", 2)

WAITING = """
import asyncio
from pathlib import Path

async def for_file(order):
    Path(__file__).with_name("begun").touch()
    while not Path(__file__).with_name("continue").exists():
        await asyncio.sleep(0.01)
    return order
"""
"""A module with a step that waits for a file."""


def begin(server: Process, stack: ExitStack, count: int = 1) -> Any:
    """Start an upload on a new connection, read the results of its first orders, and leave it open."""
    client = stack.enter_context(server.connect())
    client.upload()
    response = client.response()
    client.chunk(orders(count))
    for _ in range(count):
        response.next()
    return response


def test_a_frozen_process_hurts_no_new_request(serve: Serve) -> None:
    """All of 100 new requests are answered while a process is stopped. Then it is killed, and replaced."""
    server = serve(*TWO, "--process-timeout", 5)
    frozen = server.members()[2]
    os.kill(frozen, signal.SIGSTOP)
    assert [server.post({"orderId": 1}).end["ok"] for _ in range(100)] == [1] * 100
    killed = server.event("process.killed", process=2)
    assert (killed["pid"], killed["reason"]) == (frozen, "no answer for 5 s")
    until(lambda: server.members().get(2, frozen) != frozen)
    assert not running(frozen)


def test_a_killed_process_is_replaced_and_another_one_leads(serve: Serve) -> None:
    """Its streams are cut, those of the others are not."""
    server = serve(*TWO, "--process-timeout", 3600)
    leader = server.event("process.leads")
    with ExitStack() as stack:
        streams = []
        for pid in server.members().values():
            with frozen(pid):  # so that the other one accepts them
                streams += [begin(server, stack) for _ in range(2)]
        os.kill(leader["pid"], signal.SIGKILL)
        server.event("process.ended", process=leader["process"], how="signal 9")
        server.event("process.leads", process=3 - leader["process"])
        until(lambda: len(server.members()) == 2)
        for stream in streams:
            with suppress(OSError):
                stream.client.chunk(b"")
        assert {stream.complete().cut for stream in streams} == {False, True}
    assert server.post({"orderId": 1}).end["ok"] == 1


def test_replacing_all_processes_loses_no_request_and_cuts_no_stream(serve: Serve) -> None:
    """SIGHUP twice under load, on connections that are kept alive and on new ones, with open streams."""
    server = serve(*TWO, "--stall-timeout", 600)
    first = set(server.members().values())
    done = threading.Event()
    answered: Counter[str] = Counter()
    errors: list[object] = []

    def load(name: str, keep: bool) -> None:
        client: Client | None = None
        try:
            while not done.is_set():
                client = client or server.connect()
                client.request("POST", "/orders/bulk", orders(2), Content_Type=NDJSON)
                response = client.response().complete()
                assert response.end["ok"] == 2, response
                assert not response.cut
                answered[name] += 1
                done.wait(0.01)
                if not keep or response.headers.get("connection") == "close":
                    client.close()
                    client = None
        except BaseException as error:
            errors.append(error)
        finally:
            if client is not None:
                client.close()

    threads = [
        threading.Thread(target=load, args=(f"{keep} {number}", keep)) for keep in (True, False) for number in (1, 2)
    ]
    with ExitStack() as stack:
        streams = [begin(server, stack) for _ in range(2)]
        for thread in threads:
            thread.start()
        server.signal(signal.SIGHUP)
        until(lambda: len(server.logged("process.replaced")) == 2)
        for stream in streams:  # they are as old as the first processes
            stream.client.chunk(orders(1, start=2))
            assert stream.next()["ok"]
            stream.client.chunk(b"")
            assert (stream.complete().end["reason"], stream.end["ok"]) == ("completed", 2)
        server.signal(signal.SIGHUP)
        until(lambda: len(server.logged("process.replaced")) == 4)
        before = answered.copy()
        until(lambda: all(answered[name] > before[name] for name in before))
        done.set()
        for thread in threads:
            thread.join()
    assert not errors
    assert len(answered) == 4
    until(lambda: len(server.logged("process.retired")) == 4)
    assert {event["how"] for event in server.logged("process.retired")} == {"exit code 0"}
    assert not any(running(pid) for pid in first)
    assert not server.logged("process.ended")


def test_a_worker_that_has_run_once_does_not_run_again_in_the_next_leader(serve: Serve, tmp_path: Path) -> None:
    """Until its flow changes, as with one process. The others go on when they would have run."""
    file, out = tmp_path / "once.yaml", tmp_path / "out.ndjson"

    def write(mark: int) -> None:
        workers = "{once: {source: {generate: 3}}, daily: {source: {generate: 2}, every: 24h}}"
        steps = f"[{{set: {{mark: {mark}}}}}, {{to: {{file: {out}}}}}]"
        file.write_text(f"flow: once\nsamples: {{n: seq}}\nworkers: {workers}\nsteps: {steps}\n")

    def reload(times: int) -> None:
        server.signal(signal.SIGHUP)
        until(lambda: len(server.logged("process.retired")) == 2 * times)
        until(lambda: len(server.logged("reload.completed", processes=2)) == times)

    write(1)
    server = serve(*TWO, "--workers", 1, file)
    until(lambda: len(server.logged("run.ended", kind="worker")) == 2)
    reload(1)
    for event in server.logged("workers.continued"):
        assert (event["finished"], list(event["due"])) == (["once"], ["daily"])
    os.kill(server.logged("process.leads")[-1]["pid"], signal.SIGKILL)
    server.event("process.restarted")
    write(2)
    reload(2)
    until(lambda: len(server.logged("run.ended", kind="worker")) >= 4)
    server.stop()
    marks = Counter(json.loads(line)["mark"] for line in out.read_text().splitlines())
    assert marks == {1: 5, 2: 5}


def test_the_reload_timeout_ends_streams_of_replaced_processes(serve: Serve) -> None:
    """They are drained then, as after SIGTERM, and their end record says so."""
    server = serve(*TWO, "--reload-timeout", 0.1)
    with ExitStack() as stack:
        streams = [begin(server, stack) for _ in range(2)]
        server.signal(signal.SIGHUP)
        assert [stream.complete().end["reason"] for stream in streams] == ["draining"] * 2
    until(lambda: len(server.logged("process.retired")) == 2)


def test_a_flow_file_with_errors_changes_no_process(serve: Serve, tmp_path: Path) -> None:
    """Those that serve the last valid version stay, and those that replace them after a crash serve it too."""

    def mark() -> int:
        """What the flow of the file sets. Also checks the uploaded one."""
        responses = [
            server.request("POST", f"/{name}/bulk", b'{"n":1}\n', Content_Type=NDJSON) for name in ("up", "marks")
        ]
        assert responses[0].results[0]["value"]["mark"] == 7
        return int(responses[1].results[0]["value"]["mark"])

    file = tmp_path / "marks.yaml"
    file.write_text("flow: marks\nitem: {n: integer}\nsteps: [{set: {mark: 1}}]\n")
    server = serve(*TWO, file)
    assert server.request("PUT", "/flows/up", b"flow: up\nsteps: [{set: {mark: 7}}]\n", **YAML).status == 201
    before = server.members()
    file.write_text("flow: marks\nsteps: [{sett: 1}]\n")
    server.signal(signal.SIGHUP)
    assert "sett" in server.event("reload.failed", cause="signal")["error"]
    until(lambda: len(server.logged("flow.invalid")) == 2)
    for _ in range(4):
        assert server.request("GET", "/flows/marks").json()["lastReload"]["outcome"] == "rejected"
    assert (
        b'penstock_flow_reloads_total{flow="marks",outcome="rejected",process="2"} 1'
        in server.request("GET", "/metrics").body
    )
    assert server.members() == before
    for pid in before.values():
        os.kill(pid, signal.SIGKILL)
    until(lambda: len(server.logged("process.restarted")) == 2)
    assert [mark() for _ in range(4)] == [1] * 4
    assert {event["how"] for event in server.logged("process.ended")} == {"signal 9"}
    file.write_text("flow: marks\nitem: {n: integer}\nsteps: [{set: {mark: 2}}]\n")
    server.signal(signal.SIGHUP)
    server.event("reload.completed", cause="signal")
    assert [mark() for _ in range(4)] == [2] * 4


def test_one_report_adds_up_the_shutdown_of_all_processes(serve: Serve) -> None:
    """Runs of each are drained, and the parent exits last."""
    server = serve(*TWO, "--grace-period", 60)
    pids = server.members().values()
    with ExitStack() as stack:
        streams = [begin(server, stack, count) for count in (2, 3)]
        server.signal(signal.SIGTERM)
        assert [stream.complete().end["received"] for stream in streams] == [2, 3]
    assert server.wait() == 0
    (report,) = server.logged("shutdown.completed")
    assert (report["forced"], report["runs"], report["reasons"]) == (False, 2, {"draining": 2})
    assert (report["received"], report["processes"], server.events[-1]) == (5, 2, report)
    assert not any(running(pid) for pid in pids)


def test_a_second_signal_aborts_in_all_processes(serve: Serve) -> None:
    """However soon it comes."""
    server = serve(*TWO, "--latency-scale", 1000, "--grace-period", 600)
    with ExitStack() as stack:
        streams = []
        for _ in range(2):
            client = stack.enter_context(server.connect())
            client.upload()
            client.chunk(orders(3))
            streams.append(client.response())
        server.signal(signal.SIGTERM)
        server.signal(signal.SIGINT)
        assert all(stream.complete().cut for stream in streams)
    assert server.wait() == 1
    (report,) = server.logged("shutdown.completed")
    assert (report["forced"], report["reasons"], report["processes"]) == (True, {"aborted": 2}, 2)


@pytest.mark.parametrize("ending", ["third signal", "exit timeout", "parent killed"])
def test_no_process_outlives_its_parent(tmp_path: Path, ending: str) -> None:
    """Not even a stuck one: all are gone with the third signal, or in time after the first one."""
    (tmp_path / "stuck.py").write_text(STUCK)
    (tmp_path / "orders.yaml").write_text("flow: orders\nsteps: [{tap: 'stuck:in_python'}]\n")
    seconds = 0.2 if ending == "exit timeout" else 1000
    timeouts = ("--grace-period", seconds, "--exit-timeout", seconds, "--process-timeout", 1000)
    flags = ("--port", 0, "--dead-letters", f"sqlite:///{tmp_path}/x.db", *timeouts, tmp_path)
    server = Process("serve", *TWO, *flags)
    try:
        server.listen()
        pids = server.members().values()
        with server.connect() as client:
            if ending != "parent killed":  # a stuck process notices nothing
                client.upload()
                client.chunk(orders(1))
                until((tmp_path / "begun").exists)
            if ending == "parent killed":
                server.popen.kill()
            for _ in range({"third signal": 3, "exit timeout": 1, "parent killed": 0}[ending]):
                server.signal(signal.SIGTERM)
                await_delivery(server.pid, signal.SIGTERM)
            assert server.wait() == (-signal.SIGKILL if ending == "parent killed" else 1)
            until(lambda: not any(running(pid) for pid in pids))
    finally:
        server.close()


def test_a_shutdown_goes_on_when_the_parent_is_killed(tmp_path: Path) -> None:
    """It is no second signal: what is in flight is finished."""
    (tmp_path / "waiting.py").write_text(WAITING)
    services = "services: {wait: {call: 'waiting:for_file', timeout: 600s}}\n"
    (tmp_path / "orders.yaml").write_text(f"flow: orders\n{services}steps: [{{map_async: wait}}]\n")
    flags = "--port", 0, "--dead-letters", f"sqlite:///{tmp_path}/x.db", "--grace-period", 600
    server = Process("serve", *TWO, *flags, tmp_path)
    try:
        server.listen()
        pids = server.members().values()
        with server.connect() as client:
            client.upload()
            client.chunk(orders(1))
            until((tmp_path / "begun").exists)
            server.signal(signal.SIGTERM)
            until(lambda: len(server.logged("shutdown.phase", phase="draining")) == 3)
            server.popen.kill()
            until(lambda: server.logged("process.parent_gone"))
            (tmp_path / "continue").touch()
            response = client.response().complete()
            assert (response.end["reason"], response.end["ok"]) == ("draining", 1)
        until(lambda: not any(running(pid) for pid in pids))
    finally:
        server.close()


def test_errors_of_the_start_are_printed_once(tmp_path: Path) -> None:
    """With the exit code that one process has, and no process is left."""
    (tmp_path / "wrong.yaml").write_text("flow: wrong\nsteps: [{sett: 1}]\n")
    flags = ("--port", 0, "--dead-letters", f"sqlite:///{tmp_path}/x.db", tmp_path)
    alone, several = (Process("serve", "--processes", count, *flags) for count in (1, 2))
    try:
        assert (alone.wait(), several.wait()) == (2, 2)
        assert alone.noise
        assert several.noise == alone.noise
    finally:
        alone.close()
        several.close()


def test_no_secret_is_in_the_arguments_of_a_process(tmp_path: Path) -> None:
    """Settings go through a socket. Python itself is started here; other tests fork the processes."""
    flags = "--port", 0, "--workers", 0, "--dead-letters", f"sqlite:///{tmp_path}/x.db"
    server = Process("serve", *TWO, *flags, "--pricing-url", "http://hidden-5e1f@127.0.0.1:1/{orderId}", prefix=["env"])
    try:
        server.listen()
        for pid in server.members().values():
            assert b"penstock_http.server.member_main" in command_of(pid)
            assert b"hidden-5e1f" not in command_of(pid)
            assert b"hidden-5e1f" not in Path(f"/proc/{pid}/environ").read_bytes()
        assert server.post({"orderId": 1}).end["failed"] == 1
        assert server.stop() == 0
    finally:
        server.close()
