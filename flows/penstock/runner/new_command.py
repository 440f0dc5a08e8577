"""`penstock new NAME`: a flow file to begin from, with a test that passes."""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from string import Template

from penstock.complaints import complain
from penstock.files.model import NAME
from penstock.support.terminal import write_text

FLOW = Template("""\
# A flow: what comes in, what happens to each item, and where failed items go.
# Expressions are CEL (https://cel.dev) on `value`, the item as the steps before left it.
flow: $name
about: What $name is for, in one line.  # shown where the flow is drawn and listed; write your own

key: id  # what people know an item by
item:
  id: {type: integer, minimum: 1}
  amount: {type: number, minimum: 0}
  currency: string

# services:  # what steps call, behind a timeout and a limit; then `- enrich: [customer]` is a step
#   customer: {get: "http://127.0.0.1:8081/customers/{id}", timeout: 2s, attempts: 2}

steps:
  - filter: value.amount > 0
  - set: {euros: "double(value.amount) * {'EUR': 1.0, 'USD': 0.92}[value.currency]"}
    name: convert  # an item in another currency fails here, and the others go on
  - route:
      large: {when: value.euros >= 1000.0, steps: [{set: {review: "true"}}]}
      small: {steps: [{set: {review: "false"}}]}

# What failed is kept here: penstock dead-letters list
dead_letters: sqlite:///penstock.db

# Items to try the flow with, made of seq = 1, 2 …; every tenth one fails.
samples:
  id: seq
  amount: seq * 100
  currency: "seq % 10 == 0 ? 'XYZ' : seq % 2 == 0 ? 'USD' : 'EUR'"

tests:
  - name: amounts become euros, nothing is dropped, and what has no rate fails
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


def command(arguments: list[str]) -> int:
    """Write a flow file; returns 0, 1 if it cannot be written, 2 if there is one already or the name is none."""
    parser = make_parser()
    options = parser.parse_args(arguments)
    name: str = options.name.removesuffix(".yaml")
    if not re.fullmatch(NAME, name):
        parser.error(f"a flow is named with letters, digits, - and _, got {options.name!r}")
    path = Path(options.directory) / f"{name}.yaml"
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(FLOW.substitute(name=name))
    except FileExistsError:
        return complain("new", f"{path} is there already; choose another name, or remove it", 2)
    except OSError as error:
        return complain("new", f"{path} cannot be written: {error.strerror or error}")
    write_text(
        f"{path} is a flow to begin from. What to do next:\n"
        f"  penstock test {path}\n"
        f"  penstock run {path} --samples 20\n"
        f"  penstock serve {path}\n"
    )
    return 0


def make_parser() -> argparse.ArgumentParser:
    """The words and flags of the command."""
    parser = argparse.ArgumentParser(
        prog="penstock new", description="Write a flow file to begin from: NAME.yaml, with a test that passes."
    )
    parser.add_argument("name", metavar="NAME", help="the name of the flow; it will be served at /NAME/bulk")
    parser.add_argument("--directory", metavar="DIR", default=".", help="where to put it (default: here)")
    return parser
