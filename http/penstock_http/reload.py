"""Reloading: flow files are read and checked again, and what is good takes over; what is not displaces nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import structlog
from msgspec import Struct

from penstock.deadletters import now
from penstock.files.load import FlowFile
from penstock.flow import Flow
from penstock_http.catalogue import Catalogue
from penstock_http.places import Places, Stamp
from penstock_http.problems import Refused
from penstock_http.receipts import Receipt, Verdict, faults_of, mistake_document, refused
from penstock_http.revision import Offer

log: structlog.stdlib.BoundLogger = structlog.get_logger()


class Loader(Struct, frozen=True, eq=False):
    """What reads flow files: one by its path, or a text that is called like one. Both raise `PenstockError`."""

    load: Callable[[Path], FlowFile]
    loads: Callable[[str, str], FlowFile]
    served: Callable[[FlowFile], Flow[Any]] = lambda loaded: loaded.flow
    """The flow of a file as this service serves it: with its defaults for what the file does not say."""


class Reload(Struct, frozen=True):
    """A reload: when, why, and what came of each flow."""

    at: datetime
    cause: str
    receipts: list[Receipt]

    def document(self) -> dict[str, Any]:
        """The reload for people and programs."""
        receipts = [receipt.document() for receipt in self.receipts]
        return {"at": self.at.isoformat(), "cause": self.cause, "receipts": receipts}


class Found:
    """What a look at all files found."""

    def __init__(self, unread: Sequence[Path]) -> None:
        self.offers: dict[Offer, Path] = {}
        self.bad: list[Receipt] = []
        self.read: set[Path] = set()
        """All files that were read, or tried."""
        self.stamp: Stamp = {}
        self.kept: set[Path] = set()
        """Files that are there but bad."""
        self._unread = unread

    def keeps(self, path: Path) -> bool:
        """Whether what a file held before runs on: the file is bad, or its directory cannot be read."""
        return path in self.kept or any(directory in path.parents for directory in self._unread)


class Reloading:
    """Reads flows and offers them to the catalogue: all files at once, or one that came over HTTP."""

    def __init__(self, catalogue: Catalogue, loader: Loader, places: Places, built_in: Sequence[Offer] = ()) -> None:
        self.last: Reload | None = None
        self.stamp: Stamp = {}
        """All files that were read the last time, or could have been, as they were before."""
        self.places = places
        self._catalogue = catalogue
        self._loader = loader
        self._built_in = built_in
        self._names: dict[Path, str] = {}
        self._turn = asyncio.Lock()

    async def start(self) -> list[Receipt]:
        """Read everything for the first time. All are served, or none: then some of the receipts have mistakes."""
        found = await asyncio.to_thread(self._look)
        offers = [*self._built_in, *found.offers]
        checked = [*await self._catalogue.offer(*offers, dry=True), *found.bad]
        if any(receipt.mistakes for receipt in checked):
            return checked
        return await self.reload("start") if offers else []

    async def reload(self, cause: str) -> list[Receipt]:
        """Read everything again; raises `Stopping`. Bad files change nothing, a file that is gone ends its flow."""
        async with self._turn:
            found = await asyncio.to_thread(self._look)  # in a thread: streams go on while files are read
            leaving = self._leaving(found)
            receipts = await self._catalogue.offer(*self._built_in, *found.offers, leaving=leaving)
            for receipt in found.bad:
                self._catalogue.refuse(receipt)
            self.stamp = found.stamp
            self._remember(found, receipts)
            return self._tell(cause, [*receipts, *found.bad])

    async def put(self, name: str, text: str, format: str, *, dry: bool = False) -> Receipt:
        """Serve the flow of a text, which has to have this name; raises 409 otherwise, and `Stopping`."""
        file = f"{name}.{format}"
        async with self._turn:
            try:
                offer = await asyncio.to_thread(lambda: self._offer(self._loader.loads(text, file), "PUT"))
            except (Exception, SystemExit) as error:  # as above
                receipt = refused(name, "PUT", faults_of(error, file))
                if not dry:
                    self._catalogue.refuse(receipt)
            else:
                if offer.flow.name != name:
                    said = f"the flow is called {offer.flow.name!r}: PUT it to /flows/{offer.flow.name}"
                    raise Refused(409, "other_name", said)
                (receipt,) = await self._catalogue.offer(offer, dry=dry)
            if not dry:
                self._tell("put", [receipt])
            return receipt

    def _look(self) -> Found:
        """Read all files."""
        before = self.places.stamp(self.stamp)
        paths, unread = self.places.files()
        found = Found([path for path, _ in unread])
        for path, error in unread:
            found.bad.append(refused(path.name, str(path), faults_of(error, str(path))))
        for path in paths:
            found.read.add(path)
            if path in self._names and not path.exists():
                continue  # it was there, and it is gone
            try:
                loaded = self._loader.load(path)
                found.read.update(loaded.files)
                found.offers[self._offer(loaded, str(path))] = path
            except (Exception, SystemExit) as error:  # it may name Python modules, and they do what they like
                found.kept.add(path)
                found.bad.append(refused(self._names.get(path, path.stem), str(path), faults_of(error, str(path))))
        if found.bad:  # what is wrong may stand in a file that is used, which is not known then
            found.read.update(self.stamp, (Path(fault.file) for receipt in found.bad for fault in receipt.mistakes))
        # What changes while it is read is found by the next look, because it does not have this stamp any more.
        now_there = self.places.stamp(found.read)
        found.stamp = {path: before.get(path, stamp) for path, stamp in now_there.items()}
        return found

    def _offer(self, loaded: FlowFile, source: str) -> Offer:
        return Offer(self._loader.served(loaded), loaded.digest, source)

    def _leaving(self, found: Found) -> dict[str, Offer | None]:
        """The flows whose file is gone, or has another flow in it by now: that one, if it is not refused."""
        by_path = {path: offer for offer, path in found.offers.items()}
        offered = {offer.flow.name for offer in found.offers}
        return {
            name: by_path.get(path)
            for path, name in self._names.items()
            if name not in offered and not found.keeps(path)
        }

    def _remember(self, found: Found, receipts: list[Receipt]) -> None:
        """Which flow is in which file. One that was refused leaves its path with the flow that runs on."""
        taken = {(receipt.flow, receipt.source) for receipt in receipts if receipt.outcome is not Verdict.REFUSED}
        there = set(found.offers.values())
        self._names = {path: name for path, name in self._names.items() if path in there or found.keeps(path)}
        self._names |= {
            path: offer.flow.name for offer, path in found.offers.items() if (offer.flow.name, offer.source) in taken
        }

    def _tell(self, cause: str, receipts: list[Receipt]) -> list[Receipt]:
        self.last = Reload(now(), cause, receipts)
        outcomes = {
            receipt.flow: {
                "outcome": receipt.outcome.value,
                "revision": receipt.revision,
                "digest": receipt.digest,
                "source": receipt.source,
            }
            for receipt in receipts
        }
        log.info("flows.reloaded", cause=cause, flows=outcomes)
        for receipt in receipts:
            for fault in receipt.mistakes:
                log.warning("flows.mistake", flow=receipt.flow, **mistake_document(fault))
        return receipts
