"""What cannot be served side by side: one name is one flow, and one path leads to one flow.

And an output file is written to in one way.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from penstock.flow.serving import RESERVED
from penstock.flowfile import Diagnostic, SourceLocation
from penstock.sinks import SinkFiles
from penstock_http.deployments.revision import FlowCandidate, Revision

FLOWS = 1000
"""Flows that may be known at once."""


def conflicts(
    offers: Iterable[FlowCandidate],
    leaving: Mapping[str, FlowCandidate | None],
    active: Iterable[Revision],
    known: Collection[str],
) -> dict[FlowCandidate, list[Diagnostic]]:
    """The offers that cannot be beside the rest, with the reason.

    An offer that is refused leaves its old revision standing, beside which others may not fit either: so all is looked
    at again until nothing more is refused.
    """
    standing = list(active)
    wrong: dict[FlowCandidate, list[Diagnostic]] = {}
    while True:
        coming = [offer for offer in offers if offer not in wrong]
        going = {offer.flow.name for offer in coming}
        going |= {name for name, offer in leaving.items() if offer not in wrong}
        staying = [revision for revision in standing if revision.name not in going]
        sharing = SinkFiles()
        for each in staying:
            sharing.add(each.flow.outlets.values(), f"the flow {each.name!r}")
        paths = {path: each.name for each in staying if (path := each.served_as) is not None}
        found = _among(coming, paths, known, sharing)
        if not found:
            return wrong
        wrong |= found


def _among(
    coming: Iterable[FlowCandidate], paths: dict[str, str], known: Collection[str], sharing: SinkFiles
) -> dict[FlowCandidate, list[Diagnostic]]:
    """Those of the coming flows that clash with one before them, or with the flow that has their path or file."""
    names = set(known)
    sources: dict[str, str] = {}
    found: dict[FlowCandidate, list[Diagnostic]] = {}
    for offer in coming:
        name, path = offer.flow.name, offer.flow.path_name
        if name in sources:
            said = f"there is a flow {name!r} in {sources[name]} already"
        elif path in RESERVED:
            said = f"no flow can be served as {path!r}: that path is the service's own"
        elif path in paths:
            said = f"the flow {paths[path]!r} is served as {path!r} already"
        elif name not in names and len(names) >= FLOWS:
            said = f"there are {FLOWS} flows already"
        elif (clash := sharing.find_conflict(offer.flow.outlets.values())) is not None:
            found[offer] = [Diagnostic(SourceLocation(offer.source), str(clash))]
            continue
        else:
            sharing.add(offer.flow.outlets.values(), f"the flow {name!r}")
            sources[name] = offer.source
            names.add(name)
            if path is not None:
                paths[path] = name
            continue
        found[offer] = [Diagnostic(SourceLocation(offer.source), said, hint="give it another name")]
    return found
