"""Several processes work on one queue, and one is killed: no letter is lost, none is processed twice in its lease."""

from __future__ import annotations

import asyncio
import time
from collections import Counter, defaultdict
from pathlib import Path

import pytest

import forking
from penstock.deadletters import DeadLetterQuery, create_store
from penstock.deadletters.dead_letter_queue import JobOptions, Requester
from servers import PostgresServer, running
from stores.letters import letter
from waiting import HANG_SECONDS, ending

LEASE = 1.0
LETTERS = 150

RUNNER = """
import asyncio, os, sys, time
from penstock.deadletters import create_store
from penstock.deadletters.dead_letter_queue import FailedAgain, Settlement

async def main(url, runner, other, lease):
    queue = create_store(url)
    await queue.open()
    log = os.open(runner, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    while not os.path.exists(other):
        await asyncio.sleep(0.002)
    while jobs := await queue.jobs(state="running"):
        for job in jobs:
            while (held := await queue.acquire_job(job.id, runner, lease)) is not None and held.state == "running":
                open_batches = [n for n, batch in enumerate(held.batches) if batch.open]
                if not open_batches:
                    await queue.change_job(job.id, None, state="completed")
                    break
                letters = await queue.claim(job.id, runner, open_batches[0], 16, lease)
                for letter in letters:
                    os.write(log, f"{letter.id} {time.time()}\\n".encode())
                    await asyncio.sleep(0.001)
                error = FailedAgain(step="s", type="T", message="again")
                await queue.settle(job.id, runner, [
                    Settlement(one.id, "failed", error) if one.seq % 10 == 0 else Settlement(one.id, "resolved")
                    for one in letters
                ])
                if not letters:
                    await asyncio.sleep(0.02)
        await asyncio.sleep(0.02)
    await queue.aclose()

asyncio.run(main(*sys.argv[1:4], float(sys.argv[4])))
"""

URLS = {
    "sqlite": lambda folder: f"sqlite:///{folder}/letters.db",
    "postgres": lambda _: running(PostgresServer).new_schema(),
}
"""The URL of an empty queue."""


def runner(url, log, other):
    """Start a process that works on all jobs as soon as the other one has started too."""
    return ending(forking.start_python("-c", RUNNER, url, str(log), str(other), str(LEASE)))


def lines_of(log: Path) -> list[tuple[str, float]]:
    """When a runner processed which letters."""
    lines = log.read_text().splitlines() if log.exists() else []
    return [(id, float(at)) for id, at in map(str.split, lines)]


@pytest.mark.parametrize("url", URLS)
async def test_two_processes_finish_two_jobs_although_one_is_killed(url, tmp_path):
    """Each letter has one final outcome; those that the killed one had in work are processed again after its lease."""
    url = URLS[url](tmp_path)
    queue = create_store(url)
    await queue.open()
    for type in ("A", "B"):
        await queue.add([letter(seq=n, type=type) for n in range(LETTERS)])
    jobs = [
        (await queue.create_job(DeadLetterQuery(type=type), JobOptions(canary=(1, 20)), Requester("me"))).id
        for type in ("A", "B")
    ]
    logs = [tmp_path / "one", tmp_path / "two"]

    with runner(url, *logs) as first, runner(url, *reversed(logs)) as second:
        async with asyncio.timeout(HANG_SECONDS):
            while len(lines_of(logs[0])) < 40 or len(lines_of(logs[1])) < 1:
                assert first.poll() is None
                await asyncio.sleep(0.002)
        first.kill()
        killed_at = time.time()
        assert await asyncio.to_thread(second.wait, HANG_SECONDS) == 0

    times = defaultdict(list)
    for log in logs:
        for id, at in lines_of(log):
            times[id].append(at)
    twice = {id: sorted(each) for id, each in times.items() if len(each) > 1}
    assert len(times) == 2 * LETTERS
    assert len(twice) <= 16  # one claim of the process that was killed
    assert all(second - first >= LEASE - 0.1 for first, second in twice.values()), killed_at
    assert set(map(len, twice.values())) <= {2}
    for id in jobs:
        job = await queue.job(id)
        counts = job.counts
        assert (job.state, counts.total, counts.open, counts.skipped) == ("completed", LETTERS, 0, 0)
        assert (counts.resolved, counts.failed) == (LETTERS - LETTERS // 10, LETTERS // 10)
    assert await queue.count(DeadLetterQuery(), by=("state",)) == {
        ("resolved",): 2 * (LETTERS - LETTERS // 10),
        ("waiting",): 2 * (LETTERS // 10),
    }
    outcomes = Counter()
    for id in times:
        outcomes.update(attempt.outcome for attempt in (await queue.history(id)).attempts)
    assert outcomes["resolved"] + outcomes["failed"] == 2 * LETTERS
    assert len(twice) <= outcomes["unknown"] <= 16  # claimed by the killed process, whether it began with them or not
    assert (await queue.groups(DeadLetterQuery(type="T")))[0].counts == {"waiting": 2 * (LETTERS // 10)}
    await queue.aclose()
