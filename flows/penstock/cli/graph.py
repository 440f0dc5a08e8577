"""`penstock graph FILE`: draw the flow of a file as a graph."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from penstock.cli.options import FILE, Command, print_error
from penstock.errors import PenstockError
from penstock.flow.flow import Flow
from penstock.flowfile import load
from penstock.flowfile.discovery import check_file
from penstock.graph import IMAGE_FORMATS, TEXT_FORMATS, build_graph, render_dot, render_image
from penstock.support.terminal import write_data

FORMATS = (*TEXT_FORMATS, *IMAGE_FORMATS)
DEFAULT_FORMAT = FORMATS[0]
SUFFIXES = {
    ".mmd": "mermaid",
    ".mermaid": "mermaid",
    ".dot": "dot",
    ".gv": "dot",
    ".json": "json",
    ".svg": "svg",
    ".png": "png",
}
"""The format of an output file, by the suffix of its name."""


@click.command(
    cls=Command,
    epilog="Exit codes: 0 all well; 1 the file is invalid or the graph cannot be written; 2 wrong usage, such as a "
    "file that does not exist.",
)
@click.argument("file", type=FILE)
@click.option(
    "--format",
    type=click.Choice(FORMATS),
    help=f"Output format (default: by the suffix of the output file, else {DEFAULT_FORMAT}).",
)
@click.option("--output", metavar="FILE", type=FILE, help="Output file (default: standard output).")
def graph(file: str, format: str | None, output: str | None) -> int:
    """Draw a flow as a graph: its sources, steps, branches, services, sinks and dead letters.

    FILE is a flow file. The formats svg and png need Graphviz.
    """
    return write_graph(file, format, output)


def load_flow(file: str) -> Flow[Any]:
    """Load the flow of a file."""
    check_file(file)
    return load(file).flow


def write_graph(
    file: str, format: str | None, output: str | None, load_flow: Callable[[str], Flow[Any]] = load_flow
) -> int:
    """Load a flow and write its graph. Returns the exit code."""
    if output is not None and is_same_file(file, output):
        return print_error("graph", f"{output} is the flow file and would be overwritten; name another file", 2)
    if format is None and (suffix := Path(output or "").suffix.lower()):
        if suffix not in SUFFIXES:
            allowed = ", ".join(SUFFIXES)
            return print_error("graph", f"{output}: unknown suffix {suffix}; use one of {allowed}, or --format", 2)
        format = SUFFIXES[suffix]
    format = format or DEFAULT_FORMAT
    if format == "png" and output is None and sys.stdout.isatty():
        return print_error("graph", "--format png writes binary data: add --output FILE", 2)
    try:
        flow = load_flow(file)
    except (PenstockError, OSError) as error:
        return print_error("graph", error, 1 if Path(file).exists() else 2)
    try:
        document = draw(flow, format)
    except PenstockError as error:
        return print_error("graph", error)
    return write_document(document, output)


def draw(flow: Flow[Any], format: str) -> str | bytes:
    """Draw a flow in a format. Raises `GraphvizMissing`, `GraphvizFailed`."""
    graph = build_graph(flow)
    return TEXT_FORMATS[format](graph) if format in TEXT_FORMATS else render_image(render_dot(graph), format)


def write_document(document: str | bytes, output: str | None) -> int:
    """Write text in UTF-8, whatever the locale is, or bytes, to a file or standard output. Returns the exit code."""
    if output is None:
        write_data(document)
        return 0
    try:
        Path(output).write_bytes(document if isinstance(document, bytes) else document.encode())
    except OSError as error:
        return print_error("graph", f"{output} cannot be written: {error.strerror}")
    return 0


def is_same_file(path: str | Path, other: str | Path) -> bool:
    """Return whether two paths lead to the same file. A file that does not exist is not the same as any other."""
    try:
        return Path(path).samefile(other)
    except OSError:
        return False
