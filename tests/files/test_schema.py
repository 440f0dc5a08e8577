"""The schema that `penstock schema` prints says the same as `penstock check`, as far as a schema can tell."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from invoking import invoke
from penstock.cli.schema import KINDS, make_schema
from penstock.flowfile import Diagnostics, SourceLocation, node_of, read_document
from penstock.flowfile.field_types import importing_from
from penstock.flowfile.forms.form import Form

ROOT = Path(__file__).parents[2] / "flows"
EXAMPLES = ROOT / "examples"
FILES = [ROOT / "penstock/orders.yaml", *sorted(EXAMPLES.glob("*.yaml"))]
DOCUMENTS = {file: read_document(file.read_text(encoding="utf-8"), file.name).plain() for file in FILES}
VALIDATORS = {kind: Draft202012Validator(make_schema(kind)) for kind in KINDS}

MEANING = re.compile(
    r"invalid expression|got one of type|no module|cannot import|has no \"|expected a function, got"
    r"|cron expression|unknown time zone|only for fields of type|enum: expected strings, integers and"
    r"|is not a value of type|enum and|for a literal brace"
    r"|no regular expression|cannot be optional|cannot be combined|missing \"at\"|not allowed with|to be later than"
)
"""What is wrong with the meaning of a text, or with values together: the business of `check` alone."""

POOL: list[Any] = [
    *[None, True, False, 0, 1, -1, 1.5, "", "x", "x y", "2s", "1MiB", "10/s", "a:b", "value.a > 1", "none", "stdout"],
    *[[], [1], ["x"], {}, {"a": 1}, {"name": "x"}, {"steps": []}, {"file": "a.csv"}, {"rate": "1/s"}, [{"to": "x"}]],
]


def kind_of(file: Path) -> str:
    return "shared" if file.name == "shared.yaml" else "flow"


def mistakes_of(kind: str, document: Any) -> list[str]:
    """What the shape of the file finds, as `check` does before it looks at names."""
    mistakes = Diagnostics()
    shape: Form[Any] = KINDS[kind]
    with importing_from(EXAMPLES):
        shape.read(node_of(document, SourceLocation("f.yaml", 1, 1)), mistakes)
    return [str(mistake) for mistake in mistakes]


def holders(document: Any) -> Iterator[Any]:
    """All mappings and lists in a document that hold something."""
    if isinstance(document, (dict, list)) and document:
        yield document
        for value in document.values() if isinstance(document, dict) else document:
            yield from holders(value)


@st.composite
def mutated(draw: st.DrawFn) -> tuple[str, Any]:
    """An example with a few things in it changed, dropped, renamed or added."""
    file = draw(st.sampled_from(FILES))
    document = copy.deepcopy(DOCUMENTS[file])
    keys = sorted({key for holder in holders(document) if isinstance(holder, dict) for key in holder})
    for _ in range(draw(st.integers(1, 3))):
        holder = draw(st.sampled_from(list(holders(document)) or [document]))
        if not holder:
            break
        place = draw(st.sampled_from(sorted(holder) if isinstance(holder, dict) else range(len(holder))))
        match draw(st.sampled_from(["change", "drop", "rename", "add"])):
            case "change":
                holder[place] = copy.deepcopy(draw(st.sampled_from(POOL)))
            case "drop":
                holder.pop(place)
            case "rename" if isinstance(holder, dict):
                holder[draw(st.sampled_from([*keys, f"{place}x"]))] = holder.pop(place)
            case _ if isinstance(holder, dict):
                holder[draw(st.sampled_from(keys))] = copy.deepcopy(draw(st.sampled_from(POOL)))
            case _:
                holder.append(copy.deepcopy(draw(st.sampled_from(POOL))))
    return kind_of(file), document


@pytest.mark.parametrize("kind", KINDS)
def test_the_schema_is_a_schema(kind: str) -> None:
    """Of draft 2020-12, and the command prints it."""
    result = invoke("schema", kind)
    assert result.exit_code == 0
    printed = json.loads(result.stdout)
    Draft202012Validator.check_schema(printed)
    assert printed == make_schema(kind)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_the_schema_takes_every_example(file: Path) -> None:
    """As `check` does."""
    assert (mistakes_of(kind_of(file), DOCUMENTS[file]), VALIDATORS[kind_of(file)].is_valid(DOCUMENTS[file])) == (
        [],
        True,
    )


@settings(max_examples=400, deadline=None)
@given(mutated())
def test_the_schema_and_check_agree(one: tuple[str, Any]) -> None:
    """Whatever is done to an example: the schema refuses what has a mistake in its shape, and nothing else."""
    kind, document = one
    wrong = [mistake for mistake in mistakes_of(kind, document) if not MEANING.search(mistake)]
    assert VALIDATORS[kind].is_valid(document) == (not wrong), (wrong, document)


def test_everything_is_described() -> None:
    """Every key that an editor offers comes with what it is for."""

    def bare(piece: Any, path: str) -> Iterator[str]:
        if isinstance(piece, dict):
            for name, inner in piece.get("properties", {}).items():
                if "description" not in inner:
                    yield f"{path}.{name}"
            for name, inner in piece.items():
                yield from bare(inner, path if name == "properties" else f"{path}.{name}")
        elif isinstance(piece, list):
            for number, inner in enumerate(piece):
                yield from bare(inner, f"{path}.{number}")

    assert list(bare(make_schema(), "")) == []
