"""The laws hold for redrives: whatever fails, and whenever a job is paused, cancelled, drained or aborted."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import Struct
from structlog.testing import capture_logs

from penstock.core.element import CANCELLED, FAILED, FILTERED, OK
from penstock.deadletters import DeadLetter, DeadLetterQuery, MemoryStore
from penstock.deadletters.dead_letter_queue import BatchCounts, Job, JobOptions, Requester, Settled, Settlement
from penstock.errors import StoreError
from penstock.redrive import Redriver
from penstock.runtime import Supervisor
from penstock.testing import VirtualTimeLoop, run
from redrive.letters import Flows, Pricing, letter, orders

ME = Requester("me")
ALL = DeadLetterQuery()


class FlakyStore(MemoryStore):
    """A queue whose transactions take time, and of which some fail."""

    def __init__(self, seconds: float, failures: Sequence[bool]) -> None:
        super().__init__()
        self.seconds = seconds
        self.failures = list(failures)

    async def _wait(self) -> None:
        await asyncio.sleep(self.seconds)
        if self.failures and self.failures.pop():
            raise StoreError("the store is down")

    async def claim(self, *args: Any, **options: Any) -> list[DeadLetter]:
        await self._wait()
        return await super().claim(*args, **options)

    async def settle(self, id: str, runner: str, settlements: Sequence[Settlement]) -> Settled:
        await self._wait()
        return await super().settle(id, runner, settlements)


class Plan(Struct, frozen=True):
    """A redrive, and what happens to it."""

    letters: int
    failing: frozenset[int]
    """The rest of the number of an order, divided by 7, for which the service fails."""
    seconds: float
    """The time that a call takes."""
    store_seconds: float
    store_failures: tuple[bool, ...]
    canary: tuple[int, ...]
    stop_at: float | None
    rate: float | None
    window: int
    event: str
    at: float


plans = st.builds(
    Plan,
    letters=st.integers(1, 400),
    failing=st.frozensets(st.integers(0, 6), max_size=3),
    seconds=st.sampled_from([0.0, 0.01, 1.0, 8.0]),
    store_seconds=st.sampled_from([0.0, 0.02, 1.0]),
    store_failures=st.lists(st.booleans(), max_size=6).map(tuple),
    canary=st.sampled_from([(), (1,), (1, 5, 50)]),
    stop_at=st.sampled_from([None, 0.0, 0.3]),
    rate=st.sampled_from([None, 5.0, 300.0]),
    window=st.sampled_from([1, 16, 256]),
    event=st.sampled_from(["none", "pause", "cancel", "drain", "abort", "shutdown", "task"]),
    at=st.sampled_from([0.0, 0.005, 0.5, 2.0, 30.0]),
)


@settings(max_examples=40)
@given(plan=plans)
def test_the_laws_hold(plan: Plan) -> None:
    """Every letter has one settled attempt for each time it was claimed; the run, the job and the store agree."""
    with capture_logs():
        run(_play(plan))


async def _play(plan: Plan) -> None:
    pricing = Pricing(fails={n for n in range(plan.letters) if n % 7 in plan.failing}, seconds=plan.seconds)
    store, supervisor = FlakyStore(plan.store_seconds, plan.store_failures), Supervisor()
    await store.add([letter(n) for n in range(plan.letters)])
    flows = Flows(orders(pricing, store).window(plan.window))
    redriver = Redriver(supervisor, flows)
    options = JobOptions(canary=plan.canary, stop_at=plan.stop_at, rate=plan.rate, limit=1000)
    job = await store.create_job(ALL, options, ME)
    async with asyncio.timeout(10 * 86_400):
        working = asyncio.ensure_future(redriver.run(store, job.id))
        await _interrupt(plan, working, store, job.id, redriver, supervisor)
        await asyncio.wait((working,))
        if not working.cancelled() and isinstance(working.exception(), StoreError):
            assert plan.event != "none"
        counts = await _check(plan, store, job.id, supervisor, BatchCounts())
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualTimeLoop)
        others = asyncio.all_tasks() - {asyncio.current_task()}
        assert not others
        assert [timer for timer in loop.timers() if timer.when() > loop.time() + 0.1] == _own_timer(loop)

        if (await store.job(job.id)).state == "cancelled":  # type: ignore[union-attr]
            return
        store.failures.clear()
        supervisor = Supervisor()  # as after a restart
        again = Redriver(supervisor, flows)
        ended = await again.run(store, job.id)
        for _ in range(10):
            if ended.state != "completed":  # it stopped again
                await store.change_job(job.id, ME, state="running")
                ended = await again.run(store, job.id)
        assert ended.state == "completed"
        await _check(plan, store, job.id, supervisor, counts)
        assert ended.counts.failed == len(pricing.fails)
        assert ended.counts.open == 0


async def _interrupt(
    plan: Plan, working: asyncio.Future[Job], store: MemoryStore, job: str, redriver: Redriver, supervisor: Supervisor
) -> None:
    await asyncio.sleep(plan.at)
    if working.done():
        return
    match plan.event:
        case "pause" | "cancel":
            await store.change_job(job, ME, state="paused" if plan.event == "pause" else "cancelled")
        case "drain":
            await redriver.drain()
        case "abort":
            await redriver.abort()
        case "shutdown":
            await supervisor.shut_down(5)
        case "task":
            working.cancel()
        case _:
            pass


async def _check(plan: Plan, store: MemoryStore, id: str, supervisor: Supervisor, before: BatchCounts) -> BatchCounts:
    """Check the letters, the job and the runs of a supervisor, which began with some counts. Returns the new counts."""
    job = await store.job(id)
    assert job is not None
    letters: list[DeadLetter] = []
    after = None
    while True:
        page = await store.page(ALL, after=after, limit=1000)
        letters += page.letters
        if (after := page.next) is None:
            break
    assert len(letters) == plan.letters  # nothing lost, and nothing written twice
    outcomes: Counter[str] = Counter()
    for each in letters:
        attempts = [attempt.outcome for attempt in (await store.history(each.id)).attempts]
        outcomes.update(attempts)
        assert each.redrives == len(attempts) - attempts.count("cancelled")
        assert attempts[:-1] == ["cancelled"] * len(attempts[:-1])
        assert each.state == ("resolved" if attempts[-1:] == ["resolved"] else "waiting")
    assert outcomes["unknown"] == 0
    assert (job.counts.resolved, job.counts.failed, job.counts.skipped) == (outcomes["resolved"], outcomes["failed"], 0)
    assert job.counts.open == plan.letters - job.counts.resolved - job.counts.failed
    counters = supervisor.flow_statistics.get("orders")
    if counters is not None:
        assert counters.received == sum(counters.settled(each) for each in (OK, FAILED, FILTERED, CANCELLED))
        assert counters.settled(FILTERED) == 0
        assert counters.settled(OK) == job.counts.resolved - before.resolved
        assert counters.settled(FAILED) <= job.counts.failed - before.failed  # an abort may interrupt a commit
        if plan.event in ("none", "pause", "cancel", "drain"):
            assert counters.settled(FAILED) == job.counts.failed - before.failed
            assert counters.settled(CANCELLED) == 0
    return job.counts


def _own_timer(loop: VirtualTimeLoop) -> list[asyncio.TimerHandle]:
    """The timer of the test's own timeout."""
    return [timer for timer in loop.timers() if timer.when() > 9 * 86_400]
