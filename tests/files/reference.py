"""Generate the tables of the flow-file reference from the forms: `python -m files.reference`, in the folder `tests`."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from penstock.cli.schema import KINDS
from penstock.flowfile.field_types import Duration, Expr, Function, Percentage, Rate, Reference, Size
from penstock.flowfile.forms.choices import Either, OneKey
from penstock.flowfile.forms.containers import ListOf, MapOf
from penstock.flowfile.forms.form import Converted, Form, Lazy
from penstock.flowfile.forms.record import Key, OpenRecord, Record, keys_of
from penstock.flowfile.forms.scalars import AnyValue, Boolean, Integer, Number, Text
from penstock.flowfile.item_types import FIELD, FIELDS
from penstock.flowfile.services import SERVICE, SERVICE_NAME, SERVICES
from penstock.flowfile.sinks import SINK
from penstock.flowfile.sources import SOURCE
from penstock.flowfile.steps import STEP, STEPS
from penstock.flowtests.models import EVENT, EXPECTED_ITEMS, RULE, TESTS, Expectation

TABLES: Mapping[str, Form[Any]] = {
    "The keys of a flow": KINDS["flow"],
    "Items": FIELD,
    "Services": SERVICE,
    "Steps": STEP,
    "Sinks": SINK,
    "Sources": SOURCE,
    "Tests": TESTS,
    "Rules": RULE,
    "Events": EVENT,
    "What is expected": Record(Expectation),
}
"""The sections of the page that have a table, each with its form."""

PAGE = Path(__file__).parents[2] / "flows/docs/flow-files.md"

ELSEWHERE = (
    (FIELD, "[rules](#items)"),
    (FIELDS, "[fields](#items)"),
    (STEPS, "list: [steps](#steps)"),
    (SERVICES, "NAME: [service](#services)"),
    (SERVICE_NAME, "a service"),
    (SINK, "[sink](#sinks)"),
    (SOURCE, "[source](#sources)"),
    (TESTS, "list: [tests](#tests)"),
    (RULE, "[rule](#rules)"),
    (EVENT, "[event](#events)"),
    (EXPECTED_ITEMS, "number, or list"),
)
"""Forms with a section of their own, to which the tables link."""

WORDS: tuple[tuple[type[Form[Any]], str], ...] = (
    (Duration, "duration"),
    (Size, "size"),
    (Rate, "rate"),
    (Percentage, "percentage"),
    (Boolean, "true, false"),
    (Integer, "integer"),
    (Number, "number"),
    (Expr, "expression"),
    (Function, "expression, `module:name`"),
    (Reference, "`module:name`"),
    (AnyValue, "anything"),
)


def table(title: str) -> str:
    """Return the table of a section."""
    rows = [f"| {' | '.join(cells)} |" for cells in _rows(TABLES[title], "", True)]
    return "\n".join(["| key | value | |", "|---|---|---|", *rows]) + "\n"


def _rows(shape: Form[Any], path: str, root: bool = False) -> Iterator[tuple[str, str, str]]:
    """Yield the rows of the keys of a form, and of the forms of their values."""
    if not root and (_elsewhere(shape) is not None or (isinstance(shape, Record) and shape.model is Expectation)):
        return
    match shape:
        case Lazy():
            yield from _rows(shape.form(), path, root)
        case Converted():
            yield from _rows(shape.form, path)
        case ListOf():
            yield from _rows(shape.form, path)
        case MapOf():
            yield from _rows(shape.form, f"{path}NAME.")
        case Either():
            for one in shape.forms:
                yield from _rows(one, path)
        case Record() | OpenRecord():
            yield from _fields(shape.keys, path)
        case OneKey():
            yield from _fields({name: Key(one) for name, one in shape.alternatives.items()}, path)
            yield from _fields({name: key for name, (_, key) in keys_of(shape.beside).items()}, path)
        case _:
            pass


def _fields(fields: Mapping[str, Key], path: str) -> Iterator[tuple[str, str, str]]:
    for name, field in fields.items():
        needed = ", required" if field.required else ""
        yield f"`{path}{name}`", f"{_words(field.form)}{needed}", field.description or _description(field.form)
        yield from _rows(field.form, f"{path}{name}.")


def _description(form: Form[Any]) -> str:
    return form.description or (_description(form.form) if isinstance(form, Converted) else "")


def _words(shape: Form[Any]) -> str:
    """Return the type of a value, in a few words."""
    if (link := _elsewhere(shape)) is not None:
        return link
    match shape:
        case Text() if shape.choices and len(shape.choices) < 6:
            return ", ".join(f"`{choice}`" for choice in shape.choices)
        case Converted():
            return _words(shape.form)
        case Record() if shape.short is not None:
            return f"{_words(shape.keys[shape.short].form)}, or mapping"
        case Record() if shape.model is Expectation:
            return "[expected](#what-is-expected)"
        case Either():
            return ", or ".join(_words(one) for one in shape.forms)
        case ListOf():
            return f"list: {_words(shape.form)}"
        case MapOf():
            return f"NAME: {_words(shape.form)}"
        case Record() | OneKey() | OpenRecord():
            return "mapping"
        case _:
            return next((words for kind, words in WORDS if isinstance(shape, kind)), "text")


def _elsewhere(shape: Form[Any]) -> str | None:
    return next((link for one, link in ELSEWHERE if one is shape), None)


def with_tables(text: str) -> str:
    """Return the text of the page with all tables generated anew."""
    for title in TABLES:
        section = re.compile(rf"(^#+ {re.escape(title)}\n(?:(?!^#).*\n)*?)^\| key \|.*\n(?:\|.*\n)+", re.MULTILINE)
        text, count = section.subn(lambda match, title=title: match[1] + table(title), text)
        assert count == 1, title
    return text


if __name__ == "__main__":
    PAGE.write_text(with_tables(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
