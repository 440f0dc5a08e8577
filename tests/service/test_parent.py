"""The parent of several processes: what it does when they cannot start."""

from __future__ import annotations

import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from penstock.settings import Settings
from penstock_http.processes.messages import Start
from penstock_http.processes.parent import Parent
from waiting import until_async

BRIEF = """
import asyncio, socket, sys
from pathlib import Path
from msgspec import msgpack
from penstock_http.processes.member import FAILED, LEAD, RELEASE, Member
from penstock_http.processes.messages import Failed, Question, encode_frame, read_start

async def done(_):
    return b""

async def serve(start, connection):
    member = Member(start)
    member.on(LEAD, done)
    member.on(RELEASE, done)
    await member.open(connection.dup())
    await member.ready()
    await member.parent_gone()

with socket.socket(fileno=int(sys.argv[1])) as connection:
    start = read_start(connection)
    if Path(__file__).with_name("broken").exists():
        connection.sendall(encode_frame(Question(0, FAILED, msgpack.encode(Failed(2, "it is broken")))))
        sys.exit(2)
    asyncio.run(serve(start, connection))
"""
"""The module of a process that serves nothing, and cannot start while a file exists."""


@asynccontextmanager
async def started(folder: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Parent]:
    """Two processes, started again without delay when they end."""
    (folder / "brief_process.py").write_text(BRIEF)
    monkeypatch.syspath_prepend(str(folder))
    start = Start(0, 2, Settings(processes=2), (), False, False, -1, {}, tuple(sys.path), os.environ.get("PYTHONPATH"))
    with (folder / "listener").open("w") as listener:
        parent = Parent("brief_process", start, listener.fileno(), max_backoff=0.001, max_failed_starts=1)
        await parent.start()
        try:
            yield parent
        finally:
            parent.stop()
            for child in parent.children.values():
                child.kill("the test ends")
            await parent.wait()
            await parent.aclose()


def failed_starts(logs: Any) -> int:
    """How many processes have ended before they served."""
    return sum(entry["event"] == "process.ended" and entry["how"] == "exit code 2" for entry in logs)


async def test_the_service_ends_when_no_process_can_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise clients would connect, and wait for ever. It goes on as long as one process serves."""
    with capture_logs() as logs:
        async with started(tmp_path, monkeypatch) as parent:
            (tmp_path / "broken").touch()
            parent.kill(1, "the test says so")
            await until_async(lambda: failed_starts(logs) > 2)
            assert not parent.given_up
            parent.kill(2, "the test says so")
            await until_async(parent.stopping.is_set)
            assert parent.given_up
    (given_up,) = [entry for entry in logs if entry["event"] == "processes.given_up"]
    assert (given_up["failed_starts"], given_up["error"]) == (2, "it is broken")
