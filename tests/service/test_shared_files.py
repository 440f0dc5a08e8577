"""Several processes of a service write to one file of dead letters and to one file of a sink."""

from __future__ import annotations

import http.client
import json
import os
import signal
import sqlite3
import threading
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest

from invoking import invoke
from penstock import Flow
from penstock.deadletters import MemoryStore
from penstock.errors import FlowDefinitionError
from penstock.settings import Settings
from penstock_http.server.bootstrap import check_store
from service.conftest import Serve
from service.processes import Process
from stores.children import writers_of
from waiting import HANG_SECONDS, until

FLOW = """
flow: numbers
item: {id: integer}
steps:
  - to: {file: out.ndjson}
  - map: 1 / (value.id % 2)
"""


class Upload(threading.Thread):
    """Sends numbers until the response ends or is cut; keeps the records that it received."""

    def __init__(self, server: Process, first: int) -> None:
        super().__init__()
        self.records: list[dict[str, Any]] = []
        self._server = server
        self._first = first
        self.start()

    def run(self) -> None:
        numbers = range(self._first, self._first + 10_000)
        body = "".join(f'{{"id": {number}}}\n' for number in numbers).encode()
        connection = http.client.HTTPConnection(self._server.host, self._server.port, timeout=HANG_SECONDS)
        with closing(connection), suppress(OSError, http.client.HTTPException, ValueError):  # its process may be killed
            connection.request("POST", "/numbers/bulk", body, {"Content-Type": "application/x-ndjson"})
            for line in connection.getresponse():
                self.records.append(json.loads(line))

    @property
    def completed(self) -> bool:
        return bool(self.records) and "end" in self.records[-1]


def test_a_process_and_the_writer_are_killed_and_nothing_that_clients_received_is_missing(
    serve: Serve, tmp_path: Path
) -> None:
    """Each failed number has one dead letter, and each number that was reported is in the file, on a complete line."""
    flow, out = tmp_path / "numbers.yaml", tmp_path / "out.ndjson"
    flow.write_text(FLOW.replace("out.ndjson", str(out)))
    server = serve(flow, "--processes", 2)
    uploads = [Upload(server, first) for first in range(0, 60_000, 10_000)]
    until(lambda: all(len(upload.records) > 100 for upload in uploads))

    (writer,) = writers_of(server.pid)
    os.kill(writer, signal.SIGKILL)
    victim = server.members()[1]
    os.kill(victim, signal.SIGKILL)
    for upload in uploads:
        upload.join(HANG_SECONDS)
    server.event("process.restarted")
    uploads += [Upload(server, first) for first in (60_000, 70_000)]
    for upload in uploads:
        upload.join(HANG_SECONDS)
    assert server.stop() == 0

    assert all(upload.completed for upload in uploads[-2:])
    records = [record for upload in uploads for record in upload.records if "ok" in record]
    lines = out.read_bytes().split(b"\n")
    assert lines.pop() == b""
    written = [json.loads(line)["id"] for line in lines]
    reported = [upload._first + record["seq"] for upload in uploads for record in upload.records if "ok" in record]
    assert set(reported) <= set(written)
    assert len(set(written)) == len(written)
    with closing(sqlite3.connect(tmp_path / "letters.db")) as database:
        stored = [row[0] for row in database.execute("SELECT id FROM letters")]
    assert {record["deadLetter"] for record in records if not record["ok"]} <= set(stored)
    assert len(set(stored)) == len(stored)


def test_letters_in_memory_are_refused_with_several_processes() -> None:
    """Each process would have its own: the command says so, and the loader does for a flow that names such a store."""
    result = invoke("serve", "--processes", 2, "--dead-letters", "memory")
    assert result.exit_code == 2
    assert "dead letters in memory: each of 2 processes would have its own" in result.stderr
    for store in ("memory", MemoryStore()):
        flow = Flow[Any]("f").dead_letters(store)
        check_store(flow.store, Settings())
        with pytest.raises(FlowDefinitionError, match="use sqlite:///FILE or a server"):
            check_store(flow.store, Settings(processes=2))
