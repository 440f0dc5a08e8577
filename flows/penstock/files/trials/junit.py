"""Reports as JUnit XML, as Jenkins, GitLab and the others read it.

There is no standard, only https://github.com/testmoapp/junitxml and what readers have in common: `testsuites`,
`testsuite`, `testcase`, and in it `failure` or `error` with a message and a text.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from xml.etree.ElementTree import Element, SubElement, indent, tostring

from penstock.files.trials.judge import Verdict
from penstock.files.trials.report import FileReport, in_detail, traced

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


def _case(suite: Element, file: str, verdict: Verdict, trace: bool) -> None:
    played = verdict.played
    case = SubElement(
        suite,
        "testcase",
        name=_clean(played.case.name),
        classname=_clean(file),
        time=f"{played.real_seconds:.6f}",
    )
    if played.case.place is not None:
        case.set("file", _clean(played.case.place.file))  # which may be the file beside the flow's
        case.set("line", str(played.case.place.line))
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
