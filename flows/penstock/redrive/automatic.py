"""Redrive the letters of an outage when the service works again."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from datetime import timedelta
from typing import Literal

from msgspec import Struct

from penstock.deadletters import PAGE_LIMIT, DeadLetter, DeadLetterQuery
from penstock.deadletters.dead_letter_queue import REDRIVE_LIMIT, DeadLetterQueue, Group, Job, JobOptions, Requester
from penstock.deadletters.target import AutoRedrive
from penstock.errors import JobEnded, PenstockError, RedriveError, StoreError, describe
from penstock.redrive.flows import definition_of
from penstock.redrive.redriver import Redriver
from penstock.runtime.supervisor import RunnableFlow
from penstock.services import Service, first_down
from penstock.steps import Enrich, walk
from penstock.support.ids import now
from penstock.support.logger import get_logger

log = get_logger()

CHECK_SECONDS = 5.0
"""How often groups with waiting letters are searched for."""

FIRST_PAUSE = 30.0
"""Seconds without a new letter of a group before its first probe."""

MAX_PAUSE = 600.0
"""Maximum seconds between two probes of a group."""

MAX_PROBES = 200
"""Probes in vain after which a group is left to a user: more than a day."""

PROBE_LIMIT = 1_000_000
"""The limit of redrives of a probe: a probe parks no letter."""

STOP_AT = 0.5
"""The share of failures at which a redrive after a probe stops: the service is down again."""

CANDIDATES = 1000
"""Waiting letters of a group among which a probe chooses."""

AUTOMATIC = Requester("automatic", "when: recovered")


Outcome = Literal["resolved", "failed", "unknown"]
"""`unknown`: nothing was tried."""


class GroupState(Struct):
    """The probes of one group."""

    pause: float = FIRST_PAUSE
    probe_at: float = 0.0
    """When the next probe may start, on the clock of the event loop."""
    probes: int = 0
    """Probes in vain since the last success."""


class AutomaticRedriver:
    """Redrives letters of flows with `redrive: {when: recovered}`.

    For each group of waiting letters that failed at a service of their flow, one letter is redriven once no new letter
    of the group has come for 30 seconds. If it fails, the next probe follows after a pause that doubles up to 10
    minutes. If it is resolved, all waiting letters of the group are redriven at the rate of the flow; that job stops
    when more than half of them fail again, and probing continues.

    A letter that fails with another error moves to the group of that error, which gets the pause of this one.

    A probe chooses the letter with the fewest redrives, and never parks it. So 200 probes in vain, after which the
    group is left to a user, are spread over its letters: with fewer than 50 letters some may have reached the default
    limit of 5 redrives by then, and are parked when they fail once more in another redrive.

    While the circuit breaker of the service is open, no letter is redriven: other calls probe the service. A letter is
    the probe if a probe is due and there is no other call.

    Groups of which a job of a user is running, paused or stopped are left alone.

    `flows` returns the current revisions of all flows.
    """

    def __init__(
        self,
        redriver: Redriver,
        queues: Callable[[], Sequence[DeadLetterQueue]],
        flows: Callable[[], Sequence[RunnableFlow]],
    ) -> None:
        self._redriver = redriver
        self._queues = queues
        self._flows = flows
        self._groups: dict[tuple[str, str], GroupState] = {}
        """By URL of the store, and group."""
        self._tasks: dict[tuple[str, str], asyncio.Task[None]] = {}

    async def run(self) -> None:
        """Check all groups every few seconds, until it is cancelled. Then its jobs here are left to the redriver."""
        try:
            while True:
                await asyncio.sleep(CHECK_SECONDS)
                for queue in self._queues():
                    try:
                        await self._check(queue)
                    except StoreError as error:
                        log.warning("redrive.store_failed", store=queue.url, error=describe(error))
        finally:
            for task in self._tasks.values():
                task.cancel()
            if self._tasks:
                await asyncio.wait(list(self._tasks.values()))

    async def _check(self, queue: DeadLetterQueue) -> None:
        """Start probes for the groups of a store that are due."""
        await self._cancel_stopped(queue)
        found: set[tuple[str, str]] = set()
        for flow in self._flows():
            if (automatic := definition_of(flow).auto_redrive) is None:
                continue
            steps = service_steps(flow)
            async for group in waiting_groups(queue, flow.name):
                if group.step in steps:
                    found.add(key := (queue.url, group.id))
                    if first_down(steps[group.step]) is None:
                        self._probe_if_due(key, queue, group, automatic)
        for key in [key for key in self._groups if key[0] == queue.url and key not in found | self._tasks.keys()]:
            del self._groups[key]

    async def _cancel_stopped(self, queue: DeadLetterQueue) -> None:
        """Cancel jobs that stopped after the process that created them had ended: they reserve their groups."""
        for job in await queue.jobs(state="stopped", limit=PAGE_LIMIT):
            if (job.requester, job.reason) == (AUTOMATIC.name, AUTOMATIC.reason):
                await _cancel(queue, job)

    def _probe_if_due(self, key: tuple[str, str], queue: DeadLetterQueue, group: Group, automatic: AutoRedrive) -> None:
        loop = asyncio.get_running_loop()
        state = self._groups.setdefault(key, GroupState())
        quiet = now() - group.last_seen >= timedelta(seconds=FIRST_PAUSE)
        if key in self._tasks or not quiet or loop.time() < state.probe_at or state.probes >= MAX_PROBES:
            return
        task = loop.create_task(self._recover(state, queue, group, automatic), name=f"redrive:automatic:{group.id}")
        self._tasks[key] = task
        task.add_done_callback(lambda _: self._tasks.pop(key, None))

    async def _recover(self, state: GroupState, queue: DeadLetterQueue, group: Group, automatic: AutoRedrive) -> None:
        """Probe a group, and redrive it if the probe succeeded."""
        moved: str | None = None
        try:
            outcome, moved = await self._probe(queue, group)
            if outcome == "resolved":
                state.pause, state.probes = FIRST_PAUSE, 0
                outcome = await self._redrive(queue, group, automatic)
        except RedriveError as error:  # a job of a user has the group, or its last letter is gone
            log.debug("redrive.automatic_skipped", flow=group.flow, group=group.id, reason=describe(error))
            outcome = "unknown"
        except PenstockError as error:
            log.warning("redrive.automatic_failed", flow=group.flow, group=group.id, error=describe(error))
            outcome = "unknown"
        state.probe_at = asyncio.get_running_loop().time() + state.pause
        if outcome == "failed":
            state.pause = min(state.pause * 2, MAX_PAUSE)
            state.probes += 1
            if state.probes == MAX_PROBES:
                log.warning("redrive.automatic_gave_up", flow=group.flow, group=group.id, probes=state.probes)
            if moved is not None:
                self._groups[queue.url, moved] = GroupState(state.pause, state.probe_at, state.probes)

    async def _probe(self, queue: DeadLetterQueue, group: Group) -> tuple[Outcome, str | None]:
        """Redrive one letter of a group. Returns the outcome, and the group to which another error moved the letter."""
        page = await queue.page(DeadLetterQuery(group=group.id, state="waiting"), limit=CANDIDATES)
        if not page.letters:
            return "unknown", None
        letter: DeadLetter = min(page.letters, key=lambda letter: letter.redrives)
        query = DeadLetterQuery(group=group.id, ids=(letter.id,), state="waiting")
        job = await self._run(queue, query, JobOptions(limit=PROBE_LIMIT))
        log.info("redrive.probed", flow=group.flow, group=group.id, letter=letter.id, resolved=job.counts.resolved)
        if job.counts.resolved:
            return "resolved", None
        after = await queue.get(letter.id)
        moved = None if after is None or after.group == group.id else after.group
        return ("failed" if job.counts.failed else "unknown"), moved

    async def _redrive(self, queue: DeadLetterQueue, group: Group, automatic: AutoRedrive) -> Outcome:
        """Redrive all waiting letters of a group."""
        query = DeadLetterQuery(group=group.id, state="waiting")
        if not (await queue.count(query))[()]:
            return "resolved"
        job = await self._run(queue, query, JobOptions(rate=automatic.rate, stop_at=STOP_AT, limit=REDRIVE_LIMIT))
        return "failed" if job.counts.failed else "resolved"

    async def _run(self, queue: DeadLetterQueue, query: DeadLetterQuery, options: JobOptions) -> Job:
        """Create a job and run it. A job that stopped is cancelled: otherwise its groups would stay reserved."""
        job = await queue.create_job(query, options, AUTOMATIC)
        job = await self._redriver.run(queue, job.id)
        if job.state == "stopped":
            job = await _cancel(queue, job)
        return job


async def _cancel(queue: DeadLetterQueue, job: Job) -> Job:
    """Cancel a stopped job. Returns it as it is now: another process may have been faster."""
    try:
        return await queue.change_job(job.id, AUTOMATIC, state="cancelled")
    except JobEnded:
        return await queue.job(job.id) or job


async def waiting_groups(queue: DeadLetterQueue, flow: str) -> AsyncIterator[Group]:
    """Yield the groups of a flow that have waiting letters."""
    after: str | None = None
    query = DeadLetterQuery(flow=flow, state="waiting")
    while page := await queue.groups(query, after=after, limit=PAGE_LIMIT):
        for group in page:
            yield group
        after = page[-1].id


def service_steps(flow: RunnableFlow) -> dict[str, list[Service]]:
    """Return the names that the failures of services have, of their step or in `enrich` of their response.

    Each with the services that can be the reason.
    """
    steps: dict[str, list[Service]] = {}
    for step in walk(definition_of(flow).steps):
        for name, service in step.services.items():
            steps.setdefault(name if isinstance(step, Enrich) else step.name, []).append(service)
    return steps
