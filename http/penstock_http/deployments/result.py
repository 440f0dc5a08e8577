"""The result of deploying one flow: its status and, if it was rejected, its errors with their locations."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from enum import StrEnum
from typing import Any

from msgspec import Struct

from penstock.errors import FlowFileError, describe
from penstock.flowfile import Diagnostic, SourceLocation
from penstock.support.ids import now


class DeploymentStatus(StrEnum):
    """What a deployment changed."""

    ACCEPTED = "accepted"
    """The flow is a new revision, which new runs use."""
    UNCHANGED = "unchanged"
    """The flow is the revision that new runs use already."""
    REJECTED = "rejected"
    """The flow has errors. The previous revision stays active."""
    REMOVED = "removed"
    """The file of the flow is gone, or the flow was deleted. No new runs start."""


class DeploymentResult(Struct, frozen=True, kw_only=True):
    """The result of deploying one flow."""

    flow: str
    outcome: DeploymentStatus
    source: str
    """The file or Python name of the flow, `PUT` if it was uploaded, or `built in`."""
    at: datetime
    revision: int | None = None
    digest: str | None = None
    diagnostics: tuple[Diagnostic, ...] = ()
    more_diagnostics: int = 0
    """The number of further errors."""

    def document(self, *, trusted: bool = True) -> dict[str, Any]:
        """Return the result as JSON values. Diagnostics quote the file, so only trusted clients get them."""
        return {
            "flow": self.flow,
            "outcome": self.outcome.value,
            "source": self.source,
            "at": self.at.isoformat(),
            "revision": self.revision,
            "digest": self.digest,
            "diagnostics": [diagnostic.document() for diagnostic in self.diagnostics if trusted],
            "moreDiagnostics": self.more_diagnostics,
        }


def rejected(flow: str, source: str, diagnostics: Iterable[Diagnostic], more: int = 0) -> DeploymentResult:
    """Return the result for a flow that has errors."""
    return DeploymentResult(
        flow=flow,
        outcome=DeploymentStatus.REJECTED,
        source=source,
        at=now(),
        diagnostics=tuple(diagnostics),
        more_diagnostics=more,
    )


def rejected_for(error: BaseException, flow: str, source: str, file: str) -> DeploymentResult:
    """Return the result for a flow whose loading raised an error."""
    more = error.more if isinstance(error, FlowFileError) else 0
    return rejected(flow, source, diagnostics_of(error, file), more)


def diagnostics_of(error: BaseException, file: str) -> list[Diagnostic]:
    """Return the diagnostics of an error that was raised while a flow was loaded, or one that describes the error."""
    if isinstance(error, FlowFileError):
        return list(error.diagnostics)
    return [Diagnostic(SourceLocation(file), describe(error))]
