"""Report the results of tests as text, JSON or JUnit XML."""

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
    """The results of the tests of one file, or the errors because of which none ran."""

    file: str
    results: tuple[FlowTestResult, ...] = ()
    errors: tuple[str, ...] = ()

    @property
    def failed(self) -> int:
        """Return how many tests failed."""
        return sum(not result.passed for result in self.results)

    @property
    def seconds(self) -> float:
        """Return how long the tests took, in real seconds."""
        return sum(result.run.real_seconds for result in self.results)


def as_text(reports: Sequence[FileReport], *, trace: bool = False) -> str:
    """Return a line for each test, with its differences below it, and a summary line."""
    return "".join(f"{line}\n" for line in _lines(reports, trace))


def as_json(reports: Sequence[FileReport], *, trace: bool = False) -> str:
    """Return the reports as one JSON document."""
    document = {
        "tests": sum(len(report.results) for report in reports),
        "failed": sum(report.failed for report in reports),
        "diagnostics": sum(len(report.errors) for report in reports),
        "files": [
            {
                "file": report.file,
                "diagnostics": list(report.errors),
                "tests": [_document(result, trace) for result in report.results],
            }
            for report in reports
        ],
    }
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


def details(result: FlowTestResult) -> str:
    """Return all differences of a test, and the seed that reproduces them."""
    return "\n".join([*map(str, result.differences), f"seed {result.run.seed}"])


def trace_lines(result: FlowTestResult) -> Iterator[str]:
    """Yield the events of a test, each as a line that starts with its time."""
    for seconds, event in result.run.trace:
        yield f"{format_seconds(seconds):>12}  {event}"


def _lines(reports: Sequence[FileReport], trace: bool) -> Iterator[str]:
    for report in reports:
        if report.results or report.errors:
            yield report.file
        for message in report.errors:
            yield from (f"  ! {line}" for line in message.splitlines())
        for result in report.results:
            yield from _result_lines(result, trace)
    tests = sum(len(report.results) for report in reports)
    failed = sum(report.failed for report in reports)
    seconds = sum(report.seconds for report in reports)
    virtual = sum(result.run.summary.seconds for report in reports for result in report.results)
    counts = [f"{tests - failed} passed"] + ([f"{failed} failed"] if failed else [])
    if invalid := sum(bool(report.errors) for report in reports):
        counts.append(f"{invalid} invalid {'file' if invalid == 1 else 'files'}")
    yield f"{', '.join(counts)} in {seconds:.2f} s ({format_seconds(virtual)} of virtual time)"


def _result_lines(result: FlowTestResult, trace: bool) -> Iterator[str]:
    run = result.run
    mark = "✓" if result.passed else "✗"
    duration = format_seconds(run.summary.seconds)
    yield f"  {mark} {run.case.name} ({duration}, {run.real_seconds * 1000:.0f} ms real time)"
    if not result.passed:
        if run.case.location is not None:
            yield f"      at {run.case.location}"
        yield from (f"      {line}" for line in details(result).splitlines())
    if trace:
        yield from (f"      {line}" for line in trace_lines(result))


def _document(result: FlowTestResult, trace: bool) -> dict[str, Any]:
    run = result.run
    location = run.case.location
    summary = {
        name: value for name, value in msgspec.structs.asdict(run.summary).items() if name not in ("run", "kind")
    }
    return {
        "name": run.case.name,
        "ok": result.passed,
        **({"line": location.line} if location is not None else {}),
        "seed": run.seed,
        "seconds": run.summary.seconds,
        "realSeconds": round(run.real_seconds, 6),
        "summary": summary,
        "calls": dict(run.calls),
        "differences": [{"subject": one.subject, "lines": list(one.lines)} for one in result.differences],
        **({"trace": [{"at": seconds, "event": event} for seconds, event in run.trace]} if trace else {}),
    }


_FORBIDDEN = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""Characters that XML 1.0 does not allow, not even escaped (https://www.w3.org/TR/xml/#charsets)."""


def as_junit(reports: Sequence[FileReport], *, trace: bool = False) -> str:
    """Return the reports as JUnit XML."""
    root = Element("testsuites", name="penstock test")
    for report in reports:
        _suite(root, report, trace)
    _count(root, reports)
    indent(root)
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{tostring(root, encoding="unicode")}\n'


def _suite(root: Element, report: FileReport, trace: bool) -> None:
    suite = SubElement(root, "testsuite", name=_clean(report.file))
    for result in report.results:
        _case(suite, report.file, result, trace)
    for message in report.errors:
        case = SubElement(suite, "testcase", name="flow file", classname=_clean(report.file), time="0")
        error = SubElement(case, "error", message=_clean(message.splitlines()[0]), type="FlowFileError")
        error.text = _clean(message)
    _count(suite, [report])
    suite.set("skipped", "0")


def _case(suite: Element, file: str, result: FlowTestResult, trace: bool) -> None:
    run = result.run
    case = SubElement(
        suite,
        "testcase",
        name=_clean(run.case.name),
        classname=_clean(file),
        time=f"{run.real_seconds:.6f}",
    )
    if run.case.location is not None:
        case.set("file", _clean(run.case.location.file))  # the flow file, or NAME.test.yaml
        case.set("line", str(run.case.location.line))
    if not result.passed:
        first = str(result.differences[0]).splitlines()[0]
        failure = SubElement(case, "failure", message=_clean(first), type=result.differences[0].subject)
        failure.text = _clean(details(result))
    if trace:
        SubElement(case, "system-out").text = _clean("\n".join(trace_lines(result)))


def _count(element: Element, reports: Sequence[FileReport]) -> None:
    errors = sum(len(report.errors) for report in reports)
    element.set("tests", str(sum(len(report.results) for report in reports) + errors))
    element.set("failures", str(sum(report.failed for report in reports)))
    element.set("errors", str(errors))
    element.set("time", f"{sum(report.seconds for report in reports):.6f}")


def _clean(text: str) -> str:
    return _FORBIDDEN.sub("\ufffd", text)
