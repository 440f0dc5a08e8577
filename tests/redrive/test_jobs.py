"""Redrive jobs on the store in memory, in virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import pytest
from structlog.testing import capture_logs

import penstock.redrive as redrive_package
from penstock import Flow
from penstock.core.element import FAILED, OK
from penstock.deadletters import DeadLetter, DeadLetterQuery, MemoryStore
from penstock.deadletters.dead_letter_queue import Job, JobOptions, Requester, Settled, Settlement
from penstock.errors import StoreError
from penstock.redrive import Redriver
from penstock.runtime import Supervisor
from penstock.testing import run
from redrive.letters import Flows, Pricing, letter, orders

ME = Requester("me", "a test")
ALL = DeadLetterQuery()


class Desk:
    """A store with letters, a redriver, and the flow that the letters are run through."""

    def __init__(self, pricing: Pricing, letters: list[DeadLetter], *flows: Flow[Any]) -> None:
        self.pricing = pricing
        self.letters = letters
        self.queue = MemoryStore()
        self.flows = Flows(orders(pricing, self.queue), *flows)
        self.supervisor = Supervisor()
        self.redriver = Redriver(self.supervisor, self.flows, runner="one")

    async def create(self, **options: Any) -> Job:
        """A job for all letters."""
        await self.queue.add(self.letters)
        return await self.queue.create_job(ALL, JobOptions(**options), ME)

    async def states(self) -> dict[str, int]:
        """How many letters are in which state."""
        return {key[0]: count for key, count in (await self.queue.count(ALL, by=("state",))).items()}


def play(pricing: Pricing, letters: list[DeadLetter], main: Callable[[Desk], Awaitable[Any]], *flows: Flow[Any]) -> Any:
    """Run a test in virtual time; afterwards nothing of it may be left."""

    async def whole() -> Any:
        desk = Desk(pricing, letters, *flows)
        async with asyncio.timeout(86_400):
            result = await main(desk)
            assert not desk.supervisor.runs
            await desk.supervisor.shut_down(10)
        others = asyncio.all_tasks() - {asyncio.current_task()}
        assert not others, others
        return result

    with capture_logs():
        return run(whole())


def numbered(count: int) -> list[DeadLetter]:
    return [letter(number) for number in range(count)]


def test_all_letters_are_resolved() -> None:
    """A job ends as completed when all of its letters are resolved. Each was called once."""
    pricing = Pricing()

    async def main(desk: Desk) -> None:
        job = await desk.create()
        ended = await desk.redriver.run(desk.queue, job.id)
        assert ended.state == "completed"
        assert (ended.counts.total, ended.counts.resolved, ended.counts.open) == (1000, 1000, 0)
        assert await desk.states() == {"resolved": 1000}
        assert desk.redriver.statistics().letters == {("orders", "resolved"): 1000}

    play(pricing, numbered(1000), main)
    assert set(pricing.calls.values()) == {1}


def test_a_letter_that_fails_again_stays_the_same_letter() -> None:
    """No second letter is written: the letter gets the new error, one more redrive, and one attempt in its history."""
    letters = numbered(10)

    async def main(desk: Desk) -> None:
        job = await desk.create()
        ended = await desk.redriver.run(desk.queue, job.id)
        assert (ended.state, ended.counts.resolved, ended.counts.failed) == ("completed", 8, 2)
        assert await desk.states() == {"resolved": 8, "waiting": 2}
        failed = await desk.queue.get(letters[3].id)
        assert failed is not None
        assert (failed.message, failed.redrives, failed.failed_at) == (
            "the service is down again",
            1,
            letters[3].failed_at,
        )
        history = await desk.queue.history(failed.id)
        assert [(each.outcome, each.requester, each.job) for each in history.attempts] == [("failed", "me", job.id)]
        assert history.attempts[0].error == "Down: the service is down again"

    play(Pricing(fails=(3, 7)), letters, main)


def test_the_run_conserves_its_elements() -> None:
    """Received = ok + failed, and the counters of the flow agree with those of the job."""

    async def main(desk: Desk) -> None:
        job = await desk.create()
        ended = await desk.redriver.run(desk.queue, job.id)
        counters = desk.supervisor.flow_statistics["orders"]
        assert counters.received == 600
        assert ended.counts.resolved == counters.settled(OK) == 500
        assert ended.counts.failed == counters.settled(FAILED) == 100
        assert counters.letters == {}  # all of them were counted when they failed for the first time

    play(Pricing(fails=range(100)), numbered(600), main)


def test_a_job_that_ends_by_itself_is_completed() -> None:
    """Its runs too, in logs and metrics; one that is paused drains them."""

    async def main(desk: Desk) -> None:
        with capture_logs() as logs:
            job = await desk.create()
            await desk.redriver.run(desk.queue, job.id)
        reasons = [(each["event"], each["reason"]) for each in logs if "reason" in each]
        assert reasons == [("run.ended", "completed"), ("redrive.ended", "completed")]
        assert desk.supervisor.flow_statistics["orders"].ended == {("redrive", "completed"): 1}

    play(Pricing(fails=(3,)), numbered(600), main)


def test_a_letter_that_fails_again_without_a_revision_keeps_its_own() -> None:
    """The flows of a command have no revisions; the letter still says with which one it failed first."""

    async def main(desk: Desk) -> None:
        job = await desk.create()
        await desk.redriver.run(desk.queue, job.id)
        failed = await desk.queue.get(desk.letters[0].id)
        assert failed is not None
        assert (failed.redrives, failed.revision) == (1, 7)

    play(Pricing(fails=True), [letter(1, revision=7)], main)


def test_a_canary_batch_stops_the_job() -> None:
    """If more than `stop_at` of a batch fail again, no letter of the next batch is claimed."""
    pricing = Pricing(fails=True)

    async def main(desk: Desk) -> None:
        job = await desk.create(canary=(1, 5, 50), stop_at=0.2)
        stopped = await desk.redriver.run(desk.queue, job.id)
        assert stopped.state == "stopped"
        assert stopped.message is not None
        assert stopped.message.startswith("1 of 1 letters of batch 1 failed again, more than 20%")
        assert sum(pricing.calls.values()) == 1
        assert [each.total for each in stopped.batches] == [1, 5, 50, 144]

        pricing.fails = (8,)  # resumed, it does not stop again because of the first batch
        await desk.queue.change_job(job.id, ME, state="running")
        ended = await desk.redriver.run(desk.queue, job.id)
        assert (ended.state, ended.counts.resolved, ended.counts.failed) == ("completed", 198, 2)

    play(pricing, numbered(200), main)


def test_the_last_batch_stops_while_it_runs() -> None:
    """The share of failures of the last batch is compared from 50 outcomes on."""
    pricing = Pricing(fails=True, seconds=0.1)

    async def main(desk: Desk) -> None:
        job = await desk.create(stop_at=0.5)
        stopped = await desk.redriver.run(desk.queue, job.id)
        assert stopped.state == "stopped"
        assert stopped.counts.open > 1000
        assert (await desk.states()) == {"waiting": 3000}

        again = await desk.queue.change_job(job.id, ME, state="running")  # compared from zero after a resume
        stopped = await desk.redriver.run(desk.queue, job.id)
        assert stopped.state == "stopped"
        assert stopped.counts.failed >= again.counts.failed + 50

    play(pricing, numbered(3000), main)


def test_the_rate_limits_the_job_and_can_change() -> None:
    """Letters start at the rate of the job, evenly, and at another one from the moment it is changed."""
    pricing = Pricing()

    async def main(desk: Desk) -> None:
        job = await desk.create(rate=10.0)
        working = asyncio.create_task(desk.redriver.run(desk.queue, job.id))
        await asyncio.sleep(10)
        assert len(pricing.times) == pytest.approx(100, abs=2)
        assert max(after - before for before, after in zip(pricing.times, pricing.times[1:], strict=False)) < 0.3
        await desk.queue.change_job(job.id, ME, rate=100.0)
        await asyncio.sleep(5)
        assert len(pricing.times) == pytest.approx(600, abs=110)  # the change is noticed within a second
        await desk.queue.change_job(job.id, ME, rate=None)
        assert (await working).state == "completed"
        assert asyncio.get_running_loop().time() < 17

    play(pricing, numbered(5000), main)


def test_pause_settles_what_is_in_flight() -> None:
    """A paused job claims nothing more. Nothing is lost, and it can be resumed."""
    pricing = Pricing(seconds=0.5)

    async def main(desk: Desk) -> None:
        job = await desk.create(rate=100.0)
        working = asyncio.create_task(desk.redriver.run(desk.queue, job.id))
        await asyncio.sleep(3)
        await desk.queue.change_job(job.id, ME, state="paused")
        paused = await working
        assert paused.state == "paused"
        assert 200 < paused.counts.resolved < 450
        assert await desk.states() == {"resolved": paused.counts.resolved, "waiting": paused.counts.open}
        assert sum(pricing.calls.values()) == paused.counts.resolved
        await desk.queue.change_job(job.id, ME, state="running", rate=None)
        assert (await desk.redriver.run(desk.queue, job.id)).state == "completed"

    play(pricing, numbered(1000), main)
    assert set(pricing.calls.values()) == {1}


def test_cancel_makes_the_rest_wait() -> None:
    """A cancelled job finishes the letters in flight; the others wait, and their redrives are not counted."""

    async def main(desk: Desk) -> None:
        job = await desk.create()
        working = asyncio.create_task(desk.redriver.run(desk.queue, job.id))
        await asyncio.sleep(2.0)
        await desk.queue.change_job(job.id, ME, state="cancelled")
        ended = await working
        assert ended.state == "cancelled"
        states = await desk.states()
        assert set(states) == {"resolved", "waiting"}
        page = await desk.queue.page(DeadLetterQuery(state="waiting"), limit=1000)
        assert {each.redrives for each in page.letters} == {0}

    play(Pricing(seconds=1.0), numbered(5000), main)


def test_a_cancellation_is_no_failure() -> None:
    """Letters whose elements are cancelled wait again, with an attempt that does not count."""

    async def main(desk: Desk) -> None:
        job = await desk.create()
        working = asyncio.create_task(desk.redriver.run(desk.queue, job.id))
        await asyncio.sleep(5)
        await desk.redriver.abort()
        ended = await working
        assert (ended.state, ended.counts.open, ended.runner) == ("running", 20, None)
        assert await desk.states() == {"waiting": 20}
        for each in (await desk.queue.page(ALL)).letters:
            assert each.redrives == 0
            assert [attempt.outcome for attempt in (await desk.queue.history(each.id)).attempts] == ["cancelled"]

    play(Pricing(seconds=20.0), numbered(20), main)


def test_a_shutdown_settles_before_the_stores_close() -> None:
    """The supervisor drains the run; the job stays running, and another process continues it at once."""
    pricing = Pricing(seconds=1.0)

    async def main(desk: Desk) -> None:
        job = await desk.create()
        working = asyncio.create_task(desk.redriver.run(desk.queue, job.id))
        await asyncio.sleep(2.5)
        await desk.supervisor.shut_down(30)
        left = await working
        assert left.state == "running"
        assert "claimed" not in await desk.states()
        desk.supervisor = Supervisor()
        other = Redriver(desk.supervisor, desk.flows, runner="two")
        started = asyncio.get_running_loop().time()
        ended = await other.run(desk.queue, job.id)
        assert (ended.state, ended.counts.resolved) == ("completed", 2000)
        assert asyncio.get_running_loop().time() - started < 60

    play(pricing, numbered(2000), main)
    assert set(pricing.calls.values()) == {1}


def test_a_runner_that_vanished_is_replaced_after_its_lease() -> None:
    """Claimed letters of a runner that stopped without settling are claimed again; that attempt stays unknown."""
    pricing = Pricing()
    letters = numbered(30)

    async def main(desk: Desk) -> None:
        job = await desk.create()
        await desk.queue.acquire_job(job.id, "killed")
        taken = await desk.queue.claim(job.id, "killed", 0, 10)
        ended = await desk.redriver.run(desk.queue, job.id)
        assert (ended.state, ended.counts.resolved) == ("completed", 30)
        assert 30 <= asyncio.get_running_loop().time() < 33
        outcomes = [each.outcome for each in (await desk.queue.history(taken[0].id)).attempts]
        assert outcomes == ["unknown", "resolved"]
        late = await desk.queue.settle(job.id, "killed", [])
        assert late.job.counts.resolved == 30

    play(pricing, letters, main)


def test_the_limit_parks_a_letter() -> None:
    """A letter that failed in `limit` redrives is parked."""

    async def main(desk: Desk) -> None:
        await desk.queue.add(desk.letters)
        for _ in range(3):
            job = await desk.queue.create_job(ALL, JobOptions(limit=3), ME)
            await desk.redriver.run(desk.queue, job.id)
        assert await desk.states() == {"parked": 1}
        assert desk.redriver.statistics().letters == {("orders", "failed"): 2, ("orders", "parked"): 1}

    play(Pricing(fails=True), numbered(1), main)


def test_an_unknown_flow_stops_the_job() -> None:
    """A job with letters of a flow that is not loaded stops with a message; its letters wait."""

    async def main(desk: Desk) -> None:
        job = await desk.create()
        stopped = await desk.redriver.run(desk.queue, job.id)
        assert stopped.state == "stopped"
        assert stopped.message == "the flow gone is not loaded; load it, or redrive through another one: --through NAME"
        assert await desk.states() == {"waiting": 1}
        await desk.queue.change_job(job.id, ME, state="cancelled")
        again = await desk.queue.create_job(ALL, JobOptions(flow="orders"), ME)
        assert (await desk.redriver.run(desk.queue, again.id)).counts.resolved == 1

    play(Pricing(), [letter(flow="gone")], main)


def test_letters_of_two_flows_are_one_job() -> None:
    """Each letter runs through its own flow."""
    seen: list[Any] = []
    other: Flow[Any] = Flow[Any]("other").tap(seen.append)

    async def main(desk: Desk) -> None:
        job = await desk.create()
        ended = await desk.redriver.run(desk.queue, job.id)
        assert (ended.state, ended.counts.resolved) == ("completed", 40)

    pricing = Pricing()
    play(pricing, [letter(n, flow=("orders", "other")[n % 2]) for n in range(40)], main, other)
    assert len(seen) == sum(pricing.calls.values()) == 20


def test_an_incomplete_input_calls_no_service() -> None:
    """A letter of which only the beginning was kept fails again with an error that says so."""
    pricing = Pricing()
    cut = letter(1, input_size=100_000)

    async def main(desk: Desk) -> None:
        job = await desk.create()
        ended = await desk.redriver.run(desk.queue, job.id)
        assert ended.counts.failed == 1
        failed = await desk.queue.get(cut.id)
        assert failed is not None
        assert (failed.step, failed.type) == ("decode", "IncompleteInput")
        assert failed.message.startswith("the input of 100000 bytes is not complete (9 bytes are stored)")

    play(pricing, [cut], main)
    assert not pricing.calls


def test_a_csv_row_is_read_with_its_header() -> None:
    """The row of a CSV file becomes an object again."""
    seen: list[Any] = []
    other: Flow[Any] = Flow[Any]("csv").tap(seen.append)
    row = letter(flow="csv", input=b'7,"a, b"', input_size=8, header="id,name")
    bad = letter(flow="csv", input=b"7", input_size=1, header="id,name")

    async def main(desk: Desk) -> None:
        job = await desk.create()
        ended = await desk.redriver.run(desk.queue, job.id)
        assert (ended.counts.resolved, ended.counts.failed) == (1, 1)
        assert (await desk.queue.get(bad.id)).type == "MalformedRow"  # type: ignore[union-attr]

    play(Pricing(), [row, bad], main, other)
    assert seen == [{"id": "7", "name": "a, b"}]


def test_filtered_counts_as_resolved_and_parts_as_one_letter() -> None:
    """A letter whose element is dropped is resolved. One whose parts fail has one attempt, and stays one letter."""
    flow: Flow[Any] = (
        Flow[Any]("parts").filter(lambda value: value["id"] != 1).flat_map(lambda value: [1, 2, 3], max_parts=5)
    )

    def reject(value: Any) -> Any:
        raise ValueError(f"part {value}")

    flow = flow.map(reject)
    one, two = letter(1, flow="parts"), letter(2, flow="parts")

    async def main(desk: Desk) -> None:
        job = await desk.create()
        ended = await desk.redriver.run(desk.queue, job.id)
        assert (ended.counts.resolved, ended.counts.failed) == (1, 1)
        assert (await desk.states()) == {"resolved": 1, "waiting": 1}
        assert len((await desk.queue.history(two.id)).attempts) == 1

    play(Pricing(), [one, two], main, flow)


def test_a_new_revision_takes_over_in_the_middle() -> None:
    """Letters run through the current revision: the run of the old one finishes its letters in flight."""
    pricing, newer = Pricing(seconds=0.1), Pricing()

    async def main(desk: Desk) -> None:
        job = await desk.create(rate=50.0)
        working = asyncio.create_task(desk.redriver.run(desk.queue, job.id))
        await asyncio.sleep(5)
        desk.flows.by_name["orders"] = orders(newer)
        ended = await working
        assert (ended.state, ended.counts.resolved) == ("completed", 500)

    play(pricing, numbered(500), main)
    assert sum(newer.calls.values()) > 200
    assert set((pricing.calls + newer.calls).values()) == {1}


def test_a_run_that_fails_stops_the_job() -> None:
    """A fault of the flow itself stops the job; the letters in flight wait again."""
    flow: Flow[Any] = Flow[Any]("broken").operator(lambda source: 5)  # type: ignore[arg-type,return-value]

    async def main(desk: Desk) -> None:
        job = await desk.create()
        stopped = await desk.redriver.run(desk.queue, job.id)
        assert stopped.state == "stopped"
        assert "ended as failed" in (stopped.message or "")
        assert await desk.states() == {"waiting": 3}

    play(Pricing(), [letter(n, flow="broken") for n in range(3)], main, flow)


def test_two_redrivers_follow_one_job() -> None:
    """The second process follows the job of the first, and no letter is called twice."""
    pricing = Pricing(seconds=1.0)

    async def main(desk: Desk) -> None:
        job = await desk.create(rate=100.0)
        other = Redriver(desk.supervisor, desk.flows, runner="two")
        seen: list[Job] = []
        first, second = await asyncio.gather(
            desk.redriver.run(desk.queue, job.id), other.run(desk.queue, job.id, on_progress=seen.append)
        )
        assert first.state == second.state == "completed"
        assert len(seen) > 5

    play(pricing, numbered(1000), main)
    assert set(pricing.calls.values()) == {1}


def test_a_runner_that_lost_its_lease_stops() -> None:
    """A process that could not extend its lease stops when another one has the job. Its late outcomes are ignored."""
    pricing = Pricing(seconds=9.0)

    async def main(desk: Desk) -> None:
        acquire, silent = desk.queue.acquire_job, False

        async def acquire_job(id: str, runner: str, lease: float = 30.0) -> Job | None:
            if silent and runner == "one":
                raise StoreError("no connection")
            return await acquire(id, runner, lease)

        desk.queue.acquire_job = acquire_job  # type: ignore[method-assign]
        job = await desk.create(rate=20.0)
        first = asyncio.create_task(desk.redriver.run(desk.queue, job.id))
        await asyncio.sleep(15)
        silent = True
        other = Redriver(desk.supervisor, desk.flows, runner="two")
        second = asyncio.create_task(other.run(desk.queue, job.id))
        await asyncio.sleep(50)
        silent = False
        ended = [await first, await second]
        assert [each.state for each in ended] == ["completed", "completed"]
        assert ended[0].counts.resolved == 1500
        assert sum(desk.redriver.statistics().letters.values()) < 1500
        for each in (await desk.queue.page(ALL, limit=1000)).letters:
            outcomes = [attempt.outcome for attempt in (await desk.queue.history(each.id)).attempts]
            assert outcomes[-1] == "resolved"
            assert outcomes.count("resolved") == 1

    play(pricing, numbered(1500), main)


def test_letters_in_flight_are_finished_when_another_runner_has_the_job() -> None:
    """A process that was stopped for a while may find that: its letters are leased still, and are called once."""
    pricing = Pricing(seconds=25.0)

    async def main(desk: Desk) -> None:
        acquire = desk.queue.acquire_job
        taken = False

        async def acquire_job(id: str, runner: str, lease: float = 30.0) -> Job | None:
            if taken and runner == "one":  # the lease on the job has expired, those on the letters have not
                await acquire(id, "one", 0.0)
                await acquire(id, "two", lease)
            return await acquire(id, runner, lease)

        job = await desk.create(rate=20.0)
        first = asyncio.create_task(desk.redriver.run(desk.queue, job.id))
        desk.queue.acquire_job = acquire_job  # type: ignore[method-assign]
        await asyncio.sleep(5)
        taken = True
        await asyncio.sleep(20)
        taken = False
        other = Redriver(desk.supervisor, desk.flows, runner="two")
        assert (await other.run(desk.queue, job.id)).state == "completed"
        await first

    play(pricing, numbered(300), main)
    assert set(pricing.calls.values()) == {1}


def test_watch_takes_jobs_of_other_processes() -> None:
    """A service works on jobs that were created elsewhere, and on those that a killed process left."""

    async def main(desk: Desk) -> None:
        job = await desk.create()
        watching = asyncio.create_task(desk.redriver.watch(lambda: [desk.queue]))
        await asyncio.sleep(10)
        assert (await desk.queue.job(job.id)).state == "completed"  # type: ignore[union-attr]
        watching.cancel()
        await asyncio.wait((watching,))

    play(Pricing(), numbered(100), main)


def test_two_calls_of_one_process_do_not_share_a_job() -> None:
    """The second call follows the job, also while the first one is still acquiring it."""
    pricing = Pricing(seconds=1.0)

    async def main(desk: Desk) -> None:
        acquire = desk.queue.acquire_job

        async def acquire_job(id: str, runner: str, lease: float = 30.0) -> Job | None:
            await asyncio.sleep(0.1)
            return await acquire(id, runner, lease)

        desk.queue.acquire_job = acquire_job  # type: ignore[method-assign]
        job = await desk.create()
        both = [asyncio.create_task(desk.redriver.run(desk.queue, job.id)) for _ in range(2)]
        assert [(await each).state for each in both] == ["completed", "completed"]

    play(pricing, numbered(300), main)
    assert set(pricing.calls.values()) == {1}


def test_drain_while_a_job_is_acquired() -> None:
    """No letter is claimed then, and the job is free for another process at once."""
    pricing = Pricing()

    async def main(desk: Desk) -> None:
        acquire = desk.queue.acquire_job

        async def acquire_job(id: str, runner: str, lease: float = 30.0) -> Job | None:
            await asyncio.sleep(0.1)
            return await acquire(id, runner, lease)

        desk.queue.acquire_job = acquire_job  # type: ignore[method-assign]
        job = await desk.create()
        running = asyncio.create_task(desk.redriver.run(desk.queue, job.id))
        await asyncio.sleep(0.05)
        await desk.redriver.drain()
        assert (await running).state == "running"
        assert await acquire(job.id, "other") is not None

    play(pricing, numbered(3), main)
    assert not pricing.calls


def test_letters_that_could_not_be_settled_stay_leased() -> None:
    """Their outcomes are known to this process only, so no other one may run them before their lease ends."""
    pricing = Pricing()

    async def main(desk: Desk) -> None:
        async def settle(id: str, runner: str, settlements: Sequence[Settlement]) -> Settled:
            raise StoreError("down for a moment")

        desk.queue.settle = settle  # type: ignore[method-assign]
        job = await desk.create()
        running = asyncio.create_task(desk.redriver.run(desk.queue, job.id))
        await asyncio.sleep(1)
        assert sum(pricing.calls.values()) == 5
        await desk.redriver.drain()
        await running
        assert await desk.queue.acquire_job(job.id, "other") is not None
        assert await desk.queue.claim(job.id, "other", 0, 10) == []

    play(pricing, numbered(5), main)


def test_a_runner_stops_when_its_lease_has_expired() -> None:
    """If it cannot extend the lease, it calls no service after that: another process may have the letters by then."""
    pricing = Pricing()

    async def main(desk: Desk) -> None:
        acquire, silent = desk.queue.acquire_job, False

        async def acquire_job(id: str, runner: str, lease: float = 30.0) -> Job | None:
            if silent:
                raise StoreError("no connection")
            return await acquire(id, runner, lease)

        desk.queue.acquire_job = acquire_job  # type: ignore[method-assign]
        job = await desk.create(rate=20.0)
        running = asyncio.create_task(desk.redriver.run(desk.queue, job.id))
        await asyncio.sleep(15)
        silent = True
        await asyncio.sleep(60)
        assert 35 < pricing.times[-1] <= 41
        silent = False
        assert (await running).state == "completed"
        assert len(pricing.times) == 1500

    play(pricing, numbered(1500), main)


def test_outcomes_that_were_not_recorded_are_not_counted() -> None:
    """The counters have each letter once, although the first runner settles letters that the second one has."""
    pricing = Pricing(seconds=9.0)

    async def main(desk: Desk) -> None:
        acquire, settle, silent = desk.queue.acquire_job, desk.queue.settle, False

        async def acquire_job(id: str, runner: str, lease: float = 30.0) -> Job | None:
            if silent and runner == "one":
                raise StoreError("no connection")
            return await acquire(id, runner, lease)

        async def slow(id: str, runner: str, settlements: Sequence[Settlement]) -> Settled:
            await asyncio.sleep(3.0 if silent and runner == "one" else 0.0)
            return await settle(id, runner, settlements)

        desk.queue.acquire_job, desk.queue.settle = acquire_job, slow  # type: ignore[method-assign]
        one = Redriver(desk.supervisor, desk.flows, runner="one", lease=6.0)
        job = await desk.create(rate=20.0)
        first = asyncio.create_task(one.run(desk.queue, job.id))
        await asyncio.sleep(15)
        silent = True
        other = Redriver(desk.supervisor, desk.flows, runner="two", lease=6.0)
        second = asyncio.create_task(other.run(desk.queue, job.id))
        ended = await second
        silent = False
        await first
        assert ended.counts.resolved == 600
        by_process = [each.statistics().letters.get(("orders", "resolved"), 0) for each in (one, other)]
        assert sum(by_process) == 600

    play(pricing, numbered(600), main)


def test_watch_releases_letters_of_paused_jobs() -> None:
    """Letters of a killed process wait again although its job is paused, so that alerts and plans see them."""

    async def main(desk: Desk) -> None:
        job = await desk.create()
        await desk.queue.acquire_job(job.id, "killed")
        await desk.queue.claim(job.id, "killed", 0, 10)
        await desk.queue.change_job(job.id, ME, state="paused")
        watching = asyncio.create_task(desk.redriver.watch(lambda: [desk.queue]))
        await asyncio.sleep(20)
        assert await desk.states() == {"waiting": 20, "claimed": 10}
        await asyncio.sleep(30)
        assert await desk.states() == {"waiting": 30}
        watching.cancel()
        await asyncio.wait((watching,))

    play(Pricing(), numbered(30), main)


def test_the_package_has_all_of_its_names() -> None:
    """Names that are imported when they are used exist."""
    assert {getattr(redrive_package, name).__name__ for name in redrive_package.__all__} == set(redrive_package.__all__)
