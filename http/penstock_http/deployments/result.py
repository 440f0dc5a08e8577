"""What came of loading a flow: a receipt, with every mistake and its place."""

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
    """What came of it."""

    ACCEPTED = "accepted"
    """It is a new revision, which new runs take."""
    UNCHANGED = "unchanged"
    """It is what new runs take already."""
    REFUSED = "rejected"
    """It has mistakes; what ran before runs on."""
    REMOVED = "removed"
    """Its file is gone: it takes no new runs."""


class DeploymentResult(Struct, frozen=True, kw_only=True):
    """What came of loading one flow."""

    flow: str
    outcome: DeploymentStatus
    source: str
    """The file that it came from; `PUT` or `built in` for what came from none."""
    at: datetime
    revision: int | None = None
    digest: str | None = None
    mistakes: tuple[Diagnostic, ...] = ()
    more: int = 0
    """How many further mistakes there are."""

    def document(self, *, trusted: bool = True) -> dict[str, Any]:
        """The receipt for people and programs. Mistakes quote the file, so who is not trusted does not see them."""
        return {
            "flow": self.flow,
            "outcome": self.outcome.value,
            "source": self.source,
            "at": self.at.isoformat(),
            "revision": self.revision,
            "digest": self.digest,
            "diagnostics": [mistake.document() for mistake in self.mistakes if trusted],
            "moreDiagnostics": self.more,
        }


def refused(flow: str, source: str, mistakes: Iterable[Diagnostic], more: int = 0) -> DeploymentResult:
    """The receipt of what has mistakes."""
    return DeploymentResult(
        flow=flow, outcome=DeploymentStatus.REFUSED, source=source, at=now(), mistakes=tuple(mistakes), more=more
    )


def refused_for(error: BaseException, flow: str, source: str, file: str) -> DeploymentResult:
    """The receipt of what could not be loaded, by the error that was raised."""
    more = error.more if isinstance(error, FlowFileError) else 0
    return refused(flow, source, mistakes_of(error, file), more)


def mistakes_of(error: BaseException, file: str) -> list[Diagnostic]:
    """What an error that was raised while a flow was loaded has to say: each of its mistakes, or itself."""
    return (
        list(error.mistakes)
        if isinstance(error, FlowFileError)
        else [Diagnostic(SourceLocation(file), describe(error))]
    )
