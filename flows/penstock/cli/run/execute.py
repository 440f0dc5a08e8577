"""One run from the command line, from its start to its end record, its summary and its exit code."""

from __future__ import annotations

import asyncio
import shlex
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, TextIO

from penstock.checkpoints.journal import Journal
from penstock.checkpoints.output_file import FileOutput, Output
from penstock.checkpoints.resume import ResumedNdjson, find_letters, save
from penstock.cli.run.inputs import FileInput
from penstock.cli.run.progress import Progress, ProgressSnapshot, summary_line
from penstock.cli.run.signals import signal_handlers
from penstock.core.element import Outcome
from penstock.deadletters import Stores
from penstock.deadletters.stores import MEMORY, normalize_url
from penstock.errors import OutputUnusable, ReaderDisconnected
from penstock.flow.flow import Flow
from penstock.results import EndRecord, LineWriter, end_line
from penstock.runtime import Run, Summary
from penstock.sources import Source
from penstock.support.text import printable


@dataclass(kw_only=True)
class Resumable:
    """What a run that can be resumed has beside: its journal, and where its checkpoints are."""

    journal: Journal
    path: str
    output: FileOutput
    make_source: Callable[..., FileInput]
    every: float


@dataclass(kw_only=True)
class Job:
    """What was asked for."""

    flow: Flow[Any]
    output: Output
    source: Source[Any] | None = None
    resumable: Resumable | None = None
    ordered: bool = False
    share: Callable[[], float] | None = None
    """How much of the input was read, where that can be known."""
    progress: bool = False
    quiet: bool = False
    messages: TextIO = field(default_factory=lambda: sys.stderr)


async def execute(job: Job) -> int:
    """Run a job; returns 0 if all is well, 1 if anything failed, or the run did not come to its end."""
    stores = Stores(separate_writer=True)
    try:
        return await _Execution(job, stores).run()
    finally:
        await stores.aclose()


class _Execution:
    """A job that is under way."""

    def __init__(self, job: Job, stores: Stores) -> None:
        self._job = job
        self._stores = stores
        self._aborted = asyncio.Event()

    async def run(self) -> int:
        """Run it; returns the exit code."""
        run, source = await self._start()
        if isinstance(source, FileInput):
            self._job.share = lambda: source.share_read
        resumable = self._job.resumable

        def abort() -> None:
            self._aborted.set()
            run.abort()

        with signal_handlers(run.drain, abort):
            helpers = [asyncio.create_task(self._draw(run), name="penstock:progress")] if self._job.progress else []
            if resumable is not None:
                helpers.append(asyncio.create_task(self._save_often(run, resumable), name="penstock:checkpoints"))
            summary = await run.finished
            for helper in helpers:
                helper.cancel()
            await asyncio.gather(*helpers, return_exceptions=True)
            end = summary.end() if resumable is None else resumable.journal.end_of(summary)
            told = await self._tell_end(end, run)
            if resumable is not None:
                resumable.journal.end = end if told else None
                await _save(resumable)
        if summary.reason != "disconnected":
            self._summarize(summary, end)
        return 0 if end.reason == "completed" and told and not end.failed else 1

    async def _start(self) -> tuple[Run, Source[Any]]:
        job = self._job
        plan = job.flow.plan()
        if job.resumable is None:
            assert job.source is not None
            sink = LineWriter(job.output.write)
            return Run(plan, job.source, sink, ordered=job.ordered, stores=self._stores), job.source

        journal = job.resumable.journal
        letters = {}
        if plan.dead_letters is not None:
            letters = await find_letters(await self._stores.get(plan.dead_letters), journal)
        source = job.resumable.make_source(done=list(journal.done), letters=letters)
        run = Run(
            plan,
            source,
            LineWriter(job.output.write, ResumedNdjson(journal)),
            ordered=job.ordered,
            stores=self._stores,
            id=journal.run,
            first=journal.done.low,
        )
        run.ledger.on_settled = journal.on_settled
        return run, source

    async def _save_often(self, run: Run, resumable: Resumable) -> None:
        """Write checkpoints until cancelled. One that cannot be written ends the run: it could not be resumed."""
        try:
            while True:
                await asyncio.sleep(resumable.every)
                await _save(resumable)
        except Exception as error:  # also a bug: without checkpoints the run could not be resumed
            run.scope.report_fault(error)

    async def _draw(self, run: Run) -> None:
        await Progress(self._job.flow.name, lambda: self._standing(run), self._job.messages).draw()

    def _standing(self, run: Run) -> ProgressSnapshot:
        ledger, share = run.ledger, self._job.share
        settled = ledger.settled if self._job.resumable is None else self._job.resumable.journal.counts
        ok, failed, filtered = (settled[one] for one in (Outcome.OK, Outcome.FAILED, Outcome.FILTERED))
        return ProgressSnapshot(
            ok + failed + filtered + ledger.in_flight,
            ok,
            failed,
            filtered,
            ledger.in_flight,
            None if share is None else share(),
        )

    async def _tell_end(self, end: EndRecord, run: Run) -> bool:
        """Write the end record, unless the output was cut; it stays open for those who go on with it."""
        ended = ("completed",) if self._job.resumable is not None else ("completed", "draining", "failed")
        if end.reason not in ended or isinstance(run.error, OutputUnusable):
            return False
        telling = asyncio.ensure_future(self._job.output.write(end_line(end)))
        aborted = asyncio.ensure_future(self._aborted.wait())
        await asyncio.wait((telling, aborted), return_when=asyncio.FIRST_COMPLETED)
        for task in (telling, aborted):
            task.cancel()
        with suppress(asyncio.CancelledError, ReaderDisconnected):
            await telling
            return True
        return False

    def _summarize(self, summary: Summary, end: EndRecord) -> None:
        if self._job.quiet:
            return
        job, say = self._job, self._job.messages.write
        say(summary_line(job.flow.name, end) + "\n")
        if summary.error is not None:
            say(f"  the run broke: {printable(summary.error)}\n")
        if end.failed and (job.flow.store is None or isinstance(job.flow.store, str)):
            say(dead_letter_hint(job.flow.store, summary.run))
        if job.resumable is not None and end.reason != "completed":
            say("  the same command goes on from here\n")
        job.messages.flush()


async def _save(resumable: Resumable) -> None:
    await save(resumable.path, resumable.output, resumable.journal.checkpoint(resumable.output.offset))


def dead_letter_hint(url: str | None, run: str) -> str:
    """How to look at what failed, as a line of the summary."""
    if url is None:
        return "  nothing of what failed was kept; to keep it: --dead-letters sqlite:///FILE\n"
    if normalize_url(url) == MEMORY:
        return "  what failed was kept in memory and is gone; to keep it: --dead-letters sqlite:///FILE\n"
    return f"  what failed: penstock dead-letters list --dead-letters {shlex.quote(url)} --run {run}\n"
