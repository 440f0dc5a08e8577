"""Delivery after a crash, as the README documents it: directory sources and file sinks deliver at least once."""

from __future__ import annotations

import os
import signal
import subprocess
from collections import Counter
from pathlib import Path

import pytest

from commands.killing import prepare, records, start
from waiting import until

COUNT = 1500

COPYING = """\
flow: copies
key: id
item: {id: integer}
window: 64
services:
  look_up: {call: "work:look_up"}
steps:
  - enrich: [look_up]
  - to: {file: rows.ndjson}
workers:
  inbox: {source: {directory: inbox, poll_interval: 100ms}}
"""

PAUSE = """\
import asyncio


async def look_up(value):
    await asyncio.sleep(0.02)
    return value["id"]
"""


@pytest.mark.long
def test_a_file_of_a_directory_is_written_to_a_sink_at_least_once(tmp_path: Path) -> None:
    """After kill -9 the file is read again from its start: no row is missing, and some may be there twice."""
    prepare(tmp_path, COUNT, COPYING)
    (tmp_path / "work.py").write_text(PAUSE)
    (tmp_path / "inbox").mkdir()
    (tmp_path / "in.ndjson").rename(tmp_path / "inbox" / "a.ndjson")
    os.utime(tmp_path / "inbox" / "a.ndjson", (1, 1))  # it has not been written to for a long time
    rows = tmp_path / "rows.ndjson"

    killed = work(tmp_path)
    until(lambda: killed.poll() is not None or (rows.exists() and rows.stat().st_size > 5000))
    killed.send_signal(signal.SIGKILL)
    assert killed.wait() == -signal.SIGKILL
    assert (tmp_path / "inbox" / "a.ndjson").exists()

    again = work(tmp_path)
    until(lambda: again.poll() is not None or (tmp_path / "inbox" / "done" / "a.ndjson").exists())
    again.send_signal(signal.SIGTERM)
    again.wait()

    written = Counter(row["id"] for row in records(rows.read_bytes()))
    assert set(written) == set(range(COUNT))
    assert sum(written.values()) > COUNT


def work(folder: Path) -> subprocess.Popen[bytes]:
    """Start the worker of the flow, which runs until it is ended."""
    return start(folder, "run", "flow.yaml", "--worker", "inbox", "--quiet", stdout=subprocess.DEVNULL)
