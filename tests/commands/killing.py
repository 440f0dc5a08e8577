"""Processes of `penstock run` for the tests: run to their end, or killed at a moment of the test's choosing."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import forking
from waiting import HANG_SECONDS, ending

ROOT = Path(__file__).parents[2]
SECONDS = HANG_SECONDS

STARTED: list[subprocess.Popen[bytes]] = []
"""The processes that the running test has started; the fixture in conftest.py ends them."""

WORK = '''\
"""Work whose order of completion, and what fails of it, is left to chance."""

import asyncio
import random


class Refused(Exception):
    pass


async def look_up(value):
    await asyncio.sleep(random.expovariate(1 / 0.004) if value["id"] % 97 else 0.15)
    if random.random() < 0.1 if "part" not in value else value["id"] % 11 == 5:
        raise Refused(f"no {value['id']}")
    return value["id"] * 3
'''

FLOW = """\
flow: work
key: id
item: {id: integer}
window: 64
services:
  look_up: {call: "work:look_up"}
steps:
  - filter: value.id % 13 != 4
  - enrich: [look_up]
  - map: {id: value.id, thrice: value.look_up}
dead_letters: sqlite:///letters.db
"""

PARTS = """\
flow: parts
key: id
item: {id: integer}
window: 64
services:
  look_up: {call: "work:look_up"}
steps:
  - flat_map: "[{'id': value.id, 'part': 0}, {'id': value.id, 'part': 1}, {'id': value.id, 'part': 2}]"
  - filter: value.id % 5 != 1 || value.part != 1
  - enrich: [look_up]
  - map: {id: value.id, part: value.part, thrice: value.look_up}
dead_letters: sqlite:///letters.db
"""


CLOCK = """\
# Python imports this module at start, before anything else: a wall clock that is set back while a file exists.
import os
import time

real = time.time_ns
time.time_ns = lambda: real() - (7200 * 10**9 if os.path.exists("clock-set-back") else 0)
"""
"""The text of a `sitecustomize.py` in the folder that `start` is given."""


def prepare(folder: Path, count: int, flow: str = FLOW) -> None:
    """Put a flow, what it needs, and an input of so many items in a folder."""
    (folder / "work.py").write_text(WORK)
    (folder / "flow.yaml").write_text(flow)
    (folder / "in.ndjson").write_text("".join(f'{{"id":{number}}}\n' for number in range(count)))


def start(folder: Path, *words: str, **options: Any) -> subprocess.Popen[bytes]:
    """Start `penstock WORDS` in a folder, whose modules are found first. It is ended after the test at the latest."""
    clean = forking.environment()
    process = forking.start(
        *words,
        cwd=folder,
        env=clean | {"PYTHONPATH": os.pathsep.join(map(str, (folder, ROOT / "flows", ROOT / "http")))},
        **options,
    )
    STARTED.append(process)
    return process


def run(folder: Path, *words: str, stdin: bytes = b"") -> tuple[int, bytes, str]:
    """Run `penstock WORDS` in a folder; gives its exit code, and what it wrote."""
    process = start(folder, *words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    with ending(process):
        out, err = process.communicate(stdin, SECONDS)
    return process.returncode, out, err.decode()


def records(data: bytes) -> list[dict[str, Any]]:
    """The lines of an output; the last one has to be whole."""
    assert not data or data.endswith(b"\n")
    return [json.loads(line) for line in data.splitlines()]
