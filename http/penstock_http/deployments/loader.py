"""Load flow files in a thread, with a timeout. Loading changes nothing that is served."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

from msgspec import Struct

from penstock.errors import FlowDefinitionError
from penstock.flow.flow import Flow
from penstock.flowfile.load import FlowFile
from penstock.flowfile.reader import NO_TEXTS
from penstock.support.tasks import to_daemon_thread
from penstock_http.deployments.file_watcher import FileStamps, WatchedFiles
from penstock_http.deployments.result import DeploymentResult, rejected_for
from penstock_http.deployments.revision import UPLOADED, FlowCandidate

T = TypeVar("T")

LOAD_TIMEOUT = 60.0
"""Seconds that loading may take. Flow files can name Python modules, whose import may take long or never end."""


class LoadTimeout(FlowDefinitionError):
    """Loading takes too long. Its thread cannot be stopped and continues."""

    def __init__(self) -> None:
        super().__init__(f"not loaded within {LOAD_TIMEOUT:g} s; check the Python modules that the flow file names")


class LoaderBusy(FlowDefinitionError):
    """An earlier load exceeded its timeout and still runs, so nothing can be loaded."""

    def __init__(self) -> None:
        super().__init__("an earlier load hangs; check the Python modules that flow files name, then restart")


class LoadQueue:
    """Runs loads in a thread, one at a time. A load that hangs only blocks further loads, not the service."""

    def __init__(self) -> None:
        self._last: asyncio.Future[Any] | None = None

    async def run(self, load: Callable[[], T]) -> T:
        """Run a load and return its result.

        Raises `LoadTimeout` if it takes too long, `LoaderBusy` if the previous load still runs.
        """
        if self._last is not None and not await _ends(self._last):
            raise LoaderBusy
        self._last = result = to_daemon_thread(load, "penstock-loading")
        if not await _ends(result):
            raise LoadTimeout
        return result.result()


async def _ends(result: asyncio.Future[Any]) -> bool:
    await asyncio.wait((result,), timeout=LOAD_TIMEOUT)
    return result.done()


class LoadText(Protocol):
    """Reads a text with the name of a file. Included files that are in `texts` are not read."""

    def __call__(self, text: str, path: str | Path, *, texts: Mapping[Path, str] = NO_TEXTS) -> FlowFile: ...


class FlowLoader(Struct, frozen=True, eq=False):
    """Loads flows from files and from uploaded texts.

    `load` reads a file, `loads` a text. Both raise `PenstockError`.
    """

    load: Callable[[Path], FlowFile]
    loads: LoadText
    to_flow: Callable[[FlowFile], Flow[Any]] = lambda file: file.flow
    """Returns the flow of a file, with defaults of the service for what the file does not declare."""

    def load_file(self, path: Path) -> tuple[FlowCandidate, Sequence[Path]]:
        """Return the flow in a file, and all files that were read for it."""
        loaded = self.load(path)
        return self._candidate(loaded, path), loaded.files

    def load_kept(self, path: Path, texts: Mapping[Path, str]) -> FlowCandidate:
        """Return the flow in a file whose text, and those of the files that it includes, were kept."""
        return self._candidate(self.loads(texts[path], path, texts=texts), path)

    def load_text(self, text: str, file: str) -> FlowCandidate:
        """Return the flow in an uploaded text."""
        loaded = self.loads(text, file)
        return FlowCandidate(self.to_flow(loaded), loaded.digest, UPLOADED)

    def _candidate(self, loaded: FlowFile, path: Path) -> FlowCandidate:
        return FlowCandidate(self.to_flow(loaded), loaded.digest, str(path), loaded.texts)


class ScanResult:
    """The flows and errors that a scan of all files found."""

    def __init__(self, unreadable: Sequence[Path]) -> None:
        self.candidates: dict[FlowCandidate, Path] = {}
        self.failures: list[DeploymentResult] = []
        self.read: set[Path] = set()
        """All files that were read, successfully or not."""
        self.stamps: FileStamps = {}
        self.invalid: set[Path] = set()
        """Files that exist but cannot be loaded."""
        self._unreadable = unreadable

    def keeps_current(self, path: Path) -> bool:
        """Return whether the flow of a file stays as it is: the file is invalid, or its directory cannot be read."""
        return path in self.invalid or any(directory in path.parents for directory in self._unreadable)

    def add_failure(self, name: str, path: Path, error: BaseException) -> None:
        """Add the error of a file or directory."""
        self.failures.append(rejected_for(error, name, str(path), str(path)))


def scan(loader: FlowLoader, files: WatchedFiles, names: Mapping[Path, str], stamps: FileStamps) -> ScanResult:
    """Load all files. `names` and `stamps` are the flows and the stamps of the files at the previous scan."""
    before = files.stamps(stamps)
    paths, unreadable = files.flow_files()
    found = ScanResult([path for path, _ in unreadable])
    for path, error in unreadable:
        found.add_failure(path.name, path, error)
    for path in paths:
        found.read.add(path)
        if path in names and not path.exists():
            continue  # the file was deleted
        try:
            candidate, sources = loader.load_file(path)
        except (Exception, SystemExit) as error:  # a Python module that the file names may raise anything
            found.invalid.add(path)
            found.add_failure(names.get(path, path.stem), path, error)
        else:
            found.candidates[candidate] = path
            found.read.update(sources)
    if found.failures:  # the error may be in an included file, and which files are included is not known then
        errors = (diagnostic for failure in found.failures for diagnostic in failure.diagnostics)
        found.read.update(stamps, (Path(diagnostic.location.file) for diagnostic in errors))
    # The stamps from before the scan are kept, so that the next check finds a file that changed while it was read.
    found.stamps = {path: before.get(path, after) for path, after in files.stamps(found.read).items()}
    return found
