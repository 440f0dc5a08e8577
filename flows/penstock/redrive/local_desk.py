"""The desk over the dead-letter stores of this process."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Callable, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Literal

import msgspec
from msgspec.structs import replace

from penstock.deadletters.dead_letter import DeadLetter
from penstock.deadletters.dead_letter_queue import DeadLetterQueue, Group, History, Job, JobOptions, JobState, Requester
from penstock.deadletters.log import is_queue
from penstock.deadletters.store import PAGE, PAGE_BYTES, PAGE_LIMIT, DeadLetterQuery, DeadLetterStore, Page
from penstock.deadletters.stores import find_letter, identity_of, merge_pages
from penstock.deadletters.target import DeadLetterTarget
from penstock.errors import (
    FlowNotLoaded,
    InvalidEdit,
    JobNotFound,
    LetterNotEditable,
    LetterNotFound,
    NoLetters,
    NotSupportedByStore,
    SeveralStores,
)
from penstock.redrive.desk import SHOWN_CHANGES
from penstock.redrive.documents import check_options, check_rate, query_document
from penstock.redrive.expired_leases import release_expired
from penstock.redrive.merged import LogCursor, merged_groups
from penstock.redrive.records import AuditPage, Change, EditReport, ImportReport, LogReport, Plan, TryResult
from penstock.support.ids import id_of
from penstock.support.json_encoding import describe_json_error
from penstock.support.tasks import complete

if TYPE_CHECKING:
    from penstock.redrive.edits import Assignments
    from penstock.redrive.flows import FlowLookup
    from penstock.redrive.redriver import Redriver
    from penstock.runtime.supervisor import Supervisor

POLL_SECONDS = 1.0
"""Seconds between two checks of a job that runs in the background."""

LAST_RECORD = 2**63 - 1
"""No audit record has a larger number."""

EDITABLE = ("waiting", "parked")
"""The states of letters whose input can be changed."""


class LocalDesk:
    """The desk over the stores that `stores` returns, which are open. See `Desk`.

    Without a redriver and a supervisor it does everything but run letters.

    With `foreground=True`, a job runs while `progress` is read; otherwise it runs in the background.
    """

    def __init__(
        self,
        stores: Callable[[], Sequence[DeadLetterStore]],
        flows: FlowLookup,
        redriver: Redriver | None = None,
        supervisor: Supervisor | None = None,
        *,
        foreground: bool = False,
    ) -> None:
        self._stores = stores
        self._flows = flows
        self._redriver = redriver
        self._supervisor = supervisor
        self._foreground = foreground

    def places(self) -> list[str]:
        """Return the URLs of the stores."""
        return [store.url for store in self._stores()]

    async def groups(self, query: DeadLetterQuery, *, after: str | None = None, limit: int = PAGE) -> list[Group]:
        """Return groups. A group that is in several stores is returned once."""
        queues = self._queues("group letters", query)
        if len(queues) == 1:
            return await queues[0].groups(query, after=after, limit=limit)
        return await merged_groups(queues, query, after=after, limit=limit)

    async def total(self, query: DeadLetterQuery) -> Mapping[str, int]:
        """Count letters by state, without those in logs."""
        counts: Counter[str] = Counter()
        for queue in self._queues("count letters", query):
            counts.update({state: count for (state,), count in (await queue.count(query, by=("state",))).items()})
        return {state: count for state, count in counts.items() if count}

    async def page(self, query: DeadLetterQuery, *, after: str | None = None, limit: int = PAGE) -> Page:
        """Return letters of all databases, oldest first, then of one log after the other."""
        stores = list(self._stores())
        queues, logs = [each for each in stores if is_queue(each)], [each for each in stores if not is_queue(each)]
        if after is None and not queues:
            after = str(LogCursor(0))
        if after is None or not LogCursor.matches(after):
            after = None if after is None else id_of(after)
            page = await merge_pages(queues, query, after=after, limit=limit)
            return page if page.next is not None or not logs else Page(page.letters, str(LogCursor(0)))
        cursor = LogCursor.parse(after)
        if cursor.index >= len(logs):
            return Page([])
        page = await logs[cursor.index].page(query, after=cursor.position or None, limit=limit)
        if page.next is not None:
            return Page(page.letters, str(LogCursor(cursor.index, page.next)))
        following = cursor.index + 1
        return Page(page.letters, str(LogCursor(following)) if following < len(logs) else None)

    async def show(self, id: str) -> tuple[DeadLetter, History] | None:
        """Return a letter with what was done to it, or None."""
        found = await self._find(id)
        return None if found is None else (found[1], await found[0].history(found[1].id))

    async def plan(self, query: DeadLetterQuery, options: JobOptions) -> Plan:
        """Return what a redrive would do."""
        from penstock.redrive.plan import plan

        check_options(options)
        queue = await self._only_queue("plan a redrive", _waiting(query))
        planned = await plan(queue, query, options, self._flows)
        if not planned.letters:
            raise NoLetters
        return planned

    async def try_letters(self, query: DeadLetterQuery, options: JobOptions, count: int) -> list[TryResult]:
        """Run some letters without sinks."""
        from penstock.redrive.trial import try_letters

        check_options(options)
        queue = await self._only_queue("try letters", _waiting(query))
        if not (results := await try_letters(queue, query, options, self._flows, count)):
            raise NoLetters
        return results

    async def redrive(self, query: DeadLetterQuery, options: JobOptions, requester: Requester) -> Job | LogReport:
        """Create a job, and start it unless it is run by `progress`; or redrive the letters of a log."""
        check_options(options)
        if options.flow is not None:
            self._check_flow(options.flow)
        if (log := self._log_of(query)) is not None:
            from penstock.redrive.logs import redrive_log

            if self._supervisor is None:
                raise NotSupportedByStore(log.url, "redrive letters in the background")
            return await redrive_log(log, query, options, self._flows, self._supervisor)
        queue = await self._only_queue("redrive letters", _waiting(query))
        if options.flow is None:
            for (name,) in await queue.count(replace(query, state="waiting"), by=("flow",)):
                self._check_flow(name)
        job = await queue.create_job(query, options, requester)
        if self._redriver is not None and not self._foreground:
            self._redriver.start(queue, job.id)
        return job

    async def jobs(self, *, state: JobState | None = None, after: str | None = None, limit: int = PAGE) -> list[Job]:
        """Return jobs, newest first."""
        found = [
            job
            for queue in self._queues("list jobs")
            for job in await queue.jobs(state=state, after=after, limit=limit)
        ]
        return sorted({job.id: job for job in found}.values(), key=lambda job: job.id, reverse=True)[:limit]

    async def job(self, id: str) -> Job:
        """Return a job."""
        return (await self._find_job(id))[1]

    async def change_job(
        self,
        id: str,
        requester: Requester,
        *,
        state: Literal["running", "paused", "cancelled"] | None = None,
        rate: float | Literal["keep"] | None = "keep",
    ) -> Job:
        """Change a job. Waits until the letters of a job that ran in the foreground are settled."""
        if rate is not None and rate != "keep":
            check_rate(rate)
        queue, _ = await self._find_job(id)
        job = await queue.change_job(id, requester, state=state, rate=rate)
        if self._redriver is None:
            return job
        if self._foreground and job.state != "running":
            await self._redriver.drain()
        elif not self._foreground and job.state == "running":
            self._redriver.start(queue, id)
        return job

    async def abort(self) -> None:
        """Cancel the letters in flight. They wait again."""
        if self._redriver is not None:
            await self._redriver.abort()

    async def progress(self, id: str) -> AsyncGenerator[Job]:
        """Yield a job after changes, until it is no longer running."""
        queue, job = await self._find_job(id)
        yield job
        if not self._foreground:
            while job.state == "running":
                await asyncio.sleep(POLL_SECONDS)
                if (fresh := await queue.job(id)) is None:
                    raise JobNotFound(id)
                if fresh != job:
                    yield fresh
                job = fresh
            return
        if job.state != "running":
            return
        changed = asyncio.Event()

        def on_progress(fresh: Job) -> None:
            nonlocal job
            job = fresh
            changed.set()

        redriver = self._redriver
        assert redriver is not None, "needed to run letters"
        run = asyncio.create_task(redriver.run(queue, id, on_progress=on_progress), name=f"redrive:{id}")
        run.add_done_callback(lambda _: changed.set())
        try:
            while not run.done():
                await changed.wait()
                changed.clear()
                if not run.done():
                    yield job
            yield run.result()
        finally:
            if not run.done():
                await redriver.drain()
                await run

    async def park(self, query: DeadLetterQuery, requester: Requester) -> int:
        """Park waiting letters."""
        queues = await self._concerned("park letters", query)
        return sum([await queue.mark(query, "parked", requester) for queue in queues])

    async def unpark(self, query: DeadLetterQuery, requester: Requester) -> int:
        """Make parked letters wait."""
        queues = await self._concerned("unpark letters", query)
        return sum([await queue.mark(query, "waiting", requester) for queue in queues])

    async def purge(self, query: DeadLetterQuery, requester: Requester) -> int:
        """Delete letters that are not claimed."""
        queues = await self._concerned("delete letters", query)
        return sum([await queue.purge(query, requester) for queue in queues])

    async def edit(self, id: str, input: bytes, requester: Requester) -> DeadLetter:
        """Replace the input of a letter by JSON."""
        try:
            msgspec.json.decode(input)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise InvalidEdit(describe_json_error(error, input)) from None
        self._queues("edit letters")
        if (found := await self._find(id)) is None:
            raise LetterNotFound(id)
        queue, letter = found
        await queue.edit({letter.id: input}, requester)
        edited = await queue.get(letter.id)
        if edited is None:
            raise LetterNotFound(id)
        if edited.input != input:
            raise LetterNotEditable(letter.id, edited.state)
        return edited

    async def preview(
        self, query: DeadLetterQuery, assignments: Sequence[str], *, count: int = SHOWN_CHANGES
    ) -> list[Change]:
        """Return what `apply` would change in the first letters."""
        from penstock.redrive.edits import Assignments

        change = Assignments.parse(assignments)
        changes: list[Change] = []
        for queue in self._queues("edit letters", query):
            async for letters in _editable(queue, query):
                changes += await change.changes(letters[: count - len(changes)])
                if len(changes) >= count:
                    return changes
        return changes

    async def apply(self, query: DeadLetterQuery, assignments: Sequence[str], requester: Requester) -> EditReport:
        """Change the inputs of all waiting and parked letters that match, a page at a time.

        A cancelled caller waits until all are changed: a repeated request would change the first ones twice. A second
        cancellation ends the edit between two pages.
        """
        from penstock.redrive.edits import Assignments

        change = Assignments.parse(assignments)
        queues = self._queues("edit letters", query)
        return await complete(_apply(queues, query, change, list(assignments), requester), "edit letters")

    async def export(self, query: DeadLetterQuery) -> AsyncGenerator[DeadLetter]:
        """Yield all letters that match."""
        after = None
        while True:
            page = await self.page(query, after=after, limit=PAGE_LIMIT)
            for letter in page.letters:
                yield letter
            if page.next is None:
                return
            after = page.next

    async def import_letters(self, letters: AsyncIterable[DeadLetter], requester: Requester) -> ImportReport:
        """Store letters in the store of their flow, or in the first one. Claimed letters wait again."""
        queues = self._queues("import letters")
        read = imported = 0
        async for batch in _batches(letters):
            read += len(batch)
            by_queue: dict[int, list[DeadLetter]] = {}
            for letter in batch:
                waiting = replace(letter, state="waiting") if letter.state == "claimed" else letter
                by_queue.setdefault(self._index_for(letter.flow, queues), []).append(waiting)
            for index, part in by_queue.items():
                imported += await queues[index].import_letters(part, requester)
        return ImportReport(imported=imported, skipped=read - imported)

    async def audit(self, *, job: str | None = None, after: str | None = None, limit: int = PAGE) -> AuditPage:
        """Return audit records, newest first. The cursor has one number for each store."""
        queues = self._queues("keep an audit")
        cursors: list[int | None] = [None] * len(queues)
        with suppress(ValueError):
            texts = [] if after is None else after.split("-")
            cursors = (
                [min(int(text), LAST_RECORD) if text else None for text in texts]
                if len(texts) == len(queues)
                else cursors
            )
        found = [
            (record, index)
            for index, queue in enumerate(queues)
            for record in await queue.audit(job=job, after=cursors[index], limit=limit)
        ]
        if len(queues) > 1:
            found.sort(key=lambda each: each[0].at, reverse=True)  # records of one store stay in their order
        for record, index in found[:limit]:
            cursors[index] = record.number
        more = len(found) >= limit
        following = "-".join("" if number is None else str(number) for number in cursors)
        return AuditPage([record for record, _ in found[:limit]], following if more else None)

    def _queues(self, action: str, query: DeadLetterQuery | None = None) -> list[DeadLetterQueue]:
        """Return the stores that are no logs. Raises `NotSupportedByStore` if the letters of the query are in a log."""
        if query is not None and (log := self._log_of(query)) is not None:
            raise NotSupportedByStore(log.url, action)
        stores = self._stores()
        queues = [store for store in stores if is_queue(store)]
        if stores and not queues:
            raise NotSupportedByStore(stores[0].url, action)
        return queues

    async def _concerned(self, action: str, query: DeadLetterQuery) -> list[DeadLetterQueue]:
        """Return the stores that have letters that match; if none has, one store, whose audit records the action."""
        queues = self._queues(action, query)
        if len(queues) < 2:
            return queues
        matching = [queue for queue in queues if (await queue.count(query))[()]]
        return matching or [queues[0 if query.flow is None else self._index_for(query.flow, queues)]]

    async def _only_queue(self, action: str, query: DeadLetterQuery) -> DeadLetterQueue:
        """Return the store that has letters that match. Raises `NoLetters` or `SeveralStores`."""
        queues = self._queues(action, query)
        for queue in queues:
            await release_expired(queue)
        if len(queues) > 1:
            queues = [queue for queue in queues if (await queue.count(query))[()]]
        if not queues:
            raise NoLetters
        if len(queues) > 1:
            raise SeveralStores([queue.url for queue in queues])
        return queues[0]

    def _check_flow(self, name: str) -> None:
        """Raise `FlowNotLoaded` for a flow that cannot run here. Without a redriver, letters are run elsewhere."""
        if self._redriver is not None and self._flows.flow(name) is None:
            raise FlowNotLoaded(name, sorted(self._flows.names()))

    def _log_of(self, query: DeadLetterQuery) -> Any:
        """Return the log that has the letters of a query: the only store, or the one of the flow. None: no log has."""
        stores = self._stores()
        if len(stores) == 1:
            return None if is_queue(stores[0]) else stores[0]
        found = self._store_of(query.flow, stores) if query.flow is not None else None
        return None if found is None or is_queue(found) else found

    def _index_for(self, flow: str, queues: Sequence[DeadLetterQueue]) -> int:
        found = self._store_of(flow, queues)
        return 0 if found is None else [id(queue) for queue in queues].index(id(found))

    def _store_of(self, name: str, stores: Sequence[DeadLetterStore]) -> DeadLetterStore | None:
        """Return the store of a flow among some stores."""
        flow = self._flows.flow(name)
        place: Any = None if flow is None else flow.plan().dead_letters
        if isinstance(place, DeadLetterTarget):
            place = place.store
        if isinstance(place, str):
            url = identity_of(place)
            return next((store for store in stores if identity_of(store.url) == url), None)
        return next((store for store in stores if store is place), None)

    async def _find(self, id: str) -> tuple[DeadLetterQueue, DeadLetter] | None:
        with suppress(ValueError):  # no letter has an invalid id
            id = id_of(id)
        queues = self._queues("show one letter")
        for queue in queues:
            if (letter := await find_letter([queue], id)) is not None:
                return queue, letter
        return None

    async def _find_job(self, id: str) -> tuple[DeadLetterQueue, Job]:
        for queue in self._queues("run jobs"):
            if (job := await queue.job(id)) is not None:
                return queue, job
        raise JobNotFound(id)


def _waiting(query: DeadLetterQuery) -> DeadLetterQuery:
    return query if query.state is not None else replace(query, state="waiting")


async def _editable(queue: DeadLetterQueue, query: DeadLetterQuery) -> AsyncIterator[list[DeadLetter]]:
    """Yield the letters that can be edited, a page at a time."""
    after = None
    while True:
        page = await queue.page(query, after=after, limit=PAGE_LIMIT)
        yield [letter for letter in page.letters if letter.state in EDITABLE]
        if page.next is None:
            return
        after = page.next


async def _apply(
    queues: Sequence[DeadLetterQueue],
    query: DeadLetterQuery,
    change: Assignments,
    assignments: list[str],
    requester: Requester,
) -> EditReport:
    selection: dict[str, Any] = query_document(query) | {"set": assignments}
    report = EditReport(changed=0, unchanged=0, errors=0, samples=[])
    for queue in queues:
        before = report
        async for letters in _editable(queue, query):
            report = _sum(report, await _apply_to(queue, letters, change, selection, requester))
        if report.changed == before.changed and report != before:
            await queue.edit({}, requester, query=selection)  # for the audit
    return report


async def _apply_to(
    queue: DeadLetterQueue,
    letters: Sequence[DeadLetter],
    change: Assignments,
    selection: Mapping[str, Any],
    requester: Requester,
) -> EditReport:
    """Change the inputs of some letters. Letters that others change meanwhile are read and changed again."""
    report = EditReport(changed=0, unchanged=0, errors=0, samples=[])
    missed: tuple[str, ...] = ()
    async for changes in change.batches(letters):
        failed = [each for each in changes if each.after is None]
        inputs = {each.id: each.after for each in changes if each.after not in (None, each.before)}
        before = {each.id: each.before for each in changes}
        edited = await queue.edit(inputs, requester, query=selection, expected=before) if inputs else []
        missed += tuple(inputs.keys() - set(edited))
        done = EditReport(
            changed=len(edited),
            unchanged=len(changes) - len(failed) - len(inputs),
            errors=len(failed),
            samples=failed[:SHOWN_CHANGES],
        )
        report = _sum(report, done)
    if missed:
        async for others in _editable(queue, DeadLetterQuery(ids=missed)):
            report = _sum(report, await _apply_to(queue, others, change, selection, requester))
    return report


def _sum(one: EditReport, other: EditReport) -> EditReport:
    return EditReport(
        changed=one.changed + other.changed,
        unchanged=one.unchanged + other.unchanged,
        errors=one.errors + other.errors,
        samples=[*one.samples, *other.samples][:SHOWN_CHANGES],
    )


async def _batches(letters: AsyncIterable[DeadLetter]) -> AsyncIterator[list[DeadLetter]]:
    """Yield letters in batches that are not larger than a page."""
    batch: list[DeadLetter] = []
    size = 0
    async for letter in letters:
        batch.append(letter)
        size += len(letter.input)
        if len(batch) >= PAGE_LIMIT or size > PAGE_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch
