"""The progress of the workers that only the leader runs: which have finished, and when the others run next.

The next leader gets it, so that workers of flows that have not changed continue there.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import TypeAlias

from msgspec import Struct, msgpack

from penstock_http.deployments.revision import Revision


class FlowProgress(Struct, frozen=True):
    """The workers of one revision of a flow that only one process runs."""

    revision: int
    digest: str
    due: dict[str, datetime | None]
    """When each worker runs next; a time that has passed if its run was interrupted, None if it does not run again."""


Progress: TypeAlias = "Mapping[str, FlowProgress]"
"""The workers of all flows, by flow."""


def due_in(progress: Progress, revision: Revision) -> dict[str, datetime | None]:
    """Return when each worker of a revision runs next, as far as it is known: nothing if the flow has changed."""
    found = progress.get(revision.name)
    if found is None or (found.revision, found.digest) != (revision.number, revision.digest):
        return {}
    return found.due


def after_crash(progress: Progress, now: datetime) -> Progress:
    """Return what is still true when a leader that continued from it has crashed without a further report.

    Runs that were due meanwhile may have been made or not.
    """

    def keep(known: FlowProgress) -> FlowProgress:
        due = {worker: due for worker, due in known.due.items() if due is None or due > now}
        return FlowProgress(known.revision, known.digest, due)

    return {flow: keep(known) for flow, known in progress.items()}


def encode_progress(progress: Progress) -> bytes:
    """Encode it for the parent, which keeps it."""
    return msgpack.encode(progress)


def decode_progress(data: bytes) -> Progress:
    """Decode what another process has encoded. Nothing is known if the data is empty."""
    return msgpack.decode(data, type=dict[str, FlowProgress]) if data else {}
