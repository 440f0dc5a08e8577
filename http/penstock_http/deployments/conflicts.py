"""Find flows that cannot be served together: two with one name or one path, or two that write one file differently."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from penstock.flow.serving import RESERVED
from penstock.flowfile import Diagnostic, SourceLocation
from penstock.sinks import SinkFiles
from penstock_http.deployments.revision import FlowCandidate, Revision

MAX_FLOWS = 1000
"""Maximum number of registered flows."""


def find_conflicts(
    candidates: Iterable[FlowCandidate],
    removals: Mapping[str, FlowCandidate | None],
    active: Iterable[Revision],
    registered: Collection[str],
) -> dict[FlowCandidate, list[Diagnostic]]:
    """Return the candidates that conflict with others, with the reason.

    `removals` are the flows to remove, each with the candidate that replaces it, if there is one. A flow stays if its
    replacement is rejected.
    """
    active = list(active)
    conflicts: dict[FlowCandidate, list[Diagnostic]] = {}
    # A rejected candidate leaves its previous revision active, which may conflict with further candidates. So the check
    # is repeated until it rejects no more.
    while True:
        accepted = [candidate for candidate in candidates if candidate not in conflicts]
        replaced = {candidate.flow.name for candidate in accepted}
        replaced |= {name for name, candidate in removals.items() if candidate not in conflicts}
        staying = [revision for revision in active if revision.name not in replaced]
        sharing = SinkFiles()
        for revision in staying:
            sharing.add(revision.flow.all_sinks.values(), f"the flow {revision.name!r}")
        paths = {path: revision.name for revision in staying if (path := revision.path_name) is not None}
        found = _check_each(accepted, paths, registered, sharing)
        if not found:
            return conflicts
        conflicts |= found


def _check_each(
    candidates: Iterable[FlowCandidate], paths: dict[str, str], registered: Collection[str], sharing: SinkFiles
) -> dict[FlowCandidate, list[Diagnostic]]:
    """Return the candidates that conflict with an earlier one, or with a flow that uses their path or file.

    `paths` and `sharing` are what the other flows use. Candidates without conflicts are added to them.
    """
    names = set(registered)
    sources: dict[str, str] = {}
    found: dict[FlowCandidate, list[Diagnostic]] = {}
    for candidate in candidates:
        name, path = candidate.flow.name, candidate.flow.path_name
        sinks = candidate.flow.all_sinks.values()
        if name in sources:
            message = f"flow {name!r} is already defined in {sources[name]}"
        elif path in RESERVED:
            message = f"the path {path!r} is reserved"
        elif path in paths:
            message = f"the path {path!r} is already used by flow {paths[path]!r}"
        elif name not in names and len(names) >= MAX_FLOWS:
            message = f"there are already {MAX_FLOWS} flows, which is the limit"
        elif (clash := sharing.find_conflict(sinks)) is not None:
            found[candidate] = [Diagnostic(SourceLocation(candidate.source), str(clash))]
            continue
        else:
            sharing.add(sinks, f"the flow {name!r}")
            sources[name] = candidate.source
            names.add(name)
            if path is not None:
                paths[path] = name
            continue
        found[candidate] = [Diagnostic(SourceLocation(candidate.source), message, hint="use another name")]
    return found
