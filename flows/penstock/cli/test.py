"""`penstock test DIR|FILE...`: run the tests of flow files in virtual time."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import click

from penstock.cli.graph import is_same_file
from penstock.cli.options import FILE, Command, not_negative, print_error
from penstock.errors import FlowDefinitionError
from penstock.flowfile.discovery import files_of, is_shared
from penstock.flowfile.placeholders import PlaceholderEnvironment
from penstock.flowtests.execute import run_test
from penstock.flowtests.load import TestedFlow, load, tests_beside
from penstock.flowtests.report import FileReport, as_json, as_junit, as_text
from penstock.flowtests.verdict import verify
from penstock.support.terminal import write_data

FORMATS: dict[str, Callable[..., str]] = {"text": as_text, "json": as_json, "junit": as_junit}

Load = Callable[..., TestedFlow]
"""Loads the flow file at a path with its tests, with an `environment`. Raises `FlowFileError` with all errors in it."""


@click.command(
    cls=Command,
    epilog="Exit codes: 0 all passed; 1 some failed; 2 a file is invalid or does not exist, there are no tests, the "
    "report cannot be written, or wrong usage.",
)
@click.argument("paths", metavar="DIR|FILE...", nargs=-1, required=True, type=FILE)
@click.option("--format", type=click.Choice(list(FORMATS)), default="text", show_default=True, help="Report format.")
@click.option("--output", metavar="FILE", type=FILE, help="Report file; standard output then shows the text report.")
@click.option("--only", metavar="TEXT", help="Run only tests whose name contains this text.")
@click.option("--seed", metavar="N", type=not_negative, help="Random seed, instead of the seeds of the tests.")
@click.option("--trace", is_flag=True, help="Show all events, with their virtual time.")
def test(
    paths: tuple[str, ...], format: str, output: str | None, only: str | None, seed: int | None, trace: bool
) -> int:
    """Run the tests of flow files in virtual time: the real engine with fake services, without waiting.

    Takes flow files and directories of them. Tests in NAME.test.yaml belong to NAME.yaml.
    """
    return run_tests(list(map(Path, paths)), format=format, output=output, only=only, seed=seed, trace=trace)


def run_tests(
    paths: Sequence[Path],
    load: Load = load,
    *,
    format: str = "text",
    output: str | None = None,
    only: str | None = None,
    seed: int | None = None,
    trace: bool = False,
) -> int:
    """Run the tests of files and write the report. Returns the exit code."""
    try:
        named = [file for path in paths for file in files_of(path)]
    except (FlowDefinitionError, OSError) as error:
        return print_error("test", error, 2)
    flows = list(dict.fromkeys(flow_file(path) for path in named if not is_shared(path)))
    if output is not None and (source := overwritten_file(output, [*named, *flows])) is not None:
        return print_error("test", f"{output} is the same file as {source}; name another file", 2)
    environment = PlaceholderEnvironment(
        os.environ
    )  # no test makes a request, so that variables for services need not be set
    reports = [_run_file(path, load, environment, only, seed) for path in flows]
    if (problem := _write_report(reports, format, output, trace=trace)) is not None:
        return print_error("test", problem, 2)
    if format != "text" and output is None:  # standard output has no text report
        for message in (message for report in reports for message in report.errors):
            print_error("test", message)
    if not any(report.results or report.errors for report in reports):
        names = ", ".join(map(str, paths))
        return print_error("test", f"{names}: {why_no_tests(only, shared=not flows)}", 2)
    if any(report.errors for report in reports):
        return 2
    return 1 if any(report.failed for report in reports) else 0


def why_no_tests(only: str | None, *, shared: bool) -> str:
    """Say why no test was run. `shared`: the files contain no flow, only services and templates."""
    if shared:
        return "no tests: only flows have tests; run those of the flows that use these files"
    return f"no test whose name contains {only!r}" if only else "no tests: add a list `tests:` to the file"


def flow_file(path: Path) -> Path:
    """Return the flow file that a file of tests belongs to. Any other path is returned unchanged."""
    stem = Path(path.stem)
    return path.with_name(f"{stem.stem}{path.suffix}") if stem.suffix == ".test" else path


def overwritten_file(output: str, paths: Iterable[Path]) -> Path | None:
    """Return the flow or test file that a report would overwrite, or None."""
    files = (file for path in paths for file in (path, tests_beside(path)))
    return next((file for file in files if is_same_file(file, output)), None)


def _run_file(path: Path, load: Load, environment: Mapping[str, str], only: str | None, seed: int | None) -> FileReport:
    try:
        tested = load(path, environment=environment)
        chosen = [case for case in tested.tests if only is None or only in case.name]
        return FileReport(str(path), tuple(verify(run_test(tested.flow, case, seed=seed)) for case in chosen))
    except (FlowDefinitionError, OSError) as error:
        return FileReport(str(path), errors=(str(error),))


def _write_report(reports: Sequence[FileReport], format: str, output: str | None, *, trace: bool) -> str | None:
    """Write the report. Returns why it cannot be written, or None."""
    text = FORMATS[format](reports, trace=trace)
    if output is None:
        write_data(text)
        return None
    write_data(as_text(reports))
    try:
        Path(output).write_bytes(text.encode("utf-8", "backslashreplace"))  # a value may contain a lone surrogate
    except OSError as error:
        return f"{output} cannot be written: {error.strerror}"
    return None
