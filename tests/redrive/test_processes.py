"""Redrives of a SQLite file by several processes, one of which is killed."""

from __future__ import annotations

import asyncio
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import forking
from penstock.deadletters import DeadLetterQuery, create_store
from penstock.deadletters.dead_letter_queue import History, Job, JobOptions, Requester
from redrive.letters import letter

ALL = DeadLetterQuery()
LETTERS = 1200
LEASE = 3.0
"""Seconds. A service uses 30; a test need not wait that long."""


class Call(NamedTuple):
    number: int
    pid: int
    at: float


class Workplace:
    """A SQLite file with a job, and the processes that work on it."""

    def __init__(self, path: Path) -> None:
        self.url = f"sqlite:///{path}/letters.db"
        self.calls_file = path / "calls"
        self.calls_file.touch()
        self.processes: list[subprocess.Popen[str]] = []
        self.job = asyncio.run(self._create())

    async def _create(self) -> Job:
        store: Any = create_store(self.url)
        await store.open()
        await store.add([letter(number) for number in range(LETTERS)])
        job: Job = await store.create_job(ALL, JobOptions(), Requester("me"))
        await store.aclose()
        return job

    def start(self) -> subprocess.Popen[str]:
        main = str(Path(__file__).with_name("process_main.py"))
        command = [main, self.url, self.job.id, str(self.calls_file), str(LEASE), "0.05"]
        process = forking.start_python(*command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        self.processes.append(process)
        return process

    def calls(self) -> list[Call]:
        lines = (line.split() for line in self.calls_file.read_text().splitlines())
        return [Call(int(number), int(pid), float(at)) for number, pid, at in lines]

    def wait_for_calls(self, count: int) -> None:
        until = time.monotonic() + 60
        while len(self.calls()) < count:
            assert time.monotonic() < until
            assert all(process.poll() is None for process in self.processes)
            time.sleep(0.05)

    def result(self) -> tuple[Job, dict[str, int], dict[int, History]]:
        async def read() -> Any:
            store: Any = create_store(self.url)
            await store.open()
            states = {key[0]: count for key, count in (await store.count(ALL, by=("state",))).items()}
            histories: dict[int, History] = {}
            after = None
            while True:
                page = await store.page(ALL, after=after, limit=1000)
                for each in page.letters:
                    histories[each.seq] = await store.history(each.id)
                if (after := page.next) is None:
                    break
            job = await store.job(self.job.id)
            await store.aclose()
            return job, states, histories

        result: tuple[Job, dict[str, int], dict[int, History]] = asyncio.run(read())
        return result


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Workplace]:
    place = Workplace(tmp_path)
    yield place
    for process in place.processes:
        process.kill()
        process.wait()


@pytest.mark.long
@pytest.mark.parametrize("second", ["works at the same time", "is started afterwards"])
def test_a_killed_process_loses_nothing(place: Workplace, second: str) -> None:
    """After kill -9 another process continues when the lease has ended. Nothing is lost, and the history is complete.

    Letters that the killed process had claimed have an attempt without an outcome; only these may be called twice, and
    not before the lease has ended.
    """
    first = place.start()
    place.wait_for_calls(100)
    other = place.start() if second == "works at the same time" else None
    place.wait_for_calls(300)
    first.kill()
    killed = time.time()
    first.communicate()
    other = other or place.start()
    output, _ = other.communicate(timeout=120)
    assert output == "completed\n"

    calls = place.calls()
    assert {call.pid for call in calls} == {first.pid, other.pid}
    assert min(call.at for call in calls if call.pid == other.pid) > killed + LEASE * 0.6
    job, states, histories = place.result()
    assert states == {"resolved": LETTERS - 12, "waiting": 12}
    assert (job.state, job.counts.resolved, job.counts.failed, job.counts.open) == ("completed", LETTERS - 12, 12, 0)

    unknown = {
        seq for seq, history in histories.items() if [each.outcome for each in history.attempts][:-1] == ["unknown"]
    }
    assert 0 < len(unknown) <= 2048
    times = Counter(call.number for call in calls)
    assert set(times) == set(range(LETTERS))
    assert {number for number, count in times.items() if count > 1} <= unknown
    for seq, history in histories.items():
        last = history.attempts[-1]
        assert last.outcome == ("failed" if seq % 100 == 99 else "resolved")
        assert len(history.attempts) == 1 + (seq in unknown)
        assert (last.job, last.requester) == (job.id, "me")
        assert last.ended_at is not None
