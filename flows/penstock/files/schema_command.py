"""`penstock schema`: the JSON Schema of flow files, for editors that complete and check while one types."""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

from penstock.files.model import FLOW


def command(arguments: list[str]) -> int:
    """Print the schema; returns 0."""
    make_parser().parse_args(arguments)
    sys.stdout.write(json.dumps(schema(), indent=2, ensure_ascii=False) + "\n")
    return 0


def make_parser() -> argparse.ArgumentParser:
    """The flags of the command."""
    return argparse.ArgumentParser(
        prog="penstock schema",
        description="Print the JSON Schema of flow files. Save it, and name it in the first line of a flow file: "
        "# yaml-language-server: $schema=flow.schema.json",
    )


def schema() -> dict[str, Any]:
    """The schema."""
    return {**FLOW.schema(), "title": "Penstock flow"}
