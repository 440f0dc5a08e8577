"""The parent of several processes: what it does when they cannot start."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import pytest
from msgspec import msgpack
from structlog.testing import capture_logs

from penstock.settings import Settings
from penstock_http.processes.messages import Start
from penstock_http.processes.parent import Parent
from penstock_http.processes.resources import PROCESS_COUNTS, ProcessCounts
from penstock_http.server.parent_main import roll_on_signal
from penstock_http.server.signals import reload_on_signal
from waiting import until_async

TIMEOUT = 2.0
"""Seconds after which a process that does not answer is killed."""

BRIEF = """
import asyncio, os, signal, socket, sys
from pathlib import Path
from msgspec import msgpack
from penstock_http.processes.member import FAILED, LEAD, RELEASE, Member
from penstock_http.processes.messages import Failed, Question, encode_frame, read_start
from penstock_http.processes.resources import PROCESS_COUNTS

async def done(_):
    return b""

async def serve(start, connection):
    member = Member(start)
    member.on(LEAD, done)
    member.on(RELEASE, done)
    await member.open(connection.dup())
    if Path(__file__).with_name("stuck").exists():
        await member.ask_parent(PROCESS_COUNTS)
        os.kill(os.getpid(), signal.SIGSTOP)
    await member.ready()
    await member.parent_gone()

with socket.socket(fileno=int(sys.argv[1])) as connection:
    start = read_start(connection)
    if Path(__file__).with_name("broken").exists():
        connection.sendall(encode_frame(Question(0, FAILED, msgpack.encode(Failed(2, "it is broken")))))
        sys.exit(2)
    asyncio.run(serve(start, connection))
"""
"""The module of a process that serves nothing, and fails or stops during its start while a file exists."""


@asynccontextmanager
async def started(folder: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Parent]:
    """Two processes, started again without delay when they end."""
    (folder / "brief_process.py").write_text(BRIEF)
    monkeypatch.syspath_prepend(str(folder))
    start = Start(
        0,
        2,
        Settings(processes=2, process_timeout=TIMEOUT),
        (),
        False,
        False,
        -1,
        {},
        tuple(sys.path),
        os.environ.get("PYTHONPATH"),
    )
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


async def test_a_process_that_is_frozen_while_it_starts_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In three times the time of one that serves. Until then no deployment is made."""
    with capture_logs() as logs:
        async with started(tmp_path, monkeypatch) as parent:
            (tmp_path / "stuck").touch()
            parent.kill(1, "the test says so")
            await until_async(lambda: parent.exclusive.locked() and parent.children[1].connected)
            counts = msgpack.decode(await parent._questions.answer(2, PROCESS_COUNTS, b"") or b"", type=ProcessCounts)
            assert (counts.starting, counts.up) == ((1,), {1: False, 2: True})
            (tmp_path / "stuck").unlink()
            await until_async(lambda: parent.running == [1, 2])
    killed = [entry["reason"] for entry in logs if entry["event"] == "process.killed"]
    assert f"no answer for {3 * TIMEOUT:g} s" in killed


async def test_work_of_the_parent_goes_on_after_a_bug(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is logged. What belonged to a process is released, and the process is replaced."""

    class Shared:
        """A resource that fails after the first processes have started."""

        def __init__(self) -> None:
            self.failures = 1

        def attach(self, number: int) -> dict[str, int]:
            if number == 1 and parent.running and self.failures:
                self.failures -= 1
                raise ZeroDivisionError("attach")
            return {}

        def detach(self, number: int) -> None:
            raise ZeroDivisionError("detach")

    released: list[int] = []
    with capture_logs() as logs:
        async with started(tmp_path, monkeypatch) as parent:
            parent.share(Shared())
            parent.on_exit(released.append)
            for _ in range(2):
                parent.kill(1, "the test says so")
                await parent.children[1].wait()
                await until_async(lambda: parent.running == [1, 2])
    assert released[:2] == [1, 1]
    assert any(entry["event"] == "process.ended" and "attach" in str(entry.get("error")) for entry in logs)
    assert any(entry["event"] == "process.release_failed" for entry in logs)


async def test_a_signal_reloads_after_a_bug_too() -> None:
    """In a service of one process and in one of several. The bug is logged."""
    signals = asyncio.Event()
    handled: list[int] = []

    class Broken:
        """A reloader and a parent that fail once."""

        count = 2

        async def try_reload(self, _: str) -> bool:
            return bool(self.running)

        @property
        def running(self) -> list[int]:
            handled.append(len(handled))
            if len(handled) == 1:
                raise ZeroDivisionError("bug")
            return []

    async def send(task: asyncio.Task[None]) -> None:
        handled.clear()
        for count in (1, 2):
            signals.set()
            await until_async(lambda count=count: len(handled) == count)
        task.cancel()
        await asyncio.wait((task,))

    broken = cast(Any, Broken())
    with capture_logs() as logs:
        await send(asyncio.create_task(reload_on_signal(signals, broken, None)))
        await send(asyncio.create_task(roll_on_signal(signals, broken)))
    errors = [entry["error"] for entry in logs if entry["event"] == "reload.failed"]
    assert errors[:2] == ["bug"] * 2
