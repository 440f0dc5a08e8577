"""What the tests of several files came to, for people and as JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from penstock.files.trials.judge import Verdict
from penstock.files.trials.traces import at


@dataclass(frozen=True, slots=True, eq=False)
class FileReport:
    """The tests of one file, or the mistakes because of which none was played."""

    file: str
    verdicts: tuple[Verdict, ...] = ()
    mistakes: tuple[str, ...] = ()

    @property
    def failed(self) -> int:
        """How many tests failed."""
        return sum(not verdict.passed for verdict in self.verdicts)

    @property
    def seconds(self) -> float:
        """Real seconds that the tests took."""
        return sum(verdict.played.real_seconds for verdict in self.verdicts)


def as_text(reports: Sequence[FileReport], *, trace: bool = False) -> str:
    """A line for each test, with what is not as expected below it, and a line that sums up."""
    return "".join(f"{line}\n" for line in _lines(reports, trace))


def as_json(reports: Sequence[FileReport], *, trace: bool = False) -> str:
    """One document with all that is known."""
    document = {
        "tests": sum(len(report.verdicts) for report in reports),
        "failed": sum(report.failed for report in reports),
        "diagnostics": sum(len(report.mistakes) for report in reports),
        "files": [
            {
                "file": report.file,
                "diagnostics": list(report.mistakes),
                "tests": [_document(verdict, trace) for verdict in report.verdicts],
            }
            for report in reports
        ],
    }
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


def in_detail(verdict: Verdict) -> str:
    """All differences of a test, a paragraph each, and how to see the same again."""
    return "\n".join([*map(str, verdict.differences), f"seed {verdict.played.seed}"])


def traced(verdict: Verdict) -> Iterator[str]:
    """What happened, a line each, beginning with the time."""
    for seconds, what in verdict.played.trace:
        yield f"{at(seconds):>12}  {what}"


def _lines(reports: Sequence[FileReport], trace: bool) -> Iterator[str]:
    for report in reports:
        if report.verdicts or report.mistakes:
            yield report.file
        for mistake in report.mistakes:
            yield from (f"  ! {line}" for line in mistake.splitlines())
        for verdict in report.verdicts:
            yield from _verdict(verdict, trace)
    tests = sum(len(report.verdicts) for report in reports)
    failed = sum(report.failed for report in reports)
    seconds = sum(report.seconds for report in reports)
    virtual = sum(verdict.played.summary.seconds for report in reports for verdict in report.verdicts)
    said = [f"{tests - failed} passed"] + ([f"{failed} failed"] if failed else [])
    if broken := sum(bool(report.mistakes) for report in reports):
        said.append(f"{broken} {'file' if broken == 1 else 'files'} with mistakes")
    yield f"{', '.join(said)} in {seconds:.2f} s ({at(virtual)} of virtual time)"


def _verdict(verdict: Verdict, trace: bool) -> Iterator[str]:
    played = verdict.played
    mark = "✓" if verdict.passed else "✗"
    yield f"  {mark} {played.case.name} ({at(played.summary.seconds)}, really {played.real_seconds * 1000:.0f} ms)"
    if not verdict.passed:
        if played.case.place is not None:
            yield f"      at {played.case.place}"
        yield from (f"      {line}" for line in in_detail(verdict).splitlines())
    if trace:
        yield from (f"      {line}" for line in traced(verdict))


def _document(verdict: Verdict, trace: bool) -> dict[str, Any]:
    played = verdict.played
    place = played.case.place
    summary = {
        name: value for name, value in msgspec.structs.asdict(played.summary).items() if name not in ("run", "kind")
    }
    return {
        "name": played.case.name,
        "ok": verdict.passed,
        **({"line": place.line} if place is not None else {}),
        "seed": played.seed,
        "seconds": played.summary.seconds,
        "realSeconds": round(played.real_seconds, 6),
        "summary": summary,
        "calls": dict(played.calls),
        "differences": [{"what": one.what, "lines": list(one.lines)} for one in verdict.differences],
        **({"trace": [{"at": seconds, "what": what} for seconds, what in played.trace]} if trace else {}),
    }
