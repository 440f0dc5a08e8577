"""`penstock graph FILE`: the flow of a file as a picture."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from penstock.complaints import complain
from penstock.errors import PenstockError
from penstock.files.graph import graph_of
from penstock.files.pictures import FORMATS
from penstock.flow import Flow
from penstock.support.terminal import write_data

ENDINGS = {".svg": "svg", ".mmd": "mermaid", ".mermaid": "mermaid", ".dot": "dot", ".gv": "dot", ".json": "json"}
"""The format that is meant by the ending of a file's name."""


def command(arguments: list[str], read: Callable[[str], Flow[Any]] | None = None) -> int:
    """Draw a flow; returns 0, 1 if the flow has mistakes or the picture cannot be written, 2 if there is no file.

    `read` gives the flow of a file.
    """
    options = make_parser().parse_args(arguments)
    try:
        flow = (read or flow_of)(options.file)
    except (PenstockError, OSError) as error:
        return complain("graph", error, 1 if Path(options.file).exists() else 2)
    if options.output is not None and is_same(options.file, options.output):
        return complain("graph", f"{options.output} is the flow itself, which would be lost; name another file", 2)
    if options.format is None and (ending := ending_of(options.output)) and ending not in ENDINGS:
        known = ", ".join(ENDINGS)
        return complain("graph", f"no picture ends in {ending}; name it with {known}, or say --format", 2)
    return put(FORMATS[format_of(options)](graph_of(flow)), options.output)


def make_parser() -> argparse.ArgumentParser:
    """The words and flags of the command."""
    parser = argparse.ArgumentParser(
        prog="penstock graph",
        description="Draw a flow: its sources, steps, branches, services, and where failures are kept.",
        epilog="Exit codes: 0 all is well, 1 the file has mistakes or the picture cannot be written, 2 wrong usage, "
        "such as a file that is not there.",
    )
    parser.add_argument("file", metavar="FILE", help="a flow file")
    parser.add_argument(
        "--format",
        choices=tuple(FORMATS),
        help="default: what the name of the output ends in, else mermaid",
    )
    parser.add_argument("--output", metavar="FILE", help="where the picture goes (default: standard output)")
    return parser


def format_of(options: argparse.Namespace) -> str:
    """The format that is asked for, by its name or by that of the output."""
    return options.format or ENDINGS.get(ending_of(options.output), "mermaid")


def ending_of(output: str | None) -> str:
    """What the name of the output ends in; nothing when it has no name or no ending."""
    return Path(output or "").suffix.lower()


def flow_of(file: str) -> Flow[Any]:
    """The flow of a file."""
    from penstock.files import load  # late: what reads files takes a while to import
    from penstock.files.folders import check_file

    check_file(file)
    return load(file).flow


def is_same(file: str, output: str) -> bool:
    """Whether two names are those of one file."""
    try:
        return Path(file).samefile(output)
    except OSError:  # one of them is not there
        return False


def put(picture: str, output: str | None) -> int:
    """Write a picture, in UTF-8 whatever the terminal says; returns the exit code."""
    if output is None:
        write_data(picture)
        return 0
    try:
        Path(output).write_text(picture, encoding="utf-8", newline="\n")
    except OSError as error:
        return complain("graph", f"{output} cannot be written: {error.strerror}")
    return 0
