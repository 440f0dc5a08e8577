"""What the tests of several files came to, for people and as JSON."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any
from xml.etree.ElementTree import Element, SubElement, indent, tostring

import msgspec

from penstock.flowtests.tracing import format_seconds
from penstock.flowtests.verdict import FlowTestResult


@dataclass(frozen=True, slots=True, eq=False)
class FileReport:
    """The tests of one file, or the mistakes because of which none was played."""

    file: str
    verdicts: tuple[FlowTestResult, ...] = ()
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


def in_detail(verdict: FlowTestResult) -> str:
    """All differences of a test, a paragraph each, and how to see the same again."""
    return "\n".join([*map(str, verdict.differences), f"seed {verdict.played.seed}"])


def traced(verdict: FlowTestResult) -> Iterator[str]:
    """What happened, a line each, beginning with the time."""
    for seconds, what in verdict.played.trace:
        yield f"{format_seconds(seconds):>12}  {what}"


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
    yield f"{', '.join(said)} in {seconds:.2f} s ({format_seconds(virtual)} of virtual time)"


def _verdict(verdict: FlowTestResult, trace: bool) -> Iterator[str]:
    played = verdict.played
    mark = "✓" if verdict.passed else "✗"
    duration = format_seconds(played.summary.seconds)
    yield f"  {mark} {played.case.name} ({duration}, really {played.real_seconds * 1000:.0f} ms)"
    if not verdict.passed:
        if played.case.location is not None:
            yield f"      at {played.case.location}"
        yield from (f"      {line}" for line in in_detail(verdict).splitlines())
    if trace:
        yield from (f"      {line}" for line in traced(verdict))


def _document(verdict: FlowTestResult, trace: bool) -> dict[str, Any]:
    played = verdict.played
    place = played.case.location
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


_FORBIDDEN = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""What XML 1.0 cannot hold, not even escaped (https://www.w3.org/TR/xml/#charsets)."""


def as_junit(reports: Sequence[FileReport], *, trace: bool = False) -> str:
    """All reports as one document."""
    root = Element("testsuites", name="penstock test")
    for report in reports:
        _suite(root, report, trace)
    _count(root, reports)
    indent(root)
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{tostring(root, encoding="unicode")}\n'


def _suite(root: Element, report: FileReport, trace: bool) -> None:
    suite = SubElement(root, "testsuite", name=_clean(report.file))
    for verdict in report.verdicts:
        _case(suite, report.file, verdict, trace)
    for mistake in report.mistakes:
        case = SubElement(suite, "testcase", name="the file itself", classname=_clean(report.file), time="0")
        error = SubElement(case, "error", message=_clean(mistake.splitlines()[0]), type="FlowFileError")
        error.text = _clean(mistake)
    _count(suite, [report])
    suite.set("skipped", "0")


def _case(suite: Element, file: str, verdict: FlowTestResult, trace: bool) -> None:
    played = verdict.played
    case = SubElement(
        suite,
        "testcase",
        name=_clean(played.case.name),
        classname=_clean(file),
        time=f"{played.real_seconds:.6f}",
    )
    if played.case.location is not None:
        case.set("file", _clean(played.case.location.file))  # which may be the file beside the flow's
        case.set("line", str(played.case.location.line))
    if not verdict.passed:
        first = str(verdict.differences[0]).splitlines()[0]
        failure = SubElement(case, "failure", message=_clean(first), type=verdict.differences[0].what)
        failure.text = _clean(in_detail(verdict))
    if trace:
        SubElement(case, "system-out").text = _clean("\n".join(traced(verdict)))


def _count(element: Element, reports: Sequence[FileReport]) -> None:
    errors = sum(len(report.mistakes) for report in reports)
    element.set("tests", str(sum(len(report.verdicts) for report in reports) + errors))
    element.set("failures", str(sum(report.failed for report in reports)))
    element.set("errors", str(errors))
    element.set("time", f"{sum(report.seconds for report in reports):.6f}")


def _clean(text: str) -> str:
    return _FORBIDDEN.sub("\ufffd", text)
