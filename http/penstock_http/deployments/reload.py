"""Reloading: flow files are read and checked again, and what is good takes over; what is not displaces nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import structlog
from msgspec import Struct

from penstock.errors import ShuttingDown
from penstock.flow.flow import Flow
from penstock.flowfile.diagnostics import MAX_DIAGNOSTICS
from penstock.steps.step import walk
from penstock.support.ids import now
from penstock_http.deployments.loader import FlowLoader, LoaderBusy, LoadQueue, LoadTimeout, ScanResult, scan
from penstock_http.deployments.registry import FlowRegistry
from penstock_http.deployments.result import DeploymentResult, DeploymentStatus, refused_for
from penstock_http.deployments.revision import UPLOADED, FlowCandidate
from penstock_http.deployments.watched_files import FileStamps, WatchedFiles
from penstock_http.problems import RequestRejected

MAX_UPLOADED = 100
"""Flows that may be uploaded at once; each has series of its own in the metrics."""

MAX_UPLOADED_PARTS = 2000
"""Steps and services of all uploaded flows together; each has some 20 series, which are made on the event loop."""

log: structlog.stdlib.BoundLogger = structlog.get_logger()


class ReloadResult(Struct, frozen=True):
    """A reload: when, why, and what came of each flow."""

    at: datetime
    cause: str
    receipts: list[DeploymentResult]

    def document(self, *, trusted: bool = True) -> dict[str, Any]:
        """The reload for people and programs, without mistakes for who is not trusted."""
        receipts = [receipt.document(trusted=trusted) for receipt in self.receipts]
        return {"at": self.at.isoformat(), "cause": self.cause, "results": receipts}


def parts_of(flow: Flow[Any]) -> int:
    """How many steps and services a flow has."""
    return sum(1 for _ in walk(flow.steps)) + len(flow.all_services)


class Reloader:
    """Reads flows and offers them to the catalogue: all files at once, or one that came over HTTP.

    `lasting` are flows that are in no file, and are served as they are.
    """

    def __init__(
        self, catalogue: FlowRegistry, loader: FlowLoader, places: WatchedFiles, lasting: Sequence[FlowCandidate] = ()
    ) -> None:
        self.last: ReloadResult | None = None
        self.stamp: FileStamps = {}
        """All files that were read the last time, or could have been, as they were before."""
        self.places = places
        self._catalogue = catalogue
        self._loader = loader
        self._lasting = lasting
        self._names: dict[Path, str] = {}
        self._loading = LoadQueue()
        self._turn = asyncio.Lock()

    async def start(self) -> list[DeploymentResult]:
        """Read everything for the first time. All are served, or none: then some of the receipts have mistakes."""
        async with self._turn:
            found = await self._loading.of(self._scan)
            offers = [*self._lasting, *found.offers]
            checked = [*await self._catalogue.deploy(*offers, dry=True), *found.bad]
            if any(receipt.mistakes for receipt in checked):
                return checked
            return await self._take("start", found) if offers else []

    async def reload(self, cause: str) -> list[DeploymentResult]:
        """Read everything again; raises `ShuttingDown`. Bad files change nothing, a file that is gone ends its flow."""
        async with self._turn:
            try:
                found = await self._loading.of(self._scan)
            except (LoadTimeout, LoaderBusy) as error:
                self.stamp = await asyncio.to_thread(self.places.stamp, self.stamp)  # or they would be loaded for ever
                bad = [refused_for(error, name, str(path), str(path)) for path, name in self._names.items()]
                return self._log(cause, bad)
            return await self._take(cause, found)

    async def try_reload(self, cause: str) -> bool:
        """The same for who cannot be told what came of it; returns whether the service goes on."""
        try:
            await self.reload(cause)
        except ShuttingDown:
            return False
        except Exception as error:
            log.error("reload.failed", cause=cause, exc_info=error)
        return True

    async def put(self, name: str, text: str, format: str, *, dry: bool = False) -> DeploymentResult:
        """Serve the flow of a text, which has to have this name; raises 409 otherwise, and `ShuttingDown`.

        Also 409 for a new flow when `MAX_UPLOADED` others were uploaded.
        """
        file = f"{name}.{format}"
        async with self._turn:
            self._check_room(name)
            try:
                offer = await self._loading.of(lambda: self._loader.of_text(text, file))
            except (Exception, SystemExit) as error:  # as for files
                receipt = refused_for(error, name, UPLOADED, file)
                if not dry:
                    self._catalogue.refuse(receipt)
            else:
                if offer.flow.name != name:
                    said = f"the flow is named {offer.flow.name!r}: PUT it to /flows/{offer.flow.name}"
                    raise RequestRejected(409, "name_mismatch", said)
                self._check_parts(offer)
                (receipt,) = await self._catalogue.deploy(offer, dry=dry)
            if not dry:
                self._log("put", [receipt])
            return receipt

    async def delete(self, name: str) -> DeploymentResult:
        """Remove a flow that was uploaded; raises 404, 409 for one that was not, and `ShuttingDown`."""
        async with self._turn:
            active = {revision.name: revision for revision in self._catalogue.active}
            if name not in active:
                raise RequestRejected(404, "flow_not_found", f"unknown flow {name!r}; GET /flows lists the flows")
            if active[name].source != UPLOADED:
                said = f"the flow {name!r} was not uploaded, it comes from {active[name].source}; remove it there"
                raise RequestRejected(409, "not_uploaded", said)
            (receipt,) = await self._catalogue.deploy(leaving={name: None})
            self._log("delete", [receipt])
            return receipt

    def _check_room(self, name: str) -> None:
        """Raise 409 when no further flow may be uploaded."""
        if name in (revision.name for revision in self._catalogue.active):
            return
        if len(self._catalogue.uploaded) >= MAX_UPLOADED:
            said = f"{MAX_UPLOADED} flows were uploaded, which is the limit; DELETE /flows/NAME removes one of them"
            raise RequestRejected(409, "too_many_flows", said)

    def _check_parts(self, offer: FlowCandidate) -> None:
        """Raise 409 when the uploaded flows would have too many steps and services together."""
        others = [revision.flow for revision in self._catalogue.uploaded if revision.name != offer.flow.name]
        parts = sum(parts_of(flow) for flow in (*others, offer.flow))
        if parts > MAX_UPLOADED_PARTS:
            said = (
                f"the uploaded flows would have {parts} steps and services together, {MAX_UPLOADED_PARTS} is the limit"
            )
            raise RequestRejected(409, "too_many_flows", f"{said}; put large flows into files, or DELETE /flows/NAME")

    def _scan(self) -> ScanResult:
        return scan(self._loader, self.places, self._names, self.stamp)

    async def _take(self, cause: str, found: ScanResult) -> list[DeploymentResult]:
        """Offer what was found; returns what came of it."""
        leaving = self._leaving(found)
        receipts = await self._catalogue.deploy(*self._lasting, *found.offers, leaving=leaving)
        for receipt in found.bad:
            self._catalogue.refuse(receipt)
        self.stamp = found.stamp
        self._remember(found, receipts)
        return self._log(cause, [*receipts, *found.bad])

    def _leaving(self, found: ScanResult) -> dict[str, FlowCandidate | None]:
        """The flows whose file is gone, or has another flow in it by now: that one, if it is not refused."""
        by_path = {path: offer for offer, path in found.offers.items()}
        offered = {offer.flow.name for offer in found.offers}
        return {
            name: by_path.get(path)
            for path, name in self._names.items()
            if name not in offered and not found.keeps(path)
        }

    def _remember(self, found: ScanResult, receipts: list[DeploymentResult]) -> None:
        """Which flow is in which file. One that was refused leaves its path with the flow that runs on."""
        taken = {
            (receipt.flow, receipt.source) for receipt in receipts if receipt.outcome is not DeploymentStatus.REFUSED
        }
        there = set(found.offers.values())
        self._names = {path: name for path, name in self._names.items() if path in there or found.keeps(path)}
        self._names |= {
            path: offer.flow.name for offer, path in found.offers.items() if (offer.flow.name, offer.source) in taken
        }

    def _log(self, cause: str, receipts: list[DeploymentResult]) -> list[DeploymentResult]:
        self.last = ReloadResult(now(), cause, receipts)
        outcomes = {
            receipt.flow: {
                "outcome": receipt.outcome.value,
                "revision": receipt.revision,
                "digest": receipt.digest,
                "source": receipt.source,
            }
            for receipt in receipts
        }
        log.info("reload.completed", cause=cause, flows=outcomes)
        mistakes = [(receipt.flow, mistake) for receipt in receipts for mistake in receipt.mistakes]
        for flow, mistake in mistakes[:MAX_DIAGNOSTICS]:
            log.warning("flow.invalid", flow=flow, **mistake.document())
        more = sum(receipt.more for receipt in receipts) + max(0, len(mistakes) - MAX_DIAGNOSTICS)
        if more:
            log.warning("reload.diagnostics_omitted", cause=cause, count=more)
        return receipts
