"""`penstock test DIR|FILE…`: plays the tests of flow files in virtual time, for people and for CI."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from penstock.complaints import complain
from penstock.errors import FlowError
from penstock.files.folders import files_of
from penstock.files.graph_command import is_same
from penstock.files.load import FlowFile
from penstock.files.load import load as load_file
from penstock.files.reading import tests_beside
from penstock.files.shared import is_shared
from penstock.files.trials.case import Case
from penstock.files.trials.judge import Verdict, judge
from penstock.files.trials.junit import as_junit
from penstock.files.trials.play import play
from penstock.files.trials.report import FileReport, as_json, as_text
from penstock.files.unset import Unset
from penstock.flow import Flow
from penstock.support.terminal import write_data
from penstock.support.text import sanitize

FORMATS = {"text": as_text, "json": as_json, "junit": as_junit}


Load = Callable[..., FlowFile]
"""Reads the flow file at a path, in an `environment`; raises `FlowFileError` with all that is wrong."""


def command(arguments: list[str], load: Load = load_file) -> int:
    """Play tests; returns 0 when all passed, 1 when some failed, 2 for files with mistakes and when there is none."""
    options = make_parser().parse_args(arguments)
    environment = Unset(os.environ)  # for no test leaves the machine
    try:
        named = [path for given in options.files for path in files_of(given)]
    except (FlowError, OSError) as error:
        return complain("test", error, 2)
    paths = dict.fromkeys(flow_file(path) for path in named if not is_shared(path))
    files = [*named, *paths, *map(tests_beside, paths)]
    if options.output is not None and any(is_same(str(file), str(options.output)) for file in files):
        return complain("test", f"{options.output} is one of the files to test; write the report to another file", 2)
    reports = [_report(path, load, environment, options.only, options.seed) for path in paths]
    if (wrong := _publish(reports, options)) is not None:
        return complain("test", wrong, 2)
    if options.format != "text" and options.output is None:  # nobody has told people yet
        for mistake in (mistake for report in reports for mistake in report.mistakes):
            complain("test", mistake)
    if not any(report.verdicts or report.mistakes for report in reports):
        return complain("test", f"{', '.join(map(str, options.files))}: {why_none(options.only, shared=not paths)}", 2)
    if any(report.mistakes for report in reports):
        return 2
    return 1 if any(report.failed for report in reports) else 0


def make_parser() -> argparse.ArgumentParser:
    """The flags of the command."""
    parser = argparse.ArgumentParser(
        prog="penstock test",
        description="Play the tests of flow files in virtual time: the real engine, scripted services, no waiting.",
        epilog="Exit codes: 0 all passed, 1 some failed, 2 a file has mistakes or is not there, there is nothing to "
        "play, the report cannot be written, or wrong usage.",
    )
    parser.add_argument(
        "files",
        metavar="DIR|FILE",
        nargs="+",
        type=Path,
        help="flow files, and directories of them; the tests in NAME.test.yaml belong to NAME.yaml",
    )
    parser.add_argument("--format", choices=tuple(FORMATS), default="text", help="how to report (default text)")
    parser.add_argument(
        "--output", metavar="FILE", type=Path, help="where to report; people then read the text on standard output"
    )
    parser.add_argument("--only", metavar="TEXT", help="only tests whose name has this in it")
    parser.add_argument("--seed", metavar="N", type=_seed, help="draw from this seed instead of those of the tests")
    parser.add_argument("--trace", action="store_true", help="tell all that happened, with its time")
    return parser


def why_none(only: str | None, *, shared: bool) -> str:
    """Why there was nothing to play: no test of that name, none at all, or, of `shared` files, no flow to have some."""
    if shared:
        return "no tests: only flows have some, and what is shared by them is played by theirs"
    return f"no test whose name has {only!r} in it" if only else "no tests: give the file a list `tests:`"


def flow_file(path: Path) -> Path:
    """The flow file that a file of tests belongs to; any other is one itself."""
    stem = Path(path.stem)
    return path.with_name(f"{stem.stem}{path.suffix}") if stem.suffix == ".test" else path


def _report(path: Path, load: Load, environment: Mapping[str, str], only: str | None, seed: int | None) -> FileReport:
    try:
        file = load(path, environment=environment)
        chosen = [case for case in file.tests if only is None or only in case.name]
        return FileReport(str(path), tuple(_played(file.flow, case, seed) for case in chosen))
    except (FlowError, OSError) as error:
        return FileReport(str(path), mistakes=(str(error),))


def _played(flow: Flow[Any], case: Case, seed: int | None) -> Verdict:
    return judge(play(flow, case, seed=seed))


def _publish(reports: Sequence[FileReport], options: argparse.Namespace) -> str | None:
    """Write the report where it was asked for; returns what is wrong if that cannot be."""
    write: Callable[..., str] = FORMATS[options.format]
    text = write(reports, trace=options.trace)
    if options.output is None:
        write_data(text)
        return None
    write_data(as_text(reports))
    try:
        options.output.write_bytes(sanitize(text).encode())
    except OSError as error:
        return f"{options.output} cannot be written: {error.strerror}"
    return None


def _seed(text: str) -> int:
    if not (text.isascii() and text.isdigit()):
        raise argparse.ArgumentTypeError(f"has to be a whole number from 0 on, got {text!r}")
    return int(text)
