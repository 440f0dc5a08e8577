"""Schedules: the moments of cron expressions, also when clocks change, and workers that run at them."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from laws.virtual import within
from penstock import Flow, from_iterable
from penstock.errors import FlowDefinitionError
from penstock.runtime import Cron, Every, Once, Schedule, Supervisor
from penstock.runtime.schedule import fire_times
from penstock.testing import run

BERLIN = ZoneInfo("Europe/Berlin")


def local(schedule: Cron, start: str, count: int, zone: ZoneInfo = BERLIN) -> list[str]:
    """The next moments after a local time, as clocks on the wall show them, with their offset from UTC."""
    found: list[str] = []
    moment: datetime | None = datetime.fromisoformat(start).replace(tzinfo=zone)
    for _ in range(count):
        assert moment is not None
        moment = schedule.next_after(moment)
        assert moment is not None
        found.append(moment.astimezone(zone).strftime("%m-%d %H:%M %z"))
    return found


def test_once_and_every() -> None:
    """Once has no next time; every adds its seconds, whatever clocks on the wall do."""
    moment = datetime(2026, 3, 29, 1, 30, tzinfo=BERLIN)

    assert Once().next_after(moment) is None
    assert Every(3600).next_after(moment) == datetime(2026, 3, 29, 1, 30, tzinfo=UTC)


@pytest.mark.parametrize(
    ("expression", "start", "expected"),
    [
        ("0 6 * * MON-FRI", "2026-01-02T06:00", ["01-05 06:00 +0100", "01-06 06:00 +0100"]),
        ("*/20 * * * *", "2026-01-01T23:20:30", ["01-01 23:40 +0100", "01-02 00:00 +0100"]),
        ("0 0 L * *", "2026-02-01T00:00", ["02-28 00:00 +0100", "03-31 00:00 +0200"]),
        ("0 0 29 2 *", "2026-01-01T00:00", ["02-29 00:00 +0100", "02-29 00:00 +0100"]),
        ("0 9 * * mon#1", "2026-01-01T00:00", ["01-05 09:00 +0100", "02-02 09:00 +0100"]),
        ("0 0 13 * FRI", "2026-02-07T00:00", ["02-13 00:00 +0100", "02-20 00:00 +0100"]),
    ],
)
def test_moments_of_cron_expressions(expression: str, start: str, expected: list[str]) -> None:
    """Steps, ranges, names, last days, first Mondays, and one of two days being enough."""
    assert local(Cron(expression, "Europe/Berlin"), start, 2) == expected


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("30 2 * * *", ["03-28 02:30 +0100", "03-29 03:00 +0200", "03-30 02:30 +0200"]),
        ("0,30 2 * * *", ["03-28 02:00 +0100", "03-28 02:30 +0100", "03-29 03:00 +0200", "03-30 02:00 +0200"]),
        ("0 3 * * *", ["03-28 03:00 +0100", "03-29 03:00 +0200", "03-30 03:00 +0200"]),
    ],
)
def test_an_hour_that_does_not_exist(expression: str, expected: list[str]) -> None:
    """On 2026-03-29 clocks in Berlin go from 02:00 to 03:00: what falls between comes once, at 03:00."""
    assert local(Cron(expression, "Europe/Berlin"), "2026-03-28T00:00", len(expected)) == expected


def test_time_that_passes_knows_no_gap() -> None:
    """A step goes on every half hour where an hour is skipped, and where one is there twice."""
    half_hours = Cron("*/30 * * * *", "Europe/Berlin")

    assert local(half_hours, "2026-03-29T01:10", 3) == ["03-29 01:30 +0100", "03-29 03:00 +0200", "03-29 03:30 +0200"]
    assert local(half_hours, "2026-10-25T01:40", 5) == [
        "10-25 02:00 +0200",
        "10-25 02:30 +0200",
        "10-25 02:00 +0100",
        "10-25 02:30 +0100",
        "10-25 03:00 +0100",
    ]


def test_an_hour_that_is_there_twice() -> None:
    """On 2026-10-25 02:30 comes twice in Berlin: it counts at the first, asked before or in the second hour."""
    schedule = Cron("30 2 * * *", "Europe/Berlin")
    in_second_hour = datetime(2026, 10, 25, 2, 10, fold=1, tzinfo=BERLIN)

    assert local(schedule, "2026-10-24T12:00", 2) == ["10-25 02:30 +0200", "10-26 02:30 +0100"]
    assert schedule.next_after(in_second_hour) == datetime(2026, 10, 26, 1, 30, tzinfo=UTC)


@settings(max_examples=200, deadline=None)
@given(
    expression=st.sampled_from(["30 2 * * *", "*/7 * * * *", "5,50 1-3 * * *", "0 0 * * *", "15 */2 * * SUN"]),
    zone=st.sampled_from(["Europe/Berlin", "UTC", "America/Sao_Paulo", "Australia/Lord_Howe", "Asia/Kathmandu"]),
    start=st.datetimes(datetime(2015, 1, 1), datetime(2027, 1, 1), timezones=st.just(UTC)),  # noqa: DTZ001
)
@example("30 2 * * *", "Europe/Berlin", datetime(2026, 10, 25, 1, 10, tzinfo=UTC))
def test_the_next_moment_is_later_and_none_lies_between(expression: str, zone: str, start: datetime) -> None:
    """Asked at any time before it, back to the moment before, the answer is the same."""
    schedule = Cron(expression, zone)
    due = schedule.next_after(start)
    assert due is not None
    middle = start + (due - start) / 2

    assert start < due
    assert due.second == due.microsecond == 0
    assert schedule.next_after(middle) == due


def test_the_moments_of_a_time() -> None:
    """After the one, up to the other."""
    start = datetime(2026, 1, 1, tzinfo=UTC)

    assert len(list(fire_times(Cron("0 * * * *"), start, start + timedelta(hours=5)))) == 5
    assert list(fire_times(Once(), start, start + timedelta(hours=5))) == []


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: Cron("* * * *"), "expected five fields"),
        (lambda: Cron("0 0 6 * * MON"), "expected five fields"),
        (lambda: Cron("@daily"), "expected five fields"),
        (lambda: Cron("60 * * * *"), "invalid minute 60 in cron expression: expected 0-59"),
        (lambda: Cron("0 24 * * *"), "invalid hour 24 in cron expression: expected 0-23"),
        (lambda: Cron("0 0 32 2 *"), "invalid day-of-month 32 in cron expression: expected 1-31"),
        (lambda: Cron("0 0 * 13 *"), "invalid month 13 in cron expression: expected 1-12 or JAN-DEC"),
        (lambda: Cron("0 0 * * MOON"), "invalid day-of-week MOON in cron expression: expected 0-7 or SUN-SAT"),
        (lambda: Cron("0 0 31 2 *"), "no date matches; change the day of month or the month"),
        (lambda: Cron("0 0 L#2/3 * *"), "day-of-month"),
        (lambda: Cron("0 6 * * *", "Europe/Berln"), "did you mean 'Europe/Berlin'"),
        (lambda: Cron("0 6 * * *", "berlin"), "did you mean 'Europe/Berlin'"),
        (lambda: Cron("0 6 * * *", "zzzzzz"), "such as 'Europe/Berlin'"),
        (lambda: Cron("0 6 * * *", "../../etc/passwd"), "unknown time zone"),
        (lambda: Cron("0 6 * * *", ""), "unknown time zone"),
        (lambda: Every(0), "got 0"),
        (lambda: Every(float("nan")), "got nan"),
    ],
)
def test_what_is_no_schedule_is_refused(make: Callable[[], Schedule], reason: str) -> None:
    """With what is wrong, and what may have been meant."""
    with pytest.raises(FlowDefinitionError, match=reason):
        make()


def test_a_moment_without_a_time_zone_is_refused() -> None:
    """Nobody could tell when it is."""
    with pytest.raises(ValueError, match="expected a time with a time zone"):
        Cron("0 6 * * *").next_after(datetime(2026, 1, 1))  # noqa: DTZ001


def test_schedules_of_the_same_words_are_equal() -> None:
    """And are shown by them."""
    assert {Once(), Every(5), Cron("0 6 * * *")} == {Once(), Every(5.0), Cron("0 6 * * *", "UTC")}
    assert Cron("0 6 * * *") != Cron("0 6 * * *", "Europe/Berlin")
    assert repr(Cron("0 6 * * *")) == "Cron(expression='0 6 * * *', timezone='UTC')"


# Workers by the clock

START = datetime(2026, 3, 28, 23, 0, tzinfo=UTC)


def worker(
    schedule: Schedule,
    hours: float,
    seconds: Callable[[int], float] = lambda number: 0.0,
    jumps: float = 0.0,
    reschedules: int = 0,
) -> tuple[list[float], list[dict[str, Any]]]:
    """The hours at which runs began, of which run n takes `seconds(n)`, and what was logged.

    The clock on the wall is the loop's, and jumps by some hours after half an hour.
    """

    async def main() -> list[float]:
        loop = asyncio.get_running_loop()
        began: list[float] = []

        async def work(value: int) -> int:
            began.append(loop.time() / 3600)
            await asyncio.sleep(seconds(len(began)))
            return value

        def now() -> datetime:
            return START + timedelta(seconds=loop.time()) + timedelta(hours=jumps if loop.time() > 1800 else 0.0)

        supervisor = Supervisor(rng=random.Random(1))
        flow = Flow("f").map_async(work, timeout=1e6)
        supervisor.start_worker("A", flow, lambda: from_iterable([1]), schedule=schedule, now=now)
        await asyncio.sleep(hours * 3600)
        report = await supervisor.shut_down(0)
        assert len(asyncio.all_tasks()) == 1
        assert report.runs <= 1
        assert supervisor.reschedules["f", "A"] == reschedules
        return began

    with capture_logs() as logs:
        began = run(within(1e7, main()))
    return began, [dict(entry) for entry in logs if entry["event"].startswith("worker.")]


def test_a_worker_runs_when_the_clock_says_so() -> None:
    """Not before the first moment, and across a change of clocks; the next moment is said each time."""
    began, logs = worker(Cron("30 * * * *", "Europe/Berlin"), 4)

    assert began == pytest.approx([0.5, 1.5, 2.5, 3.5])
    assert [entry["at"][11:16] for entry in logs if entry["event"] == "worker.scheduled"] == [
        "23:30",
        "00:30",
        "01:30",
        "02:30",
        "03:30",
    ]


def test_moments_that_come_while_a_run_lasts_are_skipped_and_said() -> None:
    """Runs never overlap: a run of 2.2 hours skips two moments, and the worker goes on with the one after."""
    began, logs = worker(Cron("0 * * * *"), 6.5, lambda number: 2.2 * 3600 if number == 1 else 1.0)
    missed = [entry for entry in logs if entry["event"] == "worker.missed"]

    assert began == pytest.approx([1, 4, 5, 6])
    assert [(entry["first"], entry["moments"]) for entry in missed] == [("2026-03-29T01:00:00+00:00", 2)]


def test_a_clock_that_is_set_forward_is_seen_within_a_minute() -> None:
    """As after a computer slept: what is due by now runs now, once."""
    began, logs = worker(Cron("0 * * * *"), 2, jumps=5.25)

    assert began == pytest.approx([0.5, 0.75, 1.75], abs=0.02)
    assert [entry["moments"] for entry in logs if entry["event"] == "worker.missed"] == [4]


def test_a_clock_that_is_set_back_brings_no_moment_again() -> None:
    """A run of 23:15 is not repeated when it becomes 23:15 once more."""
    began, _ = worker(Cron("15 * * * *"), 4, lambda _: 1801.0, jumps=-1.0)

    assert began == pytest.approx([0.25, 2.25, 3.25])


@pytest.mark.parametrize("jumps", [-24 * 365 * 10, -48.0, -4.0], ids=["ten years", "two days", "four hours"])
def test_a_worker_that_saw_a_clock_far_ahead_runs_when_it_is_right_again(jumps: float) -> None:
    """It does not wait for a time that is far away by now: within a minute it takes the next moment."""
    began, logs = worker(Cron("15 * * * *"), 4, jumps=jumps, reschedules=1)

    assert began == pytest.approx([0.25, 1.25, 2.25, 3.25])
    (moved,) = [entry for entry in logs if entry["event"] == "worker.rescheduled"]
    assert moved["log_level"] == "warning"
    assert datetime.fromisoformat(moved["at"]) < datetime.fromisoformat(moved["due"])


def test_a_run_during_which_the_clock_is_set_far_back_is_followed_by_the_next_moment() -> None:
    """Also when the next moment is chosen only after the clock was set."""
    began, _ = worker(Cron("15 * * * *"), 4, lambda _: 1801.0, jumps=-24.0 * 365, reschedules=1)

    assert began == pytest.approx([0.25, 1.25, 2.25, 3.25])


def test_a_worker_without_a_next_moment_waits_for_nothing() -> None:
    """Once is once; every so many seconds pauses between the end of a run and the next one."""
    assert worker(Once(), 5)[0] == [0.0]
    assert worker(Every(3600), 5.5, lambda _: 3600.0)[0] == pytest.approx([0, 2, 4])


@pytest.mark.parametrize(
    ("schedule", "seconds", "stopped", "expected"),
    [
        (Every(3600), 60, 0.5, [0, 1 + 60 / 3600]),
        (Every(3600), 1801, 0.25, [0, 0.25, 1.75]),  # was interrupted
        (Cron("15 * * * *"), 60, 0.5, [0.25, 1.25]),
        (Cron("15 * * * *"), 1801, 0.4, [0.25, 0.5, 1.25]),  # was interrupted
        (Cron("15 * * * *"), 1, 0.2, [0.3, 1.25]),  # was due while neither of them ran
        (Once(), 60, 0.5, [0]),
        (Once(), 1801, 0.25, [0, 0.25]),  # was interrupted
    ],
)
def test_a_worker_goes_on_elsewhere(schedule: Schedule, seconds: float, stopped: float, expected: list[float]) -> None:
    """At the times at which it would have run if it had not been stopped. A run that was interrupted is repeated."""

    async def main() -> list[float]:
        loop = asyncio.get_running_loop()
        began: list[float] = []

        async def work(value: int) -> int:
            if value == 1:
                began.append(loop.time() / 3600)
            await asyncio.sleep(seconds / 2)
            return value

        def now() -> datetime:
            return START + timedelta(seconds=loop.time())

        flow = Flow("f").map_async(work, timeout=1e6, max_in_flight=1).window(1)
        due: dict[str, datetime | None] = {"A": None}
        for until in (stopped, 2):
            supervisor = Supervisor()
            if until == stopped or due["A"] is not None:
                how = {} if until == stopped else {"due": due["A"]}
                supervisor.start_worker("A", flow, lambda: from_iterable([1, 2]), schedule=schedule, now=now, **how)
            await asyncio.sleep(until * 3600 - loop.time())
            due = await supervisor.stop_workers(flow)
            await asyncio.sleep(360 if stopped == 0.2 else 0)
            await supervisor.shut_down(0)
        return began

    with capture_logs():
        assert run(within(1e7, main())) == pytest.approx(expected, abs=0.01)


@pytest.mark.parametrize(("schedule", "expected"), [(Cron("0 * * * *"), [1, 2, 3, 4]), (Every(3600), [0, 1, 2, 3, 4])])
def test_to_ask_when_workers_run_next_changes_nothing(schedule: Schedule, expected: list[float]) -> None:
    """Three that are due together are asked whenever one of them has completed a run, as a leader does."""

    async def main() -> list[list[float]]:
        loop = asyncio.get_running_loop()
        began: dict[str, list[float]] = {"A": [], "B": [], "C": []}
        supervisor = Supervisor()
        flow = Flow("f")
        supervisor.on_worker_completed = lambda: supervisor.next_due(flow)

        def source(name: str) -> Any:
            began[name].append(loop.time() / 3600)
            return from_iterable([1])

        for name in began:
            supervisor.start_worker(
                name,
                flow,
                partial(source, name),
                schedule=schedule,
                now=lambda: START + timedelta(seconds=loop.time()),
            )
        await asyncio.sleep(4.5 * 3600)
        await supervisor.shut_down(0)
        return list(began.values())

    with capture_logs():
        assert run(within(1e7, main())) == [pytest.approx(expected, abs=0.01)] * 3
