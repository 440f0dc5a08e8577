"""Redrive the letters of a log: as a consumer of its group, at least once."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from contextlib import aclosing
from itertools import groupby
from typing import Any

from msgspec.structs import replace

from penstock.deadletters import DeadLetter, DeadLetterQuery
from penstock.deadletters.dead_letter_queue import JobOptions, Settlement
from penstock.deadletters.groups import fingerprint
from penstock.deadletters.log import LogBatch, LogStore
from penstock.deadletters.matching import matches
from penstock.deadletters.memory_jobs import replaced_fields
from penstock.errors import NotSupportedByStore, RedriveError
from penstock.redrive.flow_run import FlowRun
from penstock.redrive.flows import FlowLookup
from penstock.redrive.pacer import Pacer
from penstock.redrive.records import LogReport
from penstock.runtime import Supervisor
from penstock.support.logger import get_logger

log = get_logger()

MAX_BATCHES = 4
"""Maximum batches of the log that are in progress at a time."""


async def redrive_log(
    store: LogStore, query: DeadLetterQuery, options: JobOptions, flows: FlowLookup, supervisor: Supervisor
) -> LogReport:
    """Redrive the waiting letters that the group has not received yet, up to the current end of the log.

    A letter that fails again is appended again, with one more redrive, before its batch is acknowledged; at the limit
    as parked: it stays in the log, and is not received again. Letters that the query does not match stay for later
    redrives. If the process is killed, letters of open batches are redriven again.

    Raises `NotSupportedByStore` for canary batches and a threshold, which need a fixed set of letters, `RedriveError`
    for an unknown flow or a run that failed, and `StoreError`.
    """
    if options.canary or options.stop_at is not None:
        raise NotSupportedByStore(store.url, "redrive in canary batches or stop at a share of failures")
    return await LogRedrive(store, query, options, flows, supervisor).run()


class OpenBatch:
    """A batch of the log whose letters are in progress."""

    def __init__(self, batch: LogBatch, letters: Sequence[DeadLetter], unchanged: Sequence[DeadLetter]) -> None:
        self.batch = batch
        self.letters = {letter.id: letter for letter in letters}
        self.open = set(self.letters)
        self.again = list(unchanged)
        """Letters that stay as they are."""
        self.done = 0
        """Letters that were resolved, or appended again because they failed."""


class LogRedrive:
    """Redrives one log. Takes the outcomes of its runs, as a `Settler` does for a job."""

    def __init__(
        self, store: LogStore, query: DeadLetterQuery, options: JobOptions, flows: FlowLookup, supervisor: Supervisor
    ) -> None:
        self._store = store
        self._query = replace(query, state="waiting")
        self._options = options
        self._flows = flows
        self._supervisor = supervisor
        self._pacer = Pacer(options.rate)
        self._runs: dict[str, FlowRun] = {}
        self._batches: dict[str, OpenBatch] = {}
        """The batch of each letter in progress."""
        self._tasks: set[asyncio.Task[None]] = set()
        """Acknowledgements, and appends of letters that failed without the failure branch."""
        self._changed = asyncio.Event()
        self._error: str | None = None
        self._failure: BaseException | None = None
        self._report = LogReport()

    async def run(self) -> LogReport:
        """Redrive up to the end of the log. A cancel aborts the letters in flight; they are received again later."""
        async with aclosing(self._store.consume()) as batches:
            try:
                async for batch in batches:
                    await self._begin(batch)
                    while self._in_progress >= MAX_BATCHES and not self._is_failed:
                        await self._wait()
                    if self._is_failed:
                        break
                await self._finish()
            except BaseException:
                for run in self._runs.values():
                    run.abort()
                await self._finish()
                raise
        if self._failure is not None:
            raise self._failure
        if self._error is not None:
            raise RedriveError(self._error)
        report = self._report
        log.info(
            "redrive.log_ended",
            store=self._store.url,
            resolved=report.resolved,
            failed=report.failed,
            parked=report.parked,
        )
        return self._report

    def add(self, settlement: Settlement) -> None:
        """Take the outcome of a letter. One that failed is appended again in the background."""
        if settlement.outcome == "failed":
            self._begin_task(self._append(settlement), "append")
            return
        batch = self._batches[settlement.id]
        if settlement.outcome == "cancelled":
            batch.again.append(batch.letters[settlement.id])
            self._report = replace(self._report, cancelled=self._report.cancelled + 1)
        else:
            batch.done += 1
            self._report = replace(self._report, resolved=self._report.resolved + 1)
        self._close_letter(settlement.id, batch)

    async def settle(self, settlements: Sequence[Settlement]) -> None:
        """Append letters that failed again, durably."""
        again: list[DeadLetter] = []
        for settlement in settlements:
            letter = self._batches[settlement.id].letters[settlement.id]
            redrives = letter.redrives + 1
            state = "parked" if redrives >= self._options.limit else "waiting"
            fields = replaced_fields(letter, settlement.error)
            again.append(replace(letter, state=state, redrives=redrives, **fields))
        await self._store.add(again)
        for letter in again:
            batch = self._batches[letter.id]
            batch.done += 1
            parked = self._report.parked + (letter.state == "parked")
            self._report = replace(self._report, failed=self._report.failed + 1, parked=parked)
            self._close_letter(letter.id, batch)

    @property
    def _in_progress(self) -> int:
        """Batches that are not acknowledged."""
        return len(set(self._batches.values())) + len(self._tasks)

    @property
    def _is_failed(self) -> bool:
        return self._error is not None or self._failure is not None

    async def _begin(self, batch: LogBatch) -> None:
        """Run the letters of a batch that match."""
        chosen = [letter for letter in batch.letters if self._matches(letter) and letter.id not in self._batches]
        ids = {letter.id for letter in chosen}
        # A log keeps what it acknowledges. So a parked letter stays there without being appended again.
        unchanged = [letter for letter in batch.letters if letter.id not in ids and letter.state != "parked"]
        if not chosen:
            await batch.ack(again=unchanged)
            return
        opened = OpenBatch(batch, chosen, unchanged)
        self._batches |= dict.fromkeys(opened.letters, opened)
        self._report = replace(self._report, total=self._report.total + len(opened.letters))
        for name, group in groupby(opened.letters.values(), lambda letter: self._options.flow or letter.flow):
            await self._run_letters(name, list(group))

    async def _run_letters(self, name: str, letters: list[DeadLetter]) -> None:
        """Run letters through a flow, at the rate. They are cancelled if that is impossible."""
        while letters:
            count = await self._pacer.take(len(letters))
            run = self._run_of(name)
            if run is None or not await run.put(letters[:count]):
                for letter in letters:
                    self.add(Settlement(letter.id, "cancelled"))
                self._error = self._error or f"the flow {name} is not loaded; load it, or use --through NAME"
                return
            del letters[:count]

    def _matches(self, letter: DeadLetter) -> bool:
        if self._query.group is not None and letter.group is None:
            group = fingerprint(letter.flow, letter.step, letter.type, letter.message)
            letter = replace(letter, group=group)
        return matches(letter, self._query)

    def _run_of(self, name: str) -> FlowRun | None:
        run, flow = self._runs.get(name), self._flows.flow(name)
        if flow is None or self._is_failed:
            return None
        if run is None or run.ended:
            run = FlowRun(flow, self._supervisor, self._store, self, self._options, self._on_run_end)
            self._runs[name] = run
        return run

    def _on_run_end(self, _: FlowRun, error: str | None) -> None:
        self._error = self._error or error
        self._changed.set()

    def _close_letter(self, id: str, batch: OpenBatch) -> None:
        batch.open.discard(id)
        del self._batches[id]
        if not batch.open and batch.done:
            self._begin_task(self._acknowledge(batch), "acknowledge")
        self._changed.set()

    async def _append(self, settlement: Settlement) -> None:
        """Append a letter that failed again. If that fails, the redrive ends, and the letter is received again."""
        try:
            await self.settle([settlement])
        except Exception as error:
            self._failure = self._failure or error

    async def _acknowledge(self, batch: OpenBatch) -> None:
        """Acknowledge a batch, except for the letters that were not redriven."""
        try:
            await batch.batch.ack(again=batch.again)
        except Exception as error:
            self._failure = self._failure or error

    def _begin_task(self, work: Coroutine[Any, Any, None], name: str) -> None:
        task = asyncio.get_running_loop().create_task(work, name=f"redrive:{name}")
        self._tasks.add(task)
        task.add_done_callback(self._on_task_end)

    def _on_task_end(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._changed.set()

    async def _wait(self) -> None:
        self._changed.clear()
        await self._changed.wait()

    async def _finish(self) -> None:
        """Finish the letters in flight, and acknowledge their batches."""
        for run in self._runs.values():
            run.finish()
        if self._runs:
            await asyncio.wait([run.finished for run in self._runs.values()])
        while self._tasks:  # the last append of a batch begins its acknowledgement
            await asyncio.wait(list(self._tasks))
            await asyncio.sleep(0)
