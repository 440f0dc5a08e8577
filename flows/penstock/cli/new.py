"""`penstock new NAME`: create a flow file to start from, with a test that passes."""

from __future__ import annotations

import re
from pathlib import Path
from string import Template

import click

from penstock.cli.options import Command, print_error, usage_error
from penstock.flowfile.steps import NAME
from penstock.support.terminal import write_text

DIRECTORY = click.Path(readable=False, file_okay=False, path_type=Path)

FLOW = Template("""\
# A flow: the items, the steps that each item takes, and where failed items are stored.
# Expressions are CEL (https://cel.dev). `value` is the item as the previous step returned it.
flow: $name
description: What $name is for, in one line.  # shown in graphs and lists; replace it

key: id  # the field that identifies an item
item:
  id: {type: integer, minimum: 1}
  amount: {type: number, minimum: 0}
  currency: string

# services:  # called by steps, with a timeout and a limit; `- enrich: [customer]` is such a step
#   customer: {get: "http://127.0.0.1:8081/customers/{id}", timeout: 2s, attempts: 2}

steps:
  - filter: value.amount > 0
  - set: {euros: "double(value.amount) * {'EUR': 1.0, 'USD': 0.92}[value.currency]"}
    name: convert  # fails for items in another currency; the other items continue
  - route:
      large: {when: value.euros >= 1000.0, steps: [{set: {review: "true"}}]}
      small: {steps: [{set: {review: "false"}}]}

# Failed items are stored here. To list them: penstock dead-letters list
dead_letters: sqlite:///penstock.db

# Sample items, with seq = 1, 2, 3 ...; every tenth one fails.
samples:
  id: seq
  amount: seq * 100
  currency: "seq % 10 == 0 ? 'XYZ' : seq % 2 == 0 ? 'USD' : 'EUR'"

tests:
  - name: converts amounts to euros, and fails for currencies without a rate
    given:
      - {id: 1, amount: 10, currency: EUR}
      - {id: 2, amount: 5000, currency: USD}
      - {id: 3, amount: 10, currency: XYZ}
      - {id: 4, amount: 0, currency: EUR}
    expect:
      ok: [{id: 1, euros: 10.0, review: false}, {id: 2, euros: 4600.0, review: true}]
      failed: [{key: 3, step: convert}]
      filtered: 1
""")


@click.command(cls=Command)
@click.argument("name")
@click.option("--directory", metavar="DIR", type=DIRECTORY, default=".", help="Where to create it (default: here).")
def new(name: str, directory: Path) -> int:
    """Create the flow file NAME.yaml to start from, with a test that passes.

    NAME is the name of the flow, which is served at /NAME/bulk.
    """
    flow = name.removesuffix(".yaml")
    if not re.fullmatch(NAME.pattern or "", flow):
        raise usage_error(f"invalid {NAME.noun} {name!r}: use {NAME.allowed}")
    path = directory / f"{flow}.yaml"
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(FLOW.substitute(name=flow))
    except FileExistsError:
        return print_error("new", f"{path} already exists; choose another name, or remove it", 2)
    except OSError as error:
        return print_error("new", f"{path} cannot be written: {error.strerror or error}")
    write_text(
        f"Created {path}. Next:\n  penstock test {path}\n  penstock run {path} --samples 20\n  penstock serve {path}\n"
    )
    return 0
