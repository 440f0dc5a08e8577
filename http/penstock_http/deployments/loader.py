"""Loading: what a look at all flow files finds, the good and the bad, without changing anything."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from msgspec import Struct

from penstock.errors import FlowDefinitionError
from penstock.flow.flow import Flow
from penstock.flowfile.load import FlowFile
from penstock.support.tasks import to_daemon_thread
from penstock_http.deployments.result import DeploymentResult, refused_for
from penstock_http.deployments.revision import UPLOADED, FlowCandidate
from penstock_http.deployments.watched_files import FileStamps, WatchedFiles

T = TypeVar("T")

LOADING = 60.0
"""Seconds that loading may take; Python modules that flows name may take long, or for ever."""


class LoadTimeout(FlowDefinitionError):
    """Loading takes too long. The thread that does it cannot be stopped, and goes on."""

    def __init__(self) -> None:
        super().__init__(f"it was not loaded within {LOADING:g} s; look at the Python modules that it names")


class LoaderBusy(FlowDefinitionError):
    """An earlier load took too long and goes on, so nothing can be loaded."""

    def __init__(self) -> None:
        super().__init__("an earlier load hangs; look at the Python modules that flow files name, then restart")


class LoadQueue:
    """Work that is done beside the event loop, one after the other: one that hangs keeps only further ones waiting."""

    def __init__(self) -> None:
        self._last: asyncio.Future[Any] | None = None

    async def of(self, work: Callable[[], T]) -> T:
        """What some work gives.

        Raises `LoadTimeout` if it takes too long, `LoaderBusy` if the one before it still does.
        """
        if self._last is not None and not await _ends(self._last):
            raise LoaderBusy
        self._last = given = to_daemon_thread(work, "penstock-loading")
        if not await _ends(given):
            raise LoadTimeout
        return given.result()


async def _ends(given: asyncio.Future[Any]) -> bool:
    await asyncio.wait((given,), timeout=LOADING)
    return given.done()


class FlowLoader(Struct, frozen=True, eq=False):
    """What reads flow files: one by its path, or a text that is called like one. Both raise `PenstockError`."""

    load: Callable[[Path], FlowFile]
    loads: Callable[[str, str], FlowFile]
    served: Callable[[FlowFile], Flow[Any]] = lambda loaded: loaded.flow
    """The flow of a file as this service serves it: with its defaults for what the file does not say."""

    def of_file(self, path: Path) -> tuple[FlowCandidate, Sequence[Path]]:
        """The flow in a file, and all files that were read for it."""
        loaded = self.load(path)
        return FlowCandidate(self.served(loaded), loaded.digest, str(path)), loaded.files

    def of_text(self, text: str, file: str) -> FlowCandidate:
        """The flow in a text that came over HTTP."""
        loaded = self.loads(text, file)
        return FlowCandidate(self.served(loaded), loaded.digest, UPLOADED)


class ScanResult:
    """What a look at all files found."""

    def __init__(self, unread: Sequence[Path]) -> None:
        self.offers: dict[FlowCandidate, Path] = {}
        self.bad: list[DeploymentResult] = []
        self.read: set[Path] = set()
        """All files that were read, or tried."""
        self.stamp: FileStamps = {}
        self.kept: set[Path] = set()
        """Files that are there but bad."""
        self._unread = unread

    def keeps(self, path: Path) -> bool:
        """Whether what a file held before runs on: the file is bad, or its directory cannot be read."""
        return path in self.kept or any(directory in path.parents for directory in self._unread)

    def refuse(self, name: str, path: Path, error: BaseException) -> None:
        """Take note of what is bad."""
        self.bad.append(refused_for(error, name, str(path), str(path)))


def scan(loader: FlowLoader, places: WatchedFiles, names: Mapping[Path, str], stamp: FileStamps) -> ScanResult:
    """Read all files. `names` are the flows that they held before, `stamp` is what they were like then."""
    before = places.stamp(stamp)
    paths, unread = places.files()
    found = ScanResult([path for path, _ in unread])
    for path, error in unread:
        found.refuse(path.name, path, error)
    for path in paths:
        found.read.add(path)
        if path in names and not path.exists():
            continue  # it was there, and it is gone
        try:
            offer, files = loader.of_file(path)
        except (Exception, SystemExit) as error:  # it may name Python modules, and they do what they like
            found.kept.add(path)
            found.refuse(names.get(path, path.stem), path, error)
        else:
            found.offers[offer] = path
            found.read.update(files)
    if found.bad:  # what is wrong may stand in a file that is used, which is not known then
        found.read.update(stamp, (Path(mistake.place.file) for receipt in found.bad for mistake in receipt.mistakes))
    # What changes while it is read is found by the next look, because it does not have this stamp any more.
    found.stamp = {path: before.get(path, after) for path, after in places.stamp(found.read).items()}
    return found
