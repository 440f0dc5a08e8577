"""A worker: a flow that runs in the background, on its schedule, and again with backoff when its run broke."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable
from datetime import datetime
from itertools import islice

from penstock.errors import describe
from penstock.runtime.run import Run
from penstock.runtime.schedule import Cron, Every, Once, Schedule, fire_times
from penstock.services import Backoff
from penstock.support.logger import get_logger

log = get_logger()

CLOCK_CHECK_SECONDS = 60.0
"""Seconds after which a worker that waits for a moment looks at the clock again, which may have been set meanwhile."""

MAX_MISSED_COUNTED = 1000
"""Missed moments that are counted at most."""


class RunningWorker:
    """Keeps one flow going, as long as `serving` says so. Its runs never overlap."""

    def __init__(
        self,
        flow: str,
        name: str,
        start: Callable[[], Run],
        schedule: Schedule,
        *,
        serving: Callable[[], bool],
        restarts: Counter[tuple[str, str]],
        reschedules: Counter[tuple[str, str]],
        backoff: Backoff,
        chance: random.Random,
        now: Callable[[], datetime],
    ) -> None:
        self._name = flow, name
        self._start = start
        self._schedule = schedule
        self._serving = serving
        self._restarts = restarts
        self._reschedules = reschedules
        self._backoff = backoff
        self._chance = chance
        self._now = now
        self._log = log.bind(flow=flow, worker=name)

    async def work(self) -> None:
        """Run once, every so many seconds, or at the moments of a cron expression."""
        match self._schedule:
            case Once():
                await self._run_until_success()
            case Every(seconds):
                while self._serving():
                    await self._run_until_success()
                    await asyncio.sleep(seconds)
            case Cron():
                await self._run_cron(self._schedule)

    async def _run_cron(self, schedule: Cron) -> None:
        """The wall clock decides. What becomes due while a run is under way is skipped, and said."""
        due = schedule.next_after(self._now())
        while due is not None and self._serving():
            self._log.info("worker.scheduled", at=due.isoformat())
            due = await self._wait_until(due, schedule)
            await self._run_until_success()
            ended = self._now()
            missed = list(islice(fire_times(schedule, due, ended), MAX_MISSED_COUNTED))
            if missed:
                self._log.warning("worker.missed", first=missed[0].isoformat(), moments=len(missed))
            due = schedule.next_after(max(due, ended))  # a clock that was set back brings no moment again

    async def _wait_until(self, due: datetime, schedule: Cron) -> datetime:
        """Wait for a moment; returns it, or an earlier one if the clock was set far back meanwhile."""
        while (left := (due - (now := self._now())).total_seconds()) > 0:
            if left > CLOCK_CHECK_SECONDS and (sooner := sooner_than(due, schedule, now)) is not None:
                self._reschedules[self._name] += 1
                self._log.warning("worker.rescheduled", due=due.isoformat(), at=sooner.isoformat())
                due = sooner
            else:
                await asyncio.sleep(min(left, CLOCK_CHECK_SECONDS))
        return due

    async def _run_until_success(self) -> None:
        """Run until a run does not break; the waits between get longer and longer."""
        breaks = 0
        while self._serving() and (broke := await self._run()) is not None:
            breaks += 1
            wait = self._backoff.seconds(breaks, self._chance)
            self._restarts[self._name] += 1
            self._log.warning("worker.restart", error=broke, restart_in=round(wait, 3), breaks=breaks)
            await asyncio.sleep(wait)

    async def _run(self) -> str | None:
        """One run; returns what broke, if something did."""
        try:
            summary = await self._start().finished
        except Exception as error:  # its source could not even be made
            return describe(error)
        return (summary.error or summary.reason) if summary.reason == "failed" else None


def sooner_than(due: datetime, schedule: Cron, now: datetime) -> datetime | None:
    """The next moment from now, if a moment that is due is later than the one after that; else None.

    A clock that is set back a little brings no moment again: the one that had its run already is passed over. But if
    there are more before the moment that is due, the clock was far ahead when that was chosen, or was set far back.
    """
    first = schedule.next_after(now)
    second = None if first is None else schedule.next_after(first)
    return first if second is not None and second < due else None
