"""One flow gives the same results over HTTP, as a worker, with `penstock run` and with `stream()`."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

import forking
from penstock import ndjson
from penstock.flowfile import load
from service.conftest import Serve
from service.processes import until
from waiting import HANG_SECONDS

FLOW = """
flow: parcels
key: id
item: {id: {type: integer, minimum: 1}, kg: number}
services:
  label: {call: "json:dumps", attempts: 2, backoff: none}
  stock: {call: "parcel_services:stock", attempts: 2, backoff: none}
steps:
  - filter: value.kg > 0.0
  - enrich: [stock, label]
  - route:
      heavy: {when: value.kg > 30.0, steps: [{set: {truck: "true"}}], final: true}
  - map: {id: value.id, shelves: 'value.stock.shelves', each: '10 / value.stock.shelves'}
  - to: {file: OUT, format: ndjson}
dead_letters: sqlite:///DB
workers:
  once: {source: {file: IN, format: ndjson}}
"""

SERVICES = """
async def stock(parcel):
    if parcel["id"] % 5 == 0:
        raise LookupError(f"no shelf for {parcel['id']}")
    return {"shelves": parcel["id"] % 3}
"""

Outcome = dict[str, Any]


def items() -> list[bytes]:
    """Valid, slow, filtered and invalid items, and items that fail in three steps."""
    lines = [json.dumps({"id": n, "kg": [0.5, 40.0, 0.0, 7.0][n % 4]}).encode() for n in range(1, 41)]
    return [*lines, b"{}", b"oops", b'{"id":0,"kg":1}', b'{"id":1,"kg":"much"}']


@pytest.fixture
def flow(tmp_path: Path) -> Path:
    """The flow file, in a folder with its module and its input."""
    text = FLOW.replace("OUT", str(tmp_path / "out")).replace("DB", str(tmp_path / "letters.db"))
    (tmp_path / "parcel_services.py").write_text(SERVICES)
    (tmp_path / "in").write_bytes(b"\n".join(items()) + b"\n")
    file = tmp_path / "parcels.yaml"
    file.write_text(text.replace("IN", str(tmp_path / "in")))
    return file


def comparable(records: list[Outcome]) -> dict[int, Outcome]:
    """The outcome of each item by its number, without what differs between runs."""
    return {
        record["seq"]: {name: value for name, value in record.items() if name != "deadLetter"}
        for record in records
        if "seq" in record
    }


def streamed(file: Path) -> list[Outcome]:
    """With a loop in a program."""

    async def body() -> AsyncIterator[bytes]:
        yield b"\n".join(items())

    async def main() -> list[Outcome]:
        found: list[Outcome] = []
        async for result in load(file).flow.stream(ndjson(body())):
            record: Outcome = {"ok": result.ok, "seq": result.seq}
            if result.ok:
                found.append(record | {"value": result.value})
                continue
            error = {name: getattr(result.failure, name) for name in ("step", "type", "message", "attempts")}
            found.append(record | ({} if result.key is None else {"key": result.key}) | {"error": error})
        return found

    return asyncio.run(main())


def run_by_command(file: Path) -> list[Outcome]:
    """With `penstock run`."""
    done = forking.run(
        "run", str(file), "--quiet", input=b"\n".join(items()), capture_output=True, timeout=HANG_SECONDS
    )
    assert done.returncode == 1, done.stderr  # some items fail by design
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_every_runner_gives_the_same_outcome_for_each_item(flow: Path, serve: Serve) -> None:
    """The same values, failures and filtered items."""
    by_stream = comparable(streamed(flow))
    by_command = comparable(run_by_command(flow))
    delivered = (flow.parent / "out").read_bytes().splitlines()
    server = serve(flow, "--workers", 1)
    ended = server.event("run.ended", kind="worker")
    until(lambda: (flow.parent / "out").read_bytes().count(b"\n") == len(delivered) // 2 * 3)
    by_worker = [json.loads(line) for line in (flow.parent / "out").read_bytes().splitlines()[len(delivered) :]]
    response = server.request("POST", "/parcels/bulk", b"\n".join(items()), Content_Type="application/x-ndjson")
    by_http = comparable([json.loads(line) for line in response.body.splitlines()])

    failures = {seq: one["error"] for seq, one in by_stream.items() if not one["ok"]}
    letters = server.request("GET", f"/dead-letters?run={ended['run']}&limit=100").json()["letters"]
    assert {one["error"]["step"] for one in by_stream.values() if not one["ok"]} == {"decode", "stock", "map"}
    assert by_command == by_stream
    assert by_http == by_stream
    assert {
        letter["seq"]: {name: letter["error"][name] for name in ("step", "type", "message", "attempts")}
        for letter in letters
    } == failures
    assert sorted(value["id"] for value in by_worker) == sorted(
        one["value"]["id"] for one in by_stream.values() if one["ok"] and "truck" not in one["value"]
    )
    assert (ended["ok"], ended["failed"], ended["filtered"]) == (
        len(by_stream) - len(failures),
        len(failures),
        len(items()) - len(by_stream),
    )
