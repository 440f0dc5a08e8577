"""`penstock schema`: the JSON Schema of flow files, for editors that complete and check while one types."""

from __future__ import annotations

import argparse
import json
from typing import Any

from penstock.files.model import FLOW, SHARED_FILE, TESTS_FILE
from penstock.support.terminal import write_data

KINDS = {"flow": FLOW, "shared": SHARED_FILE, "tests": TESTS_FILE}
"""The kinds of files: of a flow, of services and templates that flows use, and of tests beside a flow."""


def command(arguments: list[str]) -> int:
    """Print the schema; returns 0."""
    options = make_parser().parse_args(arguments)
    write_data(json.dumps(schema(options.kind), indent=2, ensure_ascii=False) + "\n")
    return 0


def make_parser() -> argparse.ArgumentParser:
    """The words and flags of the command."""
    parser = argparse.ArgumentParser(
        prog="penstock schema",
        description="Print the JSON Schema of flow files. Save it, and name it in the first line of a flow file: "
        "# yaml-language-server: $schema=flow.schema.json",
    )
    parser.add_argument(
        "kind",
        metavar="KIND",
        nargs="?",
        choices=tuple(KINDS),
        default="flow",
        help="flow (default), shared for files that flow files use, or tests for NAME.test.yaml",
    )
    return parser


def schema(kind: str = "flow") -> dict[str, Any]:
    """The schema of a kind of files."""
    return {**KINDS[kind].schema(), "title": f"Penstock {kind}"}
