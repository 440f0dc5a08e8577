"""The flows that are served, each with its revisions. Deployments add, replace and remove them."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping

from penstock.errors import PenstockError, ShuttingDown
from penstock.flowfile import Diagnostic
from penstock.observe import ReloadCounters
from penstock.runtime import Phase, Supervisor
from penstock.services import Service
from penstock.support.ids import now
from penstock_http.deployments.conflicts import find_conflicts
from penstock_http.deployments.progress import Progress
from penstock_http.deployments.result import DeploymentResult, DeploymentStatus, diagnostics_of, rejected
from penstock_http.deployments.revision import UPLOADED, FlowCandidate, RegisteredFlow, Revision, share_services
from penstock_http.deployments.rollout import Rollout
from penstock_http.processes.deployment_messages import ActiveRevision

NO_REMOVALS: Mapping[str, FlowCandidate | None] = {}

NO_PROGRESS: Progress = {}


class FlowRegistry:
    """The flows that are served. `keep_open` is the URL of a store that stays open even if no flow uses it.

    `process` is the number of this process if the service has several, from 1. Only the one that leads runs what must
    not run twice at once, and at first none does: see `lead`.
    """

    def __init__(
        self, supervisor: Supervisor, counters: ReloadCounters, *, keep_open: str = "", process: int = 0
    ) -> None:
        self.flows: dict[str, RegisteredFlow] = {}
        self.by_path: dict[str, Revision] = {}
        """The active revisions that are served over HTTP, by the name in their path."""
        self._supervisor = supervisor
        self._counters = counters
        self._rollout = Rollout(supervisor, self._in_use, self._evict, keep_open, process)
        self.on_lead: list[Callable[[bool], Awaitable[None]]] = []
        """Awaited with whether this process leads from now on, for further work that one process does."""
        self._leading = asyncio.Lock()
        """Held while this process begins or ceases to lead."""
        self._pending: list[Revision] = []
        """Revisions that are being deployed."""
        self._highest_evicted = 0
        """The highest revision number of the removed flows, so that a flow that comes back gets higher numbers."""
        self._known: Mapping[str, ActiveRevision] = {}
        """The active revisions of other processes of the service."""
        self._lock = asyncio.Lock()
        """Held during a deployment."""

    @property
    def active(self) -> list[Revision]:
        """The revisions that new runs use."""
        return [flow.active for flow in self.flows.values() if flow.active is not None]

    @property
    def uploaded(self) -> list[Revision]:
        """The active revisions that were uploaded over HTTP."""
        return [revision for revision in self.active if revision.source == UPLOADED]

    def follow(self, known: Mapping[str, ActiveRevision], removed: int) -> None:
        """Give revisions the numbers that they have in other processes of the service.

        `known` are their active revisions, and `removed` is the highest number of the revisions of deleted flows.
        """
        self._known = known
        self._highest_evicted = max(self._highest_evicted, removed)

    def flow(self, name: str) -> Revision | None:
        """Return the revision of a flow that new runs use, or None."""
        found = self.flows.get(name)
        return None if found is None else found.active

    def names(self) -> list[str]:
        """Return the names of the flows that are served."""
        return [revision.flow.name for revision in self.active]

    async def deploy(
        self,
        *candidates: FlowCandidate,
        removals: Mapping[str, FlowCandidate | None] = NO_REMOVALS,
        dry_run: bool = False,
    ) -> list[DeploymentResult]:
        """Serve each of the candidates that has no errors. Raises `ShuttingDown`.

        `removals` are the names of flows to remove at the same time, each with the candidate that replaces it, if there
        is one. A flow stays if its replacement is rejected. With `dry_run` nothing changes, and the results are those
        that the deployment would have.
        """
        async with self._lock:
            self._check_phase()
            errors = self._conflicts(candidates, removals)
            if dry_run:
                return [
                    self._result(candidate, errors.get(candidate, ()), self._next_number(candidate))
                    for candidate in candidates
                ]

            revisions = self._revisions(candidates)
            changed = [each for each in candidates if each not in errors and not self._is_unchanged(each)]
            self._pending = [revisions[candidate] for candidate in changed]
            try:
                for candidate in changed:
                    errors |= await self._prepare(candidate, revisions[candidate])
                self._check_phase()
            finally:
                self._pending.clear()
            errors |= self._conflicts([each for each in candidates if each not in errors], removals)
            results = [self._result(each, errors.get(each, ()), revisions[each].number) for each in candidates]
            for result, candidate in zip(results, candidates, strict=True):
                if result.outcome is DeploymentStatus.ACCEPTED:
                    self._activate(revisions[candidate])
            removed = [name for name, replacement in removals.items() if replacement not in errors]
            results += [result for name in removed for result in self._remove(name)]
            self.by_path = {path: each for each in self.active if (path := each.path_name) is not None}
            for result in results:
                self._record(result)
            for candidate in errors:
                await self._rollout.discard(revisions[candidate])
            return results

    def record_failure(self, result: DeploymentResult) -> None:
        """Record the result for a flow that could not be loaded."""
        self._record(result)

    @property
    def leads(self) -> bool:
        """Whether this process runs what only one process of the service runs."""
        return self._rollout.leads

    @property
    def progress(self) -> Progress:
        """How far the workers are that only one process runs, or were when this process ceased to lead."""
        return self._rollout.current_progress(self.flows.values()) if self.leads else self._rollout.progress

    async def lead(self, leads: bool, progress: Progress = NO_PROGRESS) -> None:
        """Begin or cease to run what only one process of the service runs.

        Workers continue from the `progress` of the previous leader. When this returns after `lead(False)`, all of it
        has ended: the runs of workers are drained. Another process may lead then.
        """
        async with self._leading:
            if leads is not self._rollout.leads:
                flow_workers = self._rollout.lead(leads, self.flows.values(), progress)
                await asyncio.gather(flow_workers, *(notify(leads) for notify in self.on_lead))

    async def stop_workers(self) -> None:
        """Drain all workers of this process, wait for their end, and start no further ones: it is being replaced."""
        await self.lead(False)
        await self._rollout.stop_workers(self.flows.values())

    async def aclose(self) -> None:
        """Start no further workers, because the service shuts down."""
        await self._rollout.aclose()

    def _in_use(self) -> list[Revision]:
        """Return the revisions that have runs or may start some."""
        return [revision for flow in self.flows.values() for revision in flow.revisions] + self._pending

    def _check_phase(self) -> None:
        if self._supervisor.phase is not Phase.SERVING:
            raise ShuttingDown

    def _revisions(self, candidates: Iterable[FlowCandidate]) -> dict[FlowCandidate, Revision]:
        """Return a new revision for each candidate. Equal services are shared with those in use."""
        services: defaultdict[str, list[Service]] = defaultdict(list)
        for revision in self._in_use():
            for service in revision.all_services:
                services[service.name].append(service)
        revisions: dict[FlowCandidate, Revision] = {}
        for candidate in candidates:
            flow = share_services(candidate.flow, services)
            for service in flow.all_services:
                services[service.name].append(service)
            number = self._next_number(candidate)
            revisions[candidate] = Revision(flow, number, candidate.digest, candidate.source)
        return revisions

    def _next_number(self, candidate: FlowCandidate) -> int:
        """Return the number of the next revision of a flow."""
        flow, known = self.flows.get(candidate.flow.name), self._known.get(candidate.flow.name)
        if known is not None and known.digest == candidate.digest and known.number > (flow.number if flow else 0):
            return known.number
        last = flow.number if flow else self._highest_evicted
        return 1 + max(last, known.number if known is not None else 0)

    async def _prepare(self, candidate: FlowCandidate, revision: Revision) -> dict[FlowCandidate, list[Diagnostic]]:
        """Register a revision with the supervisor, which opens its stores. Returns the errors."""
        try:
            await self._supervisor.add(revision)
        except PenstockError as error:
            return {candidate: diagnostics_of(error, candidate.source)}
        return {}

    def _conflicts(
        self, candidates: Iterable[FlowCandidate], removals: Mapping[str, FlowCandidate | None]
    ) -> dict[FlowCandidate, list[Diagnostic]]:
        return find_conflicts(list(candidates), removals, self.active, self.flows)

    def _is_unchanged(self, candidate: FlowCandidate) -> bool:
        flow = self.flows.get(candidate.flow.name)
        return flow is not None and flow.active is not None and flow.active.digest == candidate.digest

    def _result(self, candidate: FlowCandidate, diagnostics: Collection[Diagnostic], number: int) -> DeploymentResult:
        """Return the result for a candidate. `number` is the number that its revision gets."""
        if diagnostics:
            return rejected(candidate.flow.name, candidate.source, diagnostics)
        unchanged = self._is_unchanged(candidate)
        if unchanged and (active := self.flows[candidate.flow.name].active) is not None:
            number = active.number
        return DeploymentResult(
            flow=candidate.flow.name,
            outcome=DeploymentStatus.UNCHANGED if unchanged else DeploymentStatus.ACCEPTED,
            source=candidate.source,
            at=now(),
            revision=number,
            digest=candidate.digest,
        )

    def _activate(self, revision: Revision) -> None:
        """Make new runs of a flow use this revision."""
        flow = self.flows.setdefault(revision.name, RegisteredFlow(revision.name))
        previous = flow.activate(revision)
        self._counters.active[revision.name] = revision.number
        self._rollout.begin(flow, previous, revision)

    def _remove(self, name: str) -> list[DeploymentResult]:
        """Start no further runs of a flow. Returns an empty list if it was removed already."""
        flow = self.flows.get(name)
        if flow is None or (previous := flow.activate(None)) is None:
            return []
        del self._counters.active[name]
        self._rollout.begin(flow, previous, None)
        return [
            DeploymentResult(
                flow=name,
                outcome=DeploymentStatus.REMOVED,
                source=previous.source,
                at=now(),
                revision=previous.number,
                digest=previous.digest,
            )
        ]

    def _record(self, result: DeploymentResult) -> None:
        flow = self.flows.get(result.flow)
        if flow is not None:
            flow.last_result = result
        self._counters.outcomes[flow.name if flow else "", result.outcome.value] += 1

    def _evict(self, name: str) -> None:
        """Delete a flow that was removed or rejected and has no runs, with its counters."""
        if any(revision.name == name for revision in self._pending):
            return
        flow = self.flows.get(name)
        if flow is not None:
            if not flow.is_gone:
                return
            self._highest_evicted = max(self._highest_evicted, flow.number)
            del self.flows[name]
        self._supervisor.remove_counters(name)
        self._counters.forget(name)
