"""What came of loading a flow: a receipt, with every mistake and its place."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from enum import StrEnum
from typing import Any

from msgspec import Struct

from penstock.deadletters import now
from penstock.errors import describe


class Verdict(StrEnum):
    """What came of it."""

    ACCEPTED = "accepted"
    """It is a new revision, which new runs take."""
    UNCHANGED = "unchanged"
    """It is what new runs take already."""
    REFUSED = "refused"
    """It has mistakes; what ran before runs on."""
    REMOVED = "removed"
    """Its file is gone: it takes no new runs."""


class Fault(Struct, frozen=True):
    """One thing that is wrong, where it stands if it stands anywhere, and the way out."""

    file: str
    found: str
    line: int | None = None
    column: int | None = None
    wanted: str | None = None
    hint: str | None = None

    def __str__(self) -> str:
        place = ":".join(str(part) for part in (self.file, self.line, self.column) if part is not None)
        said = f"{self.found}, {self.wanted}" if self.wanted else self.found
        return f"{place}: {said}; {self.hint}" if self.hint else f"{place}: {said}"


class Receipt(Struct, frozen=True, kw_only=True):
    """What came of loading one flow."""

    flow: str
    outcome: Verdict
    source: str
    """The file that it came from; `PUT` or `built in` for what came from none."""
    at: datetime
    revision: int | None = None
    digest: str | None = None
    mistakes: tuple[Fault, ...] = ()

    def document(self, *, trusted: bool = True) -> dict[str, Any]:
        """The receipt for people and programs. Mistakes quote the file, so who is not trusted does not see them."""
        return {
            "flow": self.flow,
            "outcome": self.outcome.value,
            "source": self.source,
            "at": self.at.isoformat(),
            "revision": self.revision,
            "digest": self.digest,
            "mistakes": [mistake_document(mistake) for mistake in self.mistakes if trusted],
        }


def mistake_document(fault: Fault) -> dict[str, Any]:
    """A mistake for programs."""
    return {name: getattr(fault, name) for name in ("file", "line", "column", "found", "wanted", "hint")}


def refused(flow: str, source: str, mistakes: Iterable[Fault]) -> Receipt:
    """The receipt of what has mistakes."""
    return Receipt(flow=flow, outcome=Verdict.REFUSED, source=source, at=now(), mistakes=tuple(mistakes))


def faults_of(error: BaseException, file: str) -> list[Fault]:
    """What an error that was raised while a flow was loaded has to say: each of its mistakes, or itself."""
    mistakes = getattr(error, "mistakes", None)
    if not mistakes:
        return [Fault(file, describe(error))]
    return [
        Fault(
            mistake.place.file,
            mistake.found,
            mistake.place.line,
            mistake.place.column,
            mistake.wanted or None,
            mistake.hint,
        )
        for mistake in mistakes
    ]
