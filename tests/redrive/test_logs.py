"""Redrives of logs, in virtual time, on a log in memory that does what `LogStore` describes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest
from structlog.testing import capture_logs

from penstock.deadletters import DeadLetter, DeadLetterQuery
from penstock.deadletters.dead_letter_queue import FailedAgain, JobOptions, Settlement
from penstock.deadletters.log import LogBatch
from penstock.errors import NotSupportedByStore, RedriveError, StoreError
from penstock.redrive.logs import LogRedrive, redrive_log
from penstock.redrive.records import LogReport
from penstock.runtime import Supervisor
from penstock.testing import run
from redrive.letters import Flows, Pricing, letter, orders

ALL = DeadLetterQuery()


class MemoryLog:
    """Letters in batches. Those that are not acknowledged are received again by the next consumer."""

    editable = False
    url = "memory-log:"
    timeout = 1.0

    def __init__(self, letters: Sequence[DeadLetter], size: int = 10) -> None:
        self.batches = [list(letters[start : start + size]) for start in range(0, len(letters), size)]
        self.most_open = 0
        self.broken = False

    async def add(self, letters: Sequence[DeadLetter]) -> None:
        await asyncio.sleep(0.01)
        if self.broken:
            raise StoreError("the log is down")
        self.batches.append(list(letters))

    async def consume(self) -> AsyncIterator[LogBatch]:
        opened: list[list[DeadLetter]] = []

        for batch in list(self.batches):

            async def ack(again: Sequence[DeadLetter], batch: list[DeadLetter] = batch) -> None:
                await asyncio.sleep(0.01)
                opened.remove(batch)
                self.batches.remove(batch)
                if again:
                    self.batches.append(list(again))

            opened.append(batch)
            self.most_open = max(self.most_open, len(opened))
            yield LogBatch(tuple(batch), ack)

    @property
    def letters(self) -> list[DeadLetter]:
        return [each for batch in self.batches for each in batch]


def play(log: Any, pricing: Pricing, query: DeadLetterQuery = ALL, **options: Any) -> LogReport:
    async def main() -> LogReport:
        supervisor = Supervisor()
        try:
            return await redrive_log(log, query, JobOptions(**options), Flows(orders(pricing)), supervisor)
        finally:
            assert not supervisor.runs
            assert asyncio.all_tasks() == {asyncio.current_task()}

    with capture_logs():
        return run(main())


def test_resolved_letters_leave_the_log_and_failed_ones_are_appended_again() -> None:
    """A letter that fails again keeps its id, and has one more redrive; at the limit it is parked for good."""
    letters = [letter(n) for n in range(95)]
    log, pricing = MemoryLog(letters), Pricing(fails=(3, 50))
    report = play(log, pricing, limit=2)
    assert report == LogReport(total=95, resolved=93, failed=2)
    assert [(each.id, each.redrives, each.message) for each in log.letters] == [
        (letters[3].id, 1, "the service is down again"),
        (letters[50].id, 1, "the service is down again"),
    ]
    assert log.most_open <= 5
    assert play(log, pricing, limit=2) == LogReport(total=2, failed=2, parked=2)
    assert [each.state for each in log.letters] == ["parked", "parked"]
    assert play(log, pricing, limit=2) == LogReport()
    assert log.letters == []  # none is received again
    assert set(pricing.calls.values()) == {1, 2}


def test_a_parked_letter_is_not_appended_again() -> None:
    """The log keeps it: only letters that a later redrive may choose are appended."""
    parked, other, chosen = letter(1, state="parked"), letter(2, type="Other"), letter(3)
    log = MemoryLog([parked, other, chosen])
    assert play(log, Pricing(), DeadLetterQuery(type=chosen.type)) == LogReport(total=1, resolved=1)
    assert [each.seq for each in log.letters] == [2]


def test_letters_that_do_not_match_stay() -> None:
    """Every batch is acknowledged, and what does not match is received later again."""
    letters = [letter(n, type="Down" if n in (3, 4) else "Other") for n in range(30)]
    log, pricing = MemoryLog(letters), Pricing()
    assert play(log, pricing, DeadLetterQuery(type="Down")).resolved == 2
    assert sorted(each.seq for each in log.letters) == [n for n in range(30) if n not in (3, 4)]
    assert play(log, pricing).resolved == 28
    assert log.letters == []


def test_an_unknown_flow_leaves_the_letters() -> None:
    """The error says what to do; letters in flight were finished, and the others stay."""
    log, pricing = MemoryLog([*(letter(n) for n in range(10)), letter(10, flow="gone"), letter(11)]), Pricing()
    with pytest.raises(RedriveError, match="the flow gone is not loaded"):
        play(log, pricing)
    assert [each.seq for each in log.letters] == [10, 11]


def test_a_log_that_is_down_keeps_its_letters() -> None:
    """A letter that failed again stays as it was if it cannot be appended."""
    log, pricing = MemoryLog([letter(n) for n in range(10)]), Pricing(fails=(1,))

    async def main() -> None:
        log.broken = True
        supervisor = Supervisor()
        working = asyncio.create_task(redrive_log(log, ALL, JobOptions(), Flows(orders(pricing)), supervisor))  # type: ignore[arg-type]
        await asyncio.sleep(60)
        assert not working.done()
        working.cancel()
        await asyncio.wait((working,))
        assert not supervisor.runs

    with capture_logs():
        run(main())
    assert [each.seq for each in log.letters] == [1]


def test_the_rate_limits_it() -> None:
    """Letters of a log start at the rate too."""
    pricing = Pricing()
    play(MemoryLog([letter(n) for n in range(100)]), pricing, rate=10.0)
    assert 9 < pricing.times[-1] - pricing.times[0] < 11


def test_canary_batches_are_rejected() -> None:
    """A log has no fixed set of letters."""
    with pytest.raises(NotSupportedByStore, match="cannot redrive in canary batches"):
        play(MemoryLog([]), Pricing(), canary=(1,))


def test_an_outcome_without_the_failure_branch_is_appended_too() -> None:
    """A letter that is settled as failed is never acknowledged as resolved."""
    log = MemoryLog([letter(n) for n in range(3)])

    class Settled(LogRedrive):
        """Takes all outcomes of its runs as failures."""

        def add(self, settlement: Settlement) -> None:
            error = FailedAgain(step="pricing", type="Down", message="no letter could be made")
            super().add(Settlement(settlement.id, "failed", error))

    async def main() -> LogReport:
        supervisor = Supervisor()
        return await Settled(log, ALL, JobOptions(), Flows(orders(Pricing())), supervisor).run()  # type: ignore[arg-type]

    with capture_logs():
        assert run(main()) == LogReport(total=3, failed=3)
    assert sorted((each.seq, each.redrives, each.message) for each in log.letters) == [
        (n, 1, "no letter could be made") for n in range(3)
    ]

    log.broken = True
    with capture_logs(), pytest.raises(StoreError, match="the log is down"):
        run(main())
    assert sorted(each.seq for each in log.letters) == [0, 1, 2]
