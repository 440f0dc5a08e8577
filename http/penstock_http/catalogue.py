"""The catalogue: the flows that are served, each with its revisions, and how one takes over from another.

New runs take the active revision. Those of the one before go on undisturbed to their own end; its workers are drained
before those of the new one start, so that no worker runs twice at once. After its last run a revision is retired.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Coroutine, Iterable, Mapping
from functools import partial
from typing import Any

import structlog

from penstock.deadletters import now
from penstock.errors import PenstockError, Stopping, StoreError, describe
from penstock.flow import Worker
from penstock.observe import Reloads
from penstock.runtime import Phase, Supervisor
from penstock.sources import Source
from penstock_http.clashes import clashes
from penstock_http.entries import Entry, shared
from penstock_http.receipts import Fault, Receipt, Verdict, faults_of, refused
from penstock_http.revision import Offer, Revision, State

log: structlog.stdlib.BoundLogger = structlog.get_logger()

REMOVED = 100
"""Flows that were removed and are still remembered, with their numbers."""

NOTHING: Mapping[str, Offer | None] = {}


class Catalogue:
    """The flows that are served. `keep` is the URL of the store that stays open whatever flows there are."""

    def __init__(self, supervisor: Supervisor, reloads: Reloads, *, keep: str = "") -> None:
        self.entries: dict[str, Entry] = {}
        self.served: dict[str, Revision] = {}
        """The active revisions that are served over HTTP, by the names in their paths."""
        self._supervisor = supervisor
        self._reloads = reloads
        self._keep = keep
        self._offering = asyncio.Lock()
        self._changes: set[asyncio.Task[None]] = set()

    @property
    def active(self) -> list[Revision]:
        """The revisions that new runs take."""
        return [entry.active for entry in self.entries.values() if entry.active is not None]

    @property
    def in_use(self) -> list[Revision]:
        """The revisions that may have runs."""
        return [
            revision
            for entry in self.entries.values()
            for revision in entry.revisions
            if revision.state is not State.RETIRED
        ]

    async def offer(
        self, *offers: Offer, leaving: Mapping[str, Offer | None] = NOTHING, dry: bool = False
    ) -> list[Receipt]:
        """Serve these flows from now on, each if nothing is wrong with it; raises `Stopping`.

        `leaving` are the names of flows that end at the same moment, each with the offer that comes in its place, if
        one does: if that is refused, the flow stays. With `dry` nothing is changed, and a receipt says what would have
        come of it.
        """
        async with self._offering:
            if self._supervisor.phase is not Phase.SERVING:
                raise Stopping
            wrong = self._clashes(offers, leaving)
            if dry:
                return [self._receipt(offer, wrong.get(offer, ())) for offer in offers]

            revisions = self._revisions(offers)
            for offer in offers:
                if offer not in wrong and not self._unchanged(offer):
                    wrong |= await self._opened(offer, revisions[offer])
            wrong |= self._clashes([offer for offer in offers if offer not in wrong], leaving)
            receipts = [self._receipt(offer, wrong.get(offer, ())) for offer in offers]
            for receipt, offer in zip(receipts, offers, strict=True):
                if receipt.outcome is Verdict.ACCEPTED:
                    self._take(revisions[offer])
            ended = [name for name, other in leaving.items() if other not in wrong]
            receipts += [receipt for name in ended for receipt in self._remove(name)]
            self.served = {path: each for each in self.active if (path := each.served_as) is not None}
            for receipt in receipts:
                self._note(receipt)
            for offer in wrong:
                await self._forget(revisions[offer])
            return receipts

    def refuse(self, receipt: Receipt) -> None:
        """Take note that a flow could not even be read."""
        self._note(receipt)

    async def aclose(self) -> None:
        """The service stops: no further workers are started."""
        for change in self._changes:
            change.cancel()
        await asyncio.gather(*self._changes, return_exceptions=True)

    def _revisions(self, offers: Iterable[Offer]) -> dict[Offer, Revision]:
        """The revisions that offers would be, with those services that are in use already."""
        services = [service for revision in self.in_use for service in revision.services]
        revisions: dict[Offer, Revision] = {}
        for offer in offers:
            flow = shared(offer.flow, services)
            services += flow.services
            revisions[offer] = Revision(flow, self._next(flow.name), offer.digest, offer.source)
        return revisions

    def _next(self, name: str) -> int:
        """The number of the next revision of a flow."""
        return self.entries[name].number + 1 if name in self.entries else 1

    async def _opened(self, offer: Offer, revision: Revision) -> dict[Offer, list[Fault]]:
        try:
            await self._supervisor.add(revision)
        except PenstockError as error:
            return {offer: faults_of(error, offer.source)}
        return {}

    def _clashes(self, offers: Iterable[Offer], leaving: Mapping[str, Offer | None]) -> dict[Offer, list[Fault]]:
        return clashes(list(offers), leaving, self.active, self.entries)

    def _unchanged(self, offer: Offer) -> bool:
        entry = self.entries.get(offer.flow.name)
        return entry is not None and entry.active is not None and entry.active.digest == offer.digest

    def _receipt(self, offer: Offer, mistakes: Collection[Fault]) -> Receipt:
        """What an offer comes to."""
        if mistakes:
            return refused(offer.flow.name, offer.source, mistakes)
        same = self._unchanged(offer)
        return Receipt(
            flow=offer.flow.name,
            outcome=Verdict.UNCHANGED if same else Verdict.ACCEPTED,
            source=offer.source,
            at=now(),
            revision=self._next(offer.flow.name) - same,
            digest=offer.digest,
        )

    def _take(self, revision: Revision) -> None:
        """Give new runs of a flow this revision."""
        entry = self.entries.setdefault(revision.name, Entry(revision.name))
        before = entry.take(revision)
        self._reloads.active[revision.name] = revision.number
        self._start(self._change(entry, before, revision), f"revision:{revision.name}:{revision.number}")

    def _remove(self, name: str) -> list[Receipt]:
        """Give a flow no further runs."""
        entry = self.entries.get(name)
        if entry is None or (before := entry.take(None)) is None:
            return []
        del self._reloads.active[name]
        self._start(self._change(entry, before, None), f"revision:{name}:none")
        number, digest = before.number, before.digest
        removed = Verdict.REMOVED
        return [Receipt(flow=name, outcome=removed, source=before.source, at=now(), revision=number, digest=digest)]

    def _note(self, receipt: Receipt) -> None:
        entry = self.entries.get(receipt.flow)
        if entry is not None:
            entry.last = receipt
        self._reloads.outcomes[entry.name if entry else "", receipt.outcome.value] += 1

    def _start(self, change: Coroutine[Any, Any, None], name: str) -> None:
        task = asyncio.get_running_loop().create_task(change, name=name)
        self._changes.add(task)
        task.add_done_callback(self._changes.discard)

    async def _change(self, entry: Entry, before: Revision | None, after: Revision | None) -> None:
        """See one revision take over from another, then the old one to its end."""
        supervisor = self._supervisor
        async with entry.changing:  # one change after the other: workers of three revisions are not to meet
            if before is not None:
                await supervisor.rest(before)
            if after is not None and after.state is State.ACTIVE:
                for worker in after.flow.workers:
                    source = partial(_source, worker)
                    supervisor.work(worker.name, after, source, schedule=worker.schedule)
        if before is not None:
            await before.free()
            await asyncio.gather(*(run.finished for run in supervisor.runs_of(before.plan())))
            await self._forget(before)
            before.retire()
            self._trim(entry)
            log.info("revision.retired", flow=before.name, revision=before.number, digest=before.digest)

    async def _forget(self, revision: Revision) -> None:
        """Let go of what only this revision used."""
        rest = [other for other in self.in_use if other is not revision]
        try:
            await self._supervisor.forget(revision, rest, keep=(self._keep,))
        except StoreError as error:
            log.warning("store.failed", flow=revision.name, error=describe(error))
        if revision.name not in self.entries:
            self._supervisor.totals.pop(revision.name, None)

    def _trim(self, entry: Entry) -> None:
        """Forget old revisions of a flow, and the flows that were removed the longest ago."""
        entry.trim()
        over = [name for name, other in self.entries.items() if other.over]
        for name in over[: max(0, len(over) - REMOVED)]:
            del self.entries[name]
            self._supervisor.totals.pop(name, None)


def _source(worker: Worker) -> Source[Any]:
    return worker.source
