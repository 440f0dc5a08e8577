"""Can the flows of several files be served side by side? One name is one flow, and one path leads to one flow.

And an output file is written to in one way.
"""

from __future__ import annotations

from penstock.files.load import FlowFile
from penstock.files.mistakes import Mistake
from penstock.files.places import Place
from penstock.hosting import RESERVED
from penstock.outlets import Sharing


class Neighbours:
    """The flows that were looked at so far."""

    def __init__(self) -> None:
        self._names: dict[str, FlowFile] = {}
        self._paths: dict[str, FlowFile] = {}
        self._sharing = Sharing()

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
        if said is not None:
            return Mistake(Place(str(file.path)), said, hint="give it another name")
        outlets = file.flow.outlets.values()
        if (clash := self._sharing.clash(outlets)) is not None:
            return Mistake(Place(str(file.path)), str(clash))
        self._sharing.add(outlets, f"the flow {name!r}")
        return None


def _same(file: FlowFile, other: FlowFile) -> bool:
    return file.path.resolve() == other.path.resolve()
