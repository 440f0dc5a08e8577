"""`penstock check DIR|FILE...`: validate flow files; report the memory bound of their flows, and what outages do."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from penstock.backends.server_url import hide_password
from penstock.cli.broker_notes import broker_notes
from penstock.cli.options import FILE, Command, print_error, usage_error
from penstock.cli.outages import outages, tls_errors
from penstock.cli.processes import processes_report
from penstock.deadletters import DeadLetterStore
from penstock.deadletters.stores import is_log_url
from penstock.errors import FlowDefinitionError, FlowFileError, SinkWriteFailed
from penstock.flowfile.diagnostics import Diagnostic, SourceLocation
from penstock.flowfile.discovery import NameConflicts, check_shared, files_of, is_shared
from penstock.flowtests.load import TestedFlow, load
from penstock.graph.details import format_size
from penstock.settings import Settings, SettingsError, load_settings
from penstock.sinks import check_sinks
from penstock.steps import MemoryBound, walk
from penstock.support.terminal import write_data, write_text


@click.command(
    cls=Command,
    epilog="Exit codes: 0 all well; 1 a file or a variable has errors; 2 wrong usage, such as a file that does not "
    "exist.",
)
@click.argument("paths", metavar="DIR|FILE...", nargs=-1, required=True, type=FILE)
@click.option("--json", "as_json", is_flag=True, help="Write JSON.")
@click.option("--quiet", is_flag=True, help="Report errors only.")
@click.option(
    "--processes",
    metavar="N",
    type=click.IntRange(1, 64),
    help="Report what several processes of penstock serve or work divide. [default: PENSTOCK_PROCESSES, or 1]",
)
def check(paths: tuple[str, ...], as_json: bool, quiet: bool, processes: int | None) -> int:
    """Validate flow files and PENSTOCK_* variables.

    Reports all errors at once, each with its location. Of each flow it reports how much memory a run can hold, what
    happens while a service is down, and what several processes divide. Takes flow files (.yaml or .json) and
    directories of them.
    """
    try:
        files = list(dict.fromkeys(file for path in paths for file in files_of(Path(path))))
    except (FlowDefinitionError, OSError) as error:
        raise usage_error(error) from error
    conflicts = NameConflicts()
    settings = settings_of_environment()
    count = processes or (1 if isinstance(settings, SettingsError) else settings.processes)
    reports = [check_file(file, conflicts, count) for file in files]
    if as_json:
        write_data(json.dumps(reports, indent=2, ensure_ascii=False) + "\n")
    else:
        write_text("".join(line + "\n" for one in reports for line in format_report(one, quiet=quiet)))
    settings_code = print_error("check", settings) if isinstance(settings, SettingsError) else 0
    if not all(file.exists() for file in files):
        return 2
    return settings_code if all(one["ok"] for one in reports) else 1


def settings_of_environment() -> Settings | SettingsError:
    """Return the settings of `PENSTOCK_*` variables, or the error with which `penstock serve` would not start."""
    try:
        return load_settings({}, os.environ)
    except SettingsError as error:
        return error


def check_file(path: Path, conflicts: NameConflicts, processes: int = 1) -> dict[str, Any]:
    """Validate one of several files. Returns a report that can be encoded as JSON."""
    try:
        if is_shared(path):
            return {"file": str(path), "ok": True, "shared": True, "counts": check_shared(path)}
        tested = load(path)
        file = tested.file
        if (conflict := conflicts.add(file)) is not None:
            raise FlowFileError([conflict])
        check_sinks(file.flow.all_sinks.values(), locks=False)
        if errors := list(tls_errors(file.flow)):
            raise FlowFileError([Diagnostic(SourceLocation(str(path)), error) for error in errors])
    except FlowFileError as error:
        return failed(path, error.diagnostics, error.more)
    except SinkWriteFailed as error:
        return failed(path, [Diagnostic(SourceLocation(str(path)), str(error))], 0)
    return {
        "file": str(path),
        "ok": True,
        "flow": file.flow.name,
        "counts": counts(tested),
        "memory": memory_report(file.flow.memory_bound),
        "outages": outages(file.flow),
        "processes": {"count": processes, "texts": processes_report(file.flow, processes)},
        "notes": [*notes(file.flow.store), *broker_notes(file.flow, processes)],
    }


def notes(store: str | DeadLetterStore | None) -> list[str]:
    """Return what a user should know about the store of a flow."""
    if not isinstance(store, str) or not is_log_url(store):
        return []
    return [
        f"dead letters go to a log, {hide_password(store)}: they can be listed, exported and redriven, but not looked "
        "up, counted, grouped, edited, parked or purged"
    ]


def failed(path: Path, diagnostics: Sequence[Diagnostic], more: int) -> dict[str, Any]:
    """Make the report of a file with errors; `more` is the number of errors that were left out."""
    documents = [one.document() | {"text": str(one)} for one in diagnostics]
    return {"file": str(path), "ok": False, "diagnostics": documents, "more": more}


def counts(tested: TestedFlow) -> dict[str, int]:
    """Count the parts of a flow."""
    flow = tested.flow
    return {
        "steps": len(list(walk(flow.steps))),
        "services": len(flow.all_services),
        "workers": len(flow.workers),
        "tests": len(tested.tests),
    }


def memory_report(bound: MemoryBound) -> dict[str, Any]:
    """Make a document of the memory bound of a flow."""
    parts = [asdict(part) for part in bound.parts]
    return {"elements": bound.elements, "bytes": bound.bytes, "open": list(bound.open), "parts": parts}


def format_report(report: dict[str, Any], *, quiet: bool) -> Iterator[str]:
    """Yield the lines of a report."""
    file = report["file"]
    if not report["ok"]:
        yield from (diagnostic["text"] for diagnostic in report["diagnostics"])
        if report["more"]:
            yield f"{file}: and {report['more']} more"
        number = len(report["diagnostics"]) + report["more"]
        yield f"{file}: {number} {'error' if number == 1 else 'errors'}"
        return
    if quiet:
        return
    parts = ", ".join(f"{number} {name if number != 1 else name[:-1]}" for name, number in report["counts"].items())
    if "shared" in report:
        yield f"{file}: valid, for use by flow files ({parts})"
        return
    memory = report["memory"]
    yield f"{file}: flow {report['flow']} is valid ({parts})"
    yield f"  one run holds at most {memory['elements']} elements and {format_size(memory['bytes'])} of JSON:"
    width = max(len(part["step"]) for part in memory["parts"])
    for part in memory["parts"]:
        elements = f"{part['elements']:>7}" if part["elements"] else " " * 7
        bytes = f"{format_size(part['bytes']):>9}" if part["bytes"] else " " * 9
        yield f"    {part['step']:<{width}}  {elements}  {bytes}  {part['why']}"
    if memory["open"]:
        yield f"  not included, because their size has no limit: results of {', '.join(memory['open'])}"
    if report["outages"]:
        yield "  while a service is down:"
        yield from (f"    {outage['service']}: {outage['text']}" for outage in report["outages"])
    if texts := report["processes"]["texts"]:
        yield f"  with {report['processes']['count']} processes:"
        yield from (f"    {text}" for text in texts)
    yield from (f"  {note}" for note in report["notes"])
