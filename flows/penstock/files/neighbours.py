"""Can the flows of several files be served side by side? One name is one flow, and one path leads to one flow."""

from __future__ import annotations

from penstock.files.load import FlowFile
from penstock.files.mistakes import Mistake
from penstock.files.places import Place
from penstock.hosting import RESERVED


class Neighbours:
    """The flows that were looked at so far."""

    def __init__(self) -> None:
        self._names: dict[str, FlowFile] = {}
        self._paths: dict[str, FlowFile] = {}

    def add(self, file: FlowFile) -> Mistake | None:
        """Take in a flow; what is wrong, if it cannot be served beside those before it, as `serve` will say."""
        name, path = file.flow.name, file.flow.served_as
        before = self._names.setdefault(name, file)
        said = None
        if not _same(before, file):
            said = f"there is a flow {name!r} in {before.path} already"
        elif path in RESERVED:
            said = f"no flow can be served as {path!r}: that path is the service's own"
        elif path is not None and not _same(other := self._paths.setdefault(path, file), file):
            said = f"the flow {other.flow.name!r} is served as {path!r} already"
        return None if said is None else Mistake(Place(str(file.path)), said, hint="give it another name")


def _same(file: FlowFile, other: FlowFile) -> bool:
    return file.path.resolve() == other.path.resolve()
