"""Draw the flow of a file: `penstock graph FILE`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from penstock.complaints import complain
from penstock.console import write_data
from penstock.errors import PenstockError
from penstock.flow import Flow
from penstock.graph import IMAGE_FORMATS, TEXT_FORMATS, build_graph, render_dot, render_image

FORMATS = (*TEXT_FORMATS, *IMAGE_FORMATS)
ENDINGS = {
    ".mmd": "mermaid",
    ".mermaid": "mermaid",
    ".dot": "dot",
    ".gv": "dot",
    ".json": "json",
    ".svg": "svg",
    ".png": "png",
}
"""The format of an output file, by its extension."""


def command(arguments: list[str], read: Callable[[str], Flow[Any]] | None = None) -> int:
    """Draw a flow. Returns 0, 1 if the flow is invalid or the drawing fails, 2 for wrong usage.

    `read` returns the flow of a file.
    """
    options = make_parser().parse_args(arguments)
    try:
        flow = (read or flow_of)(options.file)
    except (PenstockError, OSError) as error:
        return complain("graph", error, 1 if Path(options.file).exists() else 2)
    if options.output is not None and is_same(options.file, options.output):
        return complain("graph", f"--output {options.output} is the flow file itself: write to another file", 2)
    if options.format is None and (ending := ending_of(options.output)) and ending not in ENDINGS:
        known = ", ".join(ENDINGS)
        return complain("graph", f"unknown extension {ending}: use one of {known}, or --format", 2)
    format = format_of(options)
    if format == "png" and options.output is None and sys.stdout.isatty():
        return complain("graph", "--format png writes binary data: add --output FILE", 2)
    graph = build_graph(flow)
    if format in TEXT_FORMATS:
        return put(TEXT_FORMATS[format](graph), options.output)
    try:
        return put(render_image(render_dot(graph), format), options.output)
    except PenstockError as error:
        return complain("graph", error)


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(
        prog="penstock graph",
        description="Draw a flow: its sources, steps, branches, services, sinks and dead letters. "
        "The formats svg and png need Graphviz.",
        epilog="Exit codes: 0 success, 1 the flow is invalid or the drawing failed, 2 wrong usage, "
        "such as a missing file.",
    )
    parser.add_argument("file", metavar="FILE", help="a flow file")
    parser.add_argument(
        "--format",
        choices=FORMATS,
        help="default: by the extension of the output file, else mermaid",
    )
    parser.add_argument("--output", metavar="FILE", help="output file (default: standard output)")
    return parser


def format_of(options: argparse.Namespace) -> str:
    """Return the requested format, or the one of the output file."""
    return options.format or ENDINGS.get(ending_of(options.output), "mermaid")


def ending_of(output: str | None) -> str:
    """Return the extension of the output file in lower case, empty if there is none."""
    return Path(output or "").suffix.lower()


def flow_of(file: str) -> Flow[Any]:
    """Load the flow of a file."""
    from penstock.files import load  # imported late because it is slow
    from penstock.files.folders import check_file

    check_file(file)
    return load(file).flow


def is_same(file: str, output: str) -> bool:
    """Return whether two paths are the same file."""
    try:
        return Path(file).samefile(output)
    except OSError:  # one of them does not exist
        return False


def put(drawing: str | bytes, output: str | None) -> int:
    """Write a drawing to a file or to standard output; returns the exit code. Text is UTF-8 in any locale."""
    if output is None:
        if isinstance(drawing, str):
            write_data(drawing)
        else:
            sys.stdout.buffer.write(drawing)
            sys.stdout.flush()
        return 0
    try:
        Path(output).write_bytes(drawing.encode() if isinstance(drawing, str) else drawing)
    except OSError as error:
        return complain("graph", f"cannot write {output}: {error.strerror}")
    return 0
