"""`penstock check DIR|FILE…`: every mistake in flow files, and how much memory the flows can take at the most."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from penstock.bound import Bound
from penstock.complaints import complain
from penstock.errors import FlowError, FlowFileError, OutletBroke
from penstock.files.folders import files_of
from penstock.files.load import FlowFile, load
from penstock.files.mistakes import Mistake
from penstock.files.neighbours import Neighbours
from penstock.files.pictures.facts import size
from penstock.files.places import Place
from penstock.files.shared import check_shared, is_shared
from penstock.outlets import check_outlets
from penstock.settings import SettingsError, load_settings
from penstock.steps import walk
from penstock.support.terminal import write_data, write_text


def command(arguments: list[str]) -> int:
    """Check files and `PENSTOCK_…` variables; returns 0 if all is well, 1 for a mistake, 2 if a file is not there."""
    parser = make_parser()
    options = parser.parse_args(arguments)
    try:
        paths = list(dict.fromkeys(path for named in options.paths for path in files_of(named)))
    except (FlowError, OSError) as error:
        parser.error(str(error))
    neighbours = Neighbours()
    reports = [report(path, neighbours) for path in paths]
    if options.json:
        write_data(json.dumps(reports, indent=2, ensure_ascii=False) + "\n")
    else:
        write_text("".join(line + "\n" for one in reports for line in lines_of(one, quiet=options.quiet)))
    settings_code = check_settings()
    if not all(path.exists() for path in paths):
        return 2
    return settings_code if all(one["ok"] for one in reports) else 1


def check_settings() -> int:
    """Report a `PENSTOCK_…` variable with which `penstock serve` would not start; returns 1 if there is one, or 0."""
    try:
        load_settings({}, os.environ)
    except SettingsError as error:
        return complain("check", error)
    return 0


def make_parser() -> argparse.ArgumentParser:
    """The flags of the command."""
    parser = argparse.ArgumentParser(
        prog="penstock check",
        description="Say everything that is wrong in flow files and in PENSTOCK_… variables, and how much the flows "
        "can hold at the most.",
        epilog="Exit codes: 0 all is well, 1 a file or a variable has mistakes, 2 wrong usage, such as a file that is "
        "not there.",
    )
    parser.add_argument(
        "paths",
        metavar="DIR|FILE",
        nargs="+",
        type=Path,
        help="flow files: .yaml or .json, and directories of them",
    )
    parser.add_argument("--json", action="store_true", help="for programs")
    parser.add_argument("--quiet", action="store_true", help="only mistakes")
    return parser


def report(path: Path, neighbours: Neighbours) -> dict[str, Any]:
    """What there is to say about one file among others, as a document."""
    try:
        if is_shared(path):
            return {"file": str(path), "ok": True, "shared": True, "has": check_shared(path)}
        file = load(path)
        if (clash := neighbours.add(file)) is not None:
            raise FlowFileError([clash])
        check_outlets(file.flow.outlets.values(), locks=False)
    except FlowFileError as error:
        mistakes = [mistake.document() | {"text": str(mistake)} for mistake in error.mistakes]
        return {"file": str(path), "ok": False, "mistakes": mistakes, "more": error.more}
    except OutletBroke as error:
        mistake = Mistake(Place(str(path)), str(error))
        return {"file": str(path), "ok": False, "mistakes": [mistake.document() | {"text": str(mistake)}], "more": 0}
    return {"file": str(path), "ok": True, "flow": file.flow.name, "has": counted(file), "bound": measured(file)}


def counted(file: FlowFile) -> dict[str, int]:
    """How much of what a flow has."""
    flow = file.flow
    return {
        "steps": len(list(walk(flow.steps))),
        "services": len(flow.services),
        "workers": len(flow.workers),
        "tests": len(file.tests),
    }


def measured(file: FlowFile) -> dict[str, Any]:
    """The bound of a flow, as a document."""
    bound: Bound = file.flow.bound
    parts = [asdict(part) for part in bound.parts]
    return {"elements": bound.elements, "bytes": bound.bytes, "open": list(bound.open), "parts": parts}


def lines_of(report: dict[str, Any], *, quiet: bool) -> Iterator[str]:
    """The report for a person."""
    if not report["ok"]:
        yield from (mistake["text"] for mistake in report["mistakes"])
        if report["more"]:
            yield f"{report['file']}: and {report['more']} more"
        number = len(report["mistakes"]) + report["more"]
        yield f"{report['file']}: {number} {'mistake' if number == 1 else 'mistakes'}"
        return
    if quiet:
        return
    has = ", ".join(f"{number} {what if number != 1 else what[:-1]}" for what, number in report["has"].items())
    if "shared" in report:
        yield f"{report['file']}: fine, for flow files to use ({has})"
        return
    bound = report["bound"]
    yield f"{report['file']}: flow {report['flow']} is fine ({has})"
    yield f"  one run holds at most {bound['elements']} elements and {size(bound['bytes'])} of JSON:"
    width = max(len(part["step"]) for part in bound["parts"])
    for part in bound["parts"]:
        elements = f"{part['elements']:>7}" if part["elements"] else " " * 7
        memory = f"{size(part['bytes']):>9}" if part["bytes"] else " " * 9
        yield f"    {part['step']:<{width}}  {elements}  {memory}  {part['why']}"
    if bound["open"]:
        yield f"  not in it, for it has no limit: what {', '.join(bound['open'])} return"
