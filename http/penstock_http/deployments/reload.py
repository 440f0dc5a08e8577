"""Load flows from files and uploads, and deploy those that are valid. A rejected flow changes nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import structlog
from msgspec import Struct

from penstock.errors import ShuttingDown
from penstock.flow.flow import Flow
from penstock.flowfile.diagnostics import MAX_DIAGNOSTICS
from penstock.steps import walk
from penstock.support.ids import now
from penstock_http.deployments.file_watcher import FileStamps, WatchedFiles
from penstock_http.deployments.kept_files import ServedFile, ServedFiles, load_kept
from penstock_http.deployments.loader import FlowLoader, LoaderBusy, LoadQueue, LoadTimeout, ScanResult, scan
from penstock_http.deployments.registry import FlowRegistry
from penstock_http.deployments.result import DeploymentResult, DeploymentStatus, rejected_for
from penstock_http.deployments.revision import UPLOADED, FlowCandidate
from penstock_http.problems import RequestRejected

MAX_UPLOADED = 100
"""Maximum number of uploaded flows. Each has its own series in the metrics."""

MAX_UPLOADED_PARTS = 2000
"""Maximum number of steps and services of all uploaded flows together.

Each has about 20 series, which are computed in the event loop.
"""

log: structlog.stdlib.BoundLogger = structlog.get_logger()


class ReloadResult(Struct, frozen=True):
    """The results of one reload, with its time and cause."""

    at: datetime
    cause: str
    results: list[DeploymentResult]

    def document(self, *, trusted: bool = True) -> dict[str, Any]:
        """Return the reload as JSON values. Only trusted clients get the diagnostics."""
        results = [result.document(trusted=trusted) for result in self.results]
        return {"at": self.at.isoformat(), "cause": self.cause, "results": results}


class Reloader:
    """Loads flows and deploys them: all files at once, or one uploaded flow.

    `static` are flows that are not loaded from files and never change.
    """

    def __init__(
        self, registry: FlowRegistry, loader: FlowLoader, files: WatchedFiles, static: Sequence[FlowCandidate] = ()
    ) -> None:
        self.last: ReloadResult | None = None
        self.stamps: FileStamps = {}
        """The stamps of all files that the last scan read or tried to read, from before the scan."""
        self.files = files
        self._registry = registry
        self._loader = loader
        self._static = static
        self._names: dict[Path, str] = {}
        """The name of the flow in each file."""
        self._texts: dict[Path, Mapping[Path, str]] = {}
        """The texts from which the flow in each file was loaded that was deployed last."""
        self._queue = LoadQueue()
        self._lock = asyncio.Lock()

    @property
    def served(self) -> ServedFiles:
        """The files that were deployed."""
        files = {path: ServedFile(name, self._texts.get(path, {})) for path, name in self._names.items()}
        return ServedFiles(files, self.stamps)

    async def start(self, kept: ServedFiles | None = None) -> list[DeploymentResult]:
        """Load all flows for the first time. If one has errors, nothing is deployed.

        With `kept`, these are loaded instead of the files on disk; there may be none.
        """
        async with self._lock:
            found = await self._queue.run(self._scan if kept is None else lambda: load_kept(self._loader, kept))
            candidates = [*self._static, *found.candidates]
            checked = [*await self._registry.deploy(*candidates, dry_run=True), *found.failures]
            if any(result.diagnostics for result in checked):
                return checked
            if not candidates and kept is None:
                return []
            results = await self._deploy("start", found)
            if kept is not None:  # an uploaded flow may have the name of the flow in a file
                self._names = {path: file.flow for path, file in kept.files.items()}
            return results

    async def reload(self, cause: str) -> list[DeploymentResult]:
        """Load all files again. Raises `ShuttingDown`.

        An invalid file changes nothing. A file that is gone removes its flow.
        """
        async with self._lock:
            try:
                found = await self._queue.run(self._scan)
            except (LoadTimeout, LoaderBusy) as error:
                # New stamps, or the file watcher would reload the same files forever.
                self.stamps = await asyncio.to_thread(self.files.stamps, self.stamps)
                failures = [rejected_for(error, name, str(path), str(path)) for path, name in self._names.items()]
                return self._log(cause, failures)
            return await self._deploy(cause, found)

    async def record_rejected(self, cause: str) -> None:
        """Record the errors of the files, after another process could not serve them. Nothing is deployed."""
        async with self._lock:
            found = await self._queue.run(self._scan)
            checked = [*await self._registry.deploy(*found.candidates, dry_run=True), *found.failures]
            rejected = [result for result in checked if result.outcome is DeploymentStatus.REJECTED]
            for result in rejected:
                self._registry.record_failure(result)
            if rejected:
                self.last = ReloadResult(now(), cause, rejected)
                _log_diagnostics(cause, rejected)

    async def try_reload(self, cause: str) -> bool:
        """Reload, and log errors instead of raising them. Returns False if the service shuts down."""
        try:
            await self.reload(cause)
        except ShuttingDown:
            return False
        except Exception as error:
            log.error("reload.failed", cause=cause, exc_info=error)
        return True

    async def put(self, name: str, text: str, format: str, *, dry_run: bool = False) -> DeploymentResult:
        """Deploy the flow in a text.

        Raises `ShuttingDown`, and 409 if the flow has another name or the uploaded flows would exceed a limit.
        """
        file = f"{name}.{format}"
        async with self._lock:
            self._check_flow_limit(name)
            try:
                candidate = await self._queue.run(lambda: self._loader.load_text(text, file))
            except (Exception, SystemExit) as error:  # a Python module that the text names may raise anything
                result = rejected_for(error, name, UPLOADED, file)
                if not dry_run:
                    self._registry.record_failure(result)
            else:
                if candidate.flow.name != name:
                    actual = candidate.flow.name
                    raise RequestRejected(
                        409, "name_mismatch", f"the flow is named {actual!r}: PUT it to /flows/{actual}"
                    )
                self._check_part_limit(candidate)
                (result,) = await self._registry.deploy(candidate, dry_run=dry_run)
            if not dry_run:
                self._log("put", [result])
            return result

    async def delete(self, name: str) -> DeploymentResult:
        """Remove an uploaded flow. Raises `ShuttingDown`, 404, and 409 for a flow that was not uploaded."""
        async with self._lock:
            active = {revision.name: revision for revision in self._registry.active}
            if name not in active:
                raise RequestRejected(404, "flow_not_found", f"unknown flow {name!r}; GET /flows lists the flows")
            if active[name].source != UPLOADED:
                message = f"the flow {name!r} was not uploaded, it comes from {active[name].source}; remove it there"
                raise RequestRejected(409, "not_uploaded", message)
            (result,) = await self._registry.deploy(removals={name: None})
            self._log("delete", [result])
            return result

    def _check_flow_limit(self, name: str) -> None:
        """Raise 409 if no further flow can be uploaded."""
        if name in (revision.name for revision in self._registry.active):
            return
        if len(self._registry.uploaded) >= MAX_UPLOADED:
            message = f"{MAX_UPLOADED} flows were uploaded, which is the limit; DELETE /flows/NAME removes one of them"
            raise RequestRejected(409, "too_many_flows", message)

    def _check_part_limit(self, candidate: FlowCandidate) -> None:
        """Raise 409 if the uploaded flows would have too many steps and services together."""
        others = [revision.flow for revision in self._registry.uploaded if revision.name != candidate.flow.name]
        parts = sum(_count_parts(flow) for flow in (*others, candidate.flow))
        if parts > MAX_UPLOADED_PARTS:
            raise RequestRejected(
                409,
                "too_many_flows",
                f"the uploaded flows would have {parts} steps and services, the limit is {MAX_UPLOADED_PARTS}; "
                "put large flows into files, or DELETE /flows/NAME",
            )

    def _scan(self) -> ScanResult:
        return scan(self._loader, self.files, self._names, self.stamps)

    async def _deploy(self, cause: str, found: ScanResult) -> list[DeploymentResult]:
        """Deploy the flows that a scan found."""
        removals = self._removals(found)
        results = await self._registry.deploy(*self._static, *found.candidates, removals=removals)
        for failure in found.failures:
            self._registry.record_failure(failure)
        self.stamps = found.stamps
        self._update_names(found, results)
        return self._log(cause, [*results, *found.failures])

    def _removals(self, found: ScanResult) -> dict[str, FlowCandidate | None]:
        """Return the flows whose file is gone or now holds another flow, each with that other flow."""
        by_path = {path: candidate for candidate, path in found.candidates.items()}
        names = {candidate.flow.name for candidate in found.candidates}
        return {
            name: by_path.get(path)
            for path, name in self._names.items()
            if name not in names and not found.keeps_current(path)
        }

    def _update_names(self, found: ScanResult, results: list[DeploymentResult]) -> None:
        """Update which flow is in which file. A file whose flow was rejected keeps the name of the flow that runs."""
        deployed = {
            (result.flow, result.source) for result in results if result.outcome is not DeploymentStatus.REJECTED
        }
        present = set(found.candidates.values())
        self._names = {path: name for path, name in self._names.items() if path in present or found.keeps_current(path)}
        for candidate, path in found.candidates.items():
            if (candidate.flow.name, candidate.source) in deployed:
                self._names[path] = candidate.flow.name
                self._texts[path] = candidate.texts
        self._texts = {path: texts for path, texts in self._texts.items() if path in self._names}

    def _log(self, cause: str, results: list[DeploymentResult]) -> list[DeploymentResult]:
        """Record and log the results of a reload, and return them."""
        self.last = ReloadResult(now(), cause, results)
        outcomes = {
            result.flow: {
                "outcome": result.outcome.value,
                "revision": result.revision,
                "digest": result.digest,
                "source": result.source,
            }
            for result in results
        }
        log.info("reload.completed", cause=cause, flows=outcomes)
        _log_diagnostics(cause, results)
        return results


def _log_diagnostics(cause: str, results: Sequence[DeploymentResult]) -> None:
    diagnostics = [(result.flow, diagnostic) for result in results for diagnostic in result.diagnostics]
    for flow, diagnostic in diagnostics[:MAX_DIAGNOSTICS]:
        log.warning("flow.invalid", flow=flow, **diagnostic.document())
    more = sum(result.more_diagnostics for result in results) + max(0, len(diagnostics) - MAX_DIAGNOSTICS)
    if more:
        log.warning("reload.diagnostics_omitted", cause=cause, count=more)


def _count_parts(flow: Flow[Any]) -> int:
    """Return the number of steps and services of a flow."""
    return sum(1 for _ in walk(flow.steps)) + len(flow.all_services)
