"""Flows in Python, served by their names: `penstock serve module:name`."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from service.conftest import Serve
from service.processes import ROOT
from service.test_reload import hang_up, outcomes, run
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


def test_flows_of_modules_are_served_beside_those_of_files(serve: Serve, env: dict[str, str], tmp_path: Path) -> None:
    """With letters, metrics and workers, as any other; a reload leaves them as they are, and loads the files."""
    file = tmp_path / "more.yaml"
    file.write_text("flow: more\n")
    server = serve("--workers", 2, "shop:halves", "shop:made", file, env=env)

    samples = server.ask("GET", "/halves/bulk?count=4")
    sent = server.ask("POST", "/halves/bulk", b'{"n":4}\n{"n":"x"}\n', Content_Type=NDJSON)
    worker = server.event("run.ended", flow="made", kind="worker")
    file.write_text("flow: more\norder: input\n")

    assert (samples.end["ok"], samples.end["failed"], sent.end["ok"], sent.end["failed"]) == (3, 1, 1, 1)
    assert server.ask("GET", "/dead-letters").json()["letters"][0]["error"]["step"] == "half"
    assert (worker["ok"], worker["revision"]) == (3, 1)
    assert outcomes(hang_up(server)) == {"halves": "unchanged", "made": "unchanged", "more": "accepted"}
    assert server.ask("GET", "/orders/bulk").status == 404
    assert server.ask("GET", "/flows/halves").json()["revisions"][0]["source"] == "shop:halves"


def test_settings_are_for_what_a_flow_in_python_leaves_open(serve: Serve, env: dict[str, str]) -> None:
    """A window of its own, and a store, stay; `--workers 0` turns its workers off."""
    server = serve("--window", 5, "--workers", 0, "shop:halves", "shop:narrow", "shop:made", env=env)

    halves, narrow, made = (server.ask("GET", f"/flows/{name}").json() for name in ("halves", "narrow", "made"))

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


def lock(value):  # as another process would do it: the outlet does not know of it
    fcntl.flock(held, fcntl.LOCK_EX)
    return value


flow = Flow("locking").map(lock).to(FileSink("{0}"))
"""


def test_a_lock_that_stays_ends_the_response_as_failed(serve: Serve, env: dict[str, str], tmp_path: Path) -> None:
    """With the sentence in the end record, and no dead letters; the service goes on."""
    (tmp_path / "locking.py").write_text(LOCKING.format(tmp_path / "out.ndjson"))
    server = serve("locking:flow", env=env, excused=("run.failed",))

    sent = server.ask("POST", "/locking/bulk", b"1\n2\n", Content_Type=NDJSON)

    assert (sent.end["reason"], sent.end["cancelled"], sent.end["failed"]) == ("failed", 2, 0)
    assert "out.ndjson cannot be written: another process has been writing to it for 0.2 s" in sent.end["error"]
    assert server.ask("GET", "/dead-letters").json()["letters"] == []
    assert server.ask("GET", "/health/ready").status == 200


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["shop:broken"], "shop:broken broke: ZeroDivisionError: division by zero"),
        (["shop:gone"], "shop has no gone; name a flow in it: shop:NAME"),
        (["shop:number"], "shop:number is no flow but int"),
        (["nowhere:flow"], "there is no module nowhere"),
        (["shop:halves", "shop:halves"], "there is a flow 'halves' in shop:halves already"),
        (["shop:halves", "--watch"], "--watch needs flow files"),
    ],
)
def test_what_is_no_flow_is_said_in_a_sentence(
    env: dict[str, str], monkeypatch: pytest.MonkeyPatch, words: list[str], said: str
) -> None:
    """Exit code 2, before anything is started."""
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    done = run("serve", "--port", "0", "--dead-letters", "memory:", *words)
    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_all_that_is_no_flow_is_said_at_once(
    env: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of Python and of files: one start is enough to hear of all of it."""
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    bad = tmp_path / "bad.yaml"
    bad.write_text("flow: bad\nky: id\n")
    done = run("serve", "--port", "0", "--dead-letters", "memory:", str(bad), "shop:broken", "shop:halves", "shop:gone")
    told = done.stderr.splitlines()
    assert done.returncode == 2
    assert [line.split(": ")[0] for line in told] == ["penstock serve"] * 3
    assert "shop:broken broke" in told[0]
    assert "shop has no gone" in told[1]
    assert "bad.yaml:2:1: found" in told[2]
