"""`penstock schema`: print the JSON Schema of flow files."""

from __future__ import annotations

import json
from typing import Any

import click

from penstock.cli.options import Command
from penstock.flowfile.forms.form import Form
from penstock.flowfile.forms.record import Record
from penstock.flowfile.models import SHARED_FILE, FlowModel
from penstock.flowtests.models import TESTS, TESTS_FILE
from penstock.support.terminal import write_data

KINDS: dict[str, Form[Any]] = {
    "flow": Record(FlowModel, replaced={"tests": TESTS}),
    "shared": SHARED_FILE,
    "tests": TESTS_FILE,
}
"""The kinds of files: a flow, services and templates that flows include, and tests beside a flow."""


@click.command(cls=Command)
@click.argument("kind", metavar="KIND", type=click.Choice(list(KINDS)), default="flow")
def schema(kind: str) -> int:
    """Print the JSON Schema of flow files, for editors.

    KIND is `flow` (default), `shared` for files that flow files include, or `tests` for NAME.test.yaml. Save the schema
    and name it in the first line of a flow file: # yaml-language-server: $schema=flow.schema.json
    """
    write_data(json.dumps(make_schema(kind), indent=2, ensure_ascii=False) + "\n")
    return 0


def make_schema(kind: str = "flow") -> dict[str, Any]:
    """Make the schema of a kind of file."""
    return {**KINDS[kind].schema(), "title": f"Penstock {kind}"}
