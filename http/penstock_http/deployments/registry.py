"""The catalogue: the flows that are served, each with its revisions, and what is taken into it."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping

from penstock.errors import PenstockError, ShuttingDown
from penstock.flowfile import Diagnostic
from penstock.observe import ReloadCounters
from penstock.runtime import Phase, Supervisor
from penstock.services import Service
from penstock.support.ids import now
from penstock_http.deployments.conflicts import conflicts
from penstock_http.deployments.result import DeploymentResult, DeploymentStatus, mistakes_of, refused
from penstock_http.deployments.revision import UPLOADED, FlowCandidate, RegisteredFlow, Revision, shared
from penstock_http.deployments.rollout import Rollout

NOTHING: Mapping[str, FlowCandidate | None] = {}


class FlowRegistry:
    """The flows that are served. `keep` is the URL of the store that stays open whatever flows there are."""

    def __init__(self, supervisor: Supervisor, reloads: ReloadCounters, *, keep: str = "") -> None:
        self.entries: dict[str, RegisteredFlow] = {}
        self.served: dict[str, Revision] = {}
        """The active revisions that are served over HTTP, by the names in their paths."""
        self._supervisor = supervisor
        self._reloads = reloads
        self._changeover = Rollout(supervisor, self._in_use, self._evict, keep)
        self._coming: list[Revision] = []
        self._evicted_number = 0
        """The highest revision number of the flows that are gone: one that comes back never gets a number twice."""
        self._offering = asyncio.Lock()

    @property
    def active(self) -> list[Revision]:
        """The revisions that new runs take."""
        return [entry.active for entry in self.entries.values() if entry.active is not None]

    @property
    def uploaded(self) -> list[Revision]:
        """The active revisions that came over HTTP."""
        return [revision for revision in self.active if revision.source == UPLOADED]

    async def deploy(
        self, *offers: FlowCandidate, leaving: Mapping[str, FlowCandidate | None] = NOTHING, dry: bool = False
    ) -> list[DeploymentResult]:
        """Serve these flows from now on, each if nothing is wrong with it; raises `ShuttingDown`.

        `leaving` are the names of flows that end at the same moment, each with the offer that comes in its place, if
        one does: if that is refused, the flow stays. With `dry` nothing is changed, and a receipt says what would have
        come of it.
        """
        async with self._offering:
            self._check()
            wrong = self._conflicts(offers, leaving)
            if dry:
                return [self._receipt(offer, wrong.get(offer, ()), self._next(offer.flow.name)) for offer in offers]

            revisions = self._revisions(offers)
            coming = [offer for offer in offers if offer not in wrong and not self._unchanged(offer)]
            self._coming = [revisions[offer] for offer in coming]
            try:
                for offer in coming:
                    wrong |= await self._pending(offer, revisions[offer])
                self._check()
            finally:
                self._coming.clear()
            wrong |= self._conflicts([offer for offer in offers if offer not in wrong], leaving)
            receipts = [self._receipt(offer, wrong.get(offer, ()), revisions[offer].number) for offer in offers]
            for receipt, offer in zip(receipts, offers, strict=True):
                if receipt.outcome is DeploymentStatus.ACCEPTED:
                    self._activate(revisions[offer])
            ended = [name for name, other in leaving.items() if other not in wrong]
            receipts += [receipt for name in ended for receipt in self._remove(name)]
            self.served = {path: each for each in self.active if (path := each.served_as) is not None}
            for receipt in receipts:
                self._record(receipt)
            for offer in wrong:
                await self._changeover.forget(revisions[offer])
            return receipts

    def refuse(self, receipt: DeploymentResult) -> None:
        """Take note that a flow could not even be read."""
        self._record(receipt)

    async def aclose(self) -> None:
        """The service stops: no further workers are started."""
        await self._changeover.aclose()

    def _in_use(self) -> list[Revision]:
        """The revisions that may have runs, or are about to."""
        return [revision for entry in self.entries.values() for revision in entry.revisions] + self._coming

    def _check(self) -> None:
        if self._supervisor.phase is not Phase.SERVING:
            raise ShuttingDown

    def _revisions(self, offers: Iterable[FlowCandidate]) -> dict[FlowCandidate, Revision]:
        """The revisions that offers would be, with those services that are in use already."""
        services: defaultdict[str, list[Service]] = defaultdict(list)
        for revision in self._in_use():
            for service in revision.all_services:
                services[service.name].append(service)
        revisions: dict[FlowCandidate, Revision] = {}
        for offer in offers:
            flow = shared(offer.flow, services)
            for service in flow.all_services:
                services[service.name].append(service)
            revisions[offer] = Revision(flow, self._next(flow.name), offer.digest, offer.source)
        return revisions

    def _next(self, name: str) -> int:
        """The number of the next revision of a flow."""
        return 1 + (self.entries[name].number if name in self.entries else self._evicted_number)

    async def _pending(self, offer: FlowCandidate, revision: Revision) -> dict[FlowCandidate, list[Diagnostic]]:
        try:
            await self._supervisor.add(revision)
        except PenstockError as error:
            return {offer: mistakes_of(error, offer.source)}
        return {}

    def _conflicts(
        self, offers: Iterable[FlowCandidate], leaving: Mapping[str, FlowCandidate | None]
    ) -> dict[FlowCandidate, list[Diagnostic]]:
        return conflicts(list(offers), leaving, self.active, self.entries)

    def _unchanged(self, offer: FlowCandidate) -> bool:
        entry = self.entries.get(offer.flow.name)
        return entry is not None and entry.active is not None and entry.active.digest == offer.digest

    def _receipt(self, offer: FlowCandidate, mistakes: Collection[Diagnostic], number: int) -> DeploymentResult:
        """What an offer comes to; `number` is that of the revision which it would be."""
        if mistakes:
            return refused(offer.flow.name, offer.source, mistakes)
        same = self._unchanged(offer)
        return DeploymentResult(
            flow=offer.flow.name,
            outcome=DeploymentStatus.UNCHANGED if same else DeploymentStatus.ACCEPTED,
            source=offer.source,
            at=now(),
            revision=number - same,
            digest=offer.digest,
        )

    def _activate(self, revision: Revision) -> None:
        """Give new runs of a flow this revision."""
        entry = self.entries.setdefault(revision.name, RegisteredFlow(revision.name))
        before = entry.activate(revision)
        self._reloads.active[revision.name] = revision.number
        self._changeover.begin(entry, before, revision)

    def _remove(self, name: str) -> list[DeploymentResult]:
        """Give a flow no further runs."""
        entry = self.entries.get(name)
        if entry is None or (before := entry.activate(None)) is None:
            return []
        del self._reloads.active[name]
        self._changeover.begin(entry, before, None)
        number, digest = before.number, before.digest
        removed = DeploymentStatus.REMOVED
        return [
            DeploymentResult(flow=name, outcome=removed, source=before.source, at=now(), revision=number, digest=digest)
        ]

    def _record(self, receipt: DeploymentResult) -> None:
        entry = self.entries.get(receipt.flow)
        if entry is not None:
            entry.last = receipt
        self._reloads.outcomes[entry.name if entry else "", receipt.outcome.value] += 1

    def _evict(self, name: str) -> None:
        """Remove a flow, and its counters, that was removed or rejected and has no runs."""
        if any(revision.name == name for revision in self._coming):
            return
        entry = self.entries.get(name)
        if entry is not None:
            if not entry.is_gone:
                return
            self._evicted_number = max(self._evicted_number, entry.number)
            del self.entries[name]
        self._supervisor.remove_counters(name)
        self._reloads.forget(name)
