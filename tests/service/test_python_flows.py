"""Flows in Python: `penstock serve module:name`."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from service.conftest import Serve
from service.processes import ROOT
from service.test_reload import outcomes, reload, run
from service.wire import NDJSON

MODULE = """
from typing import TypedDict

from penstock import Flow, Service, from_iterable


class Item(TypedDict):
    n: int


async def half(item):
    if item["n"] % 3 == 0:
        raise LookupError("no thirds")
    return item["n"] / 2


halves = Flow("halves", Item, key="n").enrich(half=Service("half", half)).samples(lambda n: {"n": n})
narrow = Flow("narrow").window(7).dead_letters("memory:")


def made():
    return Flow("made").worker("W", from_iterable([1, 2, 3]))


def broken():
    return 1 / 0


number = 7
"""


@pytest.fixture
def env(tmp_path: Path) -> dict[str, str]:
    """The environment in which the module is found."""
    (tmp_path / "shop.py").write_text(MODULE)
    return {"PYTHONPATH": os.pathsep.join(map(str, (tmp_path, ROOT / "flows", ROOT / "http")))}


def test_flows_in_python_are_served_beside_flow_files(serve: Serve, env: dict[str, str], tmp_path: Path) -> None:
    """With dead letters, metrics and workers, like others; a reload leaves them as they are, and reloads the files."""
    file = tmp_path / "more.yaml"
    file.write_text("flow: more\n")
    server = serve("--workers", 2, "shop:halves", "shop:made", file, env=env)

    samples = server.request("GET", "/halves/bulk?count=4")
    sent = server.request("POST", "/halves/bulk", b'{"n":4}\n{"n":"x"}\n', Content_Type=NDJSON)
    worker = server.event("run.ended", flow="made", kind="worker")
    file.write_text("flow: more\norder: input\n")

    assert (samples.end["ok"], samples.end["failed"], sent.end["ok"], sent.end["failed"]) == (3, 1, 1, 1)
    assert server.request("GET", "/dead-letters").json()["letters"][0]["error"]["step"] == "half"
    assert (worker["ok"], worker["revision"]) == (3, 1)
    assert outcomes(reload(server)) == {"halves": "unchanged", "made": "unchanged", "more": "accepted"}
    assert server.request("GET", "/orders/bulk").status == 404
    assert server.request("GET", "/flows/halves").json()["revisions"][0]["source"] == "shop:halves"


def test_settings_are_defaults_for_flows_in_python(serve: Serve, env: dict[str, str]) -> None:
    """A window and a store of the flow have precedence; `--workers 0` removes its workers."""
    server = serve("--window", 5, "--workers", 0, "shop:halves", "shop:narrow", "shop:made", env=env)

    halves, narrow, made = (server.request("GET", f"/flows/{name}").json() for name in ("halves", "narrow", "made"))

    assert [flow["window"]["elements"] for flow in (halves, narrow, made)] == [5, 7, 5]
    assert halves["deadLetters"].startswith("sqlite:")
    assert narrow["deadLetters"] == "memory:"
    assert made["workers"] == []


LOCKING = """
import fcntl

import penstock.sinks.shared
from penstock import Flow
from penstock.sinks import FileSink

penstock.sinks.shared.LOCK_SECONDS = 0.2
held = open("{0}", "ab")


def lock(value):  # like another process, without the sink
    fcntl.flock(held, fcntl.LOCK_EX)
    return value


flow = Flow("locking").map(lock).to(FileSink("{0}"))
"""


def test_an_output_file_that_stays_locked_ends_the_response_as_failed(
    serve: Serve, env: dict[str, str], tmp_path: Path
) -> None:
    """The end record has the message, no dead letters are stored, and the service continues."""
    (tmp_path / "locking.py").write_text(LOCKING.format(tmp_path / "out.ndjson"))
    server = serve("locking:flow", env=env, excused=("run.failed",))

    sent = server.request("POST", "/locking/bulk", b"1\n2\n", Content_Type=NDJSON)

    assert (sent.end["reason"], sent.end["cancelled"], sent.end["failed"]) == ("failed", 2, 0)
    assert "out.ndjson cannot be written to: another process has been writing to it for 0.2 s" in sent.end["error"]
    assert server.request("GET", "/dead-letters").json()["letters"] == []
    assert server.request("GET", "/health/ready").status == 200


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["shop:broken"], "shop:broken failed: ZeroDivisionError: division by zero"),
        (["shop:gone"], "shop has no gone; name a flow in it: shop:NAME"),
        (["shop:number"], "shop:number: expected a flow, or a function that returns one, got int"),
        (["nowhere:flow"], "the module nowhere does not exist"),
        (["shop:halves", "shop:halves"], "flow 'halves' is already defined in shop:halves"),
        (["shop:halves", "--watch"], "--watch needs at least one flow file"),
    ],
)
def test_an_invalid_flow_in_python_is_an_error(
    env: dict[str, str], monkeypatch: pytest.MonkeyPatch, words: list[str], message: str
) -> None:
    """Exit code 2 and one sentence, before anything starts."""
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    done = run("serve", "--port", "0", "--dead-letters", "memory:", *words)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_all_errors_of_python_and_files_are_reported_together(
    env: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One start shows all of them."""
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    bad = tmp_path / "bad.yaml"
    bad.write_text("flow: bad\nky: id\n")
    done = run("serve", "--port", "0", "--dead-letters", "memory:", str(bad), "shop:broken", "shop:halves", "shop:gone")
    lines = done.stderr.splitlines()
    assert done.returncode == 2
    assert [line.split(": ")[0] for line in lines] == ["penstock serve"] * 3
    assert "shop:broken failed: ZeroDivisionError" in lines[0]
    assert "shop has no gone" in lines[1]
    assert 'bad.yaml:2:1: unknown key "ky"' in lines[2]
