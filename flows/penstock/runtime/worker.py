"""Workers: run a flow in the background on its schedule, and restart it with backoff after a failed run."""

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
from penstock.runtime.summary import EndReason
from penstock.services import Backoff
from penstock.support.logger import get_logger

log = get_logger()

CLOCK_CHECK_SECONDS = 60.0
"""Seconds between two checks of the clock while a worker waits, because the clock may be set."""

STABLE_SECONDS = 300.0
"""Duration after which the failure of a run is not a consequence of the failure before, such as with a broker."""

UNAVAILABLE_SECONDS = 30.0
"""Duration of an outage after which a worker counts as unavailable, and of a run after which it counts as available."""

MAX_MISSED_COUNTED = 1000
"""Maximum number of missed times that are counted."""


class RunningWorker:
    """Runs one flow again and again while `serving` returns True. Its runs never overlap.

    `due` is the time of its first run if it continues what a worker of another process has begun. `on_completed` is
    called after each run that did not fail.
    """

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
        rng: random.Random,
        now: Callable[[], datetime],
        due: datetime | None = None,
        on_completed: Callable[[], object] = lambda: None,
    ) -> None:
        self._name = flow, name
        self._start = start
        self._schedule = schedule
        self._serving = serving
        self._restarts = restarts
        self._reschedules = reschedules
        self._backoff = backoff
        self._rng = rng
        self._now = now
        self._on_completed = on_completed
        self._log = log.bind(flow=flow, worker=name)
        self._continues = due is not None
        self._due: datetime | None = due or now()
        """When the next run is due, or was due if it is not completed; None if there is no further run."""
        self._running = False
        """Whether the run that was due is not completed, as far as this worker knows."""
        self._run: Run | None = None
        """The current or last run."""
        self._started = 0.0
        self._failures = 0
        """Failed runs in a row."""
        self._unavailable_since: float | None = None

    def unavailable_seconds(self, now: float) -> float:
        """Return how long the worker could not receive, in seconds: its runs failed, or its source has no connection.

        `now` is the time of the event loop. A lost connection is observed from call to call.
        """
        connected = None if self._run is None else self._run.source_connected
        if connected is None:
            connected = not self._failures or now - self._started > UNAVAILABLE_SECONDS
        if connected:
            self._unavailable_since = None
        elif self._unavailable_since is None:
            self._unavailable_since = now
        return 0.0 if self._unavailable_since is None else now - self._unavailable_since

    def next_due(self) -> datetime | None:
        """Return when the next run is due; None if there is no further run.

        A run that is not completed is still due.
        """
        has_completed = self._run is not None and self._run.reason is EndReason.COMPLETED
        # The task may not have noticed yet, or never will if it was stopped meanwhile.
        return self._due_after_run() if self._running and has_completed else self._due

    async def run(self) -> None:
        """Run once, periodically, or at the times of a cron expression."""
        match self._schedule:
            case Once():
                await self._run_until_success()
            case Every(seconds):
                if self._continues and self._due is not None:
                    # Not longer than that, because the clock may have been set back.
                    await asyncio.sleep(min(seconds, max(0.0, (self._due - self._now()).total_seconds())))
                while self._serving():
                    await self._run_until_success()
                    await asyncio.sleep(seconds)
            case Cron():
                await self._run_cron(self._schedule)

    async def _run_cron(self, schedule: Cron) -> None:
        """Run at the times of the wall clock. Times that pass during a run are skipped and logged."""
        if not self._continues:
            self._due = schedule.next_after(self._now())
        while self._due is not None and self._serving():
            self._log.info("worker.scheduled", at=self._due.isoformat())
            due = self._due = await self._wait_until(self._due, schedule)
            await self._run_until_success()
            missed = list(islice(fire_times(schedule, due, self._now()), MAX_MISSED_COUNTED))
            if missed:
                self._log.warning("worker.missed", first=missed[0].isoformat(), moments=len(missed))

    def _complete(self) -> None:
        """Note that the run that was due is completed."""
        self._running = False
        self._due = self._due_after_run()
        self._on_completed()

    def _due_after_run(self) -> datetime | None:
        # A clock that was set back repeats no run.
        return None if self._due is None else self._schedule.next_after(max(self._due, self._now()))

    async def _wait_until(self, due: datetime, schedule: Cron) -> datetime:
        """Wait until `due` and return it. If the clock was set far back, wait for and return an earlier fire time."""
        while (remaining := (due - (now := self._now())).total_seconds()) > 0:
            if remaining > CLOCK_CHECK_SECONDS and (sooner := earlier_fire_time(due, schedule, now)) is not None:
                self._reschedules[self._name] += 1
                self._log.warning("worker.rescheduled", due=due.isoformat(), at=sooner.isoformat())
                due = sooner
            else:
                await asyncio.sleep(min(remaining, CLOCK_CHECK_SECONDS))
        return due

    async def _run_until_success(self) -> None:
        """Run until a run does not fail. The waits between attempts grow, and start again after a long run."""
        clock = asyncio.get_running_loop().time
        self._running = True
        self._started = clock()
        while self._serving() and (error := await self._run_once()) is not None:
            self._failures = 1 if clock() - self._started > STABLE_SECONDS else self._failures + 1
            if self._unavailable_since is None:
                self._unavailable_since = clock()
            wait = self._backoff.seconds(self._failures, self._rng)
            self._restarts[self._name] += 1
            self._log.warning("worker.restart", error=error, restart_in=round(wait, 3), failures=self._failures)
            await asyncio.sleep(wait)
            self._started = clock()
        self._failures = 0
        self._complete()

    async def _run_once(self) -> str | None:
        """Run once. Return why the run failed, or None."""
        try:
            self._run = None
            self._run = self._start()
            summary = await self._run.finished
        except Exception as error:  # the source could not be created
            return describe(error)
        return (summary.error or summary.reason) if summary.reason is EndReason.FAILED else None


def earlier_fire_time(due: datetime, schedule: Cron, now: datetime) -> datetime | None:
    """Return the next time from now, if at least two times come before `due`; else None.

    A clock that is set back a little repeats no run: one time before `due` is that of the run that has passed. With
    more of them, the clock was far ahead when `due` was chosen, or was set far back.
    """
    first = schedule.next_after(now)
    second = None if first is None else schedule.next_after(first)
    return first if second is not None and second < due else None
