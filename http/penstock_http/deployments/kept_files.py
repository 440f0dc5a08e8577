"""Send the texts of the flow files that are served to the parent, and load flows from these texts.

Only flow files and the files that they include are kept there. Python modules are always imported from disk.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from msgspec import Struct, msgpack

from penstock_http.deployments.file_watcher import FileStamps
from penstock_http.deployments.loader import FlowLoader, ScanResult
from penstock_http.processes.deployment_messages import ActiveRevision
from penstock_http.processes.flow_files import KEEP, MISSING, TEXT, FileVersion, FlowFiles, text_digest
from penstock_http.processes.peers import Peers

SECONDS = 10.0
"""Timeout of a question to the parent."""


class ServedFile(Struct, frozen=True):
    """A flow file that was deployed: the name of its flow, and all texts that it was loaded from, by path.

    Without texts, another flow with this name is served.
    """

    flow: str
    texts: Mapping[Path, str]


class ServedFiles(Struct, frozen=True):
    """The flow files that were deployed, and the stamps of all files when they were last read."""

    files: Mapping[Path, ServedFile]
    stamps: FileStamps


def load_kept(loader: FlowLoader, kept: ServedFiles) -> ScanResult:
    """Load flows from kept texts, like `scan` from files."""
    found = ScanResult(())
    found.stamps = dict(kept.stamps)
    for path, file in kept.files.items():
        if not file.texts:
            continue
        try:
            found.candidates[loader.load_kept(path, file.texts)] = path
        except (Exception, SystemExit) as error:  # a Python module that the file names may raise anything
            found.add_failure(file.flow, path, error)
    return found


async def send_files(peers: Peers, served: ServedFiles) -> FlowFiles:
    """Send the parent all texts that it does not have, and return which files have them. Raises `NoAnswer`."""
    texts = {path: text.encode() for file in served.files.values() for path, text in file.texts.items()}
    digests = {path: text_digest(text) for path, text in texts.items()}
    by_digest = {digests[path]: text for path, text in texts.items()}
    answer = await peers.ask_parent(MISSING, msgpack.encode(list(by_digest)), timeout=SECONDS)
    for digest in msgpack.decode(answer, type=list[str]):
        await peers.ask_parent(KEEP, by_digest[digest], timeout=SECONDS)
    files = {
        str(path): FileVersion(file.flow, {str(source): digests[source] for source in file.texts})
        for path, file in served.files.items()
    }
    return FlowFiles(files, {str(path): stamp for path, stamp in served.stamps.items()})


async def fetch_files(peers: Peers, files: FlowFiles, known: Mapping[str, ActiveRevision]) -> ServedFiles:
    """Return the files that the parent keeps, with the texts of those whose flows are served. Raises `NoAnswer`.

    `known` are the active revisions: a flow with the name of one in a file may have been uploaded since, or deleted.
    """
    texts: dict[str, str] = {}
    served: dict[Path, ServedFile] = {}
    for path, version in files.files.items():
        active = known.get(version.flow)
        sources = version.texts if active is not None and active.source == path else {}
        for digest in sources.values():
            if digest not in texts:
                texts[digest] = (await peers.ask_parent(TEXT, digest.encode(), timeout=SECONDS)).decode()
        served[Path(path)] = ServedFile(version.flow, {Path(each): texts[digest] for each, digest in sources.items()})
    return ServedFiles(served, {Path(path): stamp for path, stamp in files.stamps.items()})
