"""Flow files in an editor: the YAML language server that editors use, with the schema that `penstock schema` prints."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from files.editing import Editor, editor
from npm import installed
from penstock.cli.schema import make_schema as schema

pytestmark = [
    pytest.mark.node,
    pytest.mark.skipif(not shutil.which("npm"), reason="npm is not on this machine: apt-get install nodejs npm"),
]

HERE = Path(__file__).parent
ROOT = HERE.parents[1] / "flows"
FILES = [ROOT / "penstock/orders.yaml", *sorted((ROOT / "examples").glob("*.yaml"))]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a language server, with the schemas in it."""
    folder = tmp_path_factory.mktemp("editor")
    (folder / "node_modules").symlink_to(installed(HERE / "editor") / "node_modules")
    for kind in ("flow", "shared"):
        (folder / f"{kind}.schema.json").write_text(json.dumps(schema(kind)), encoding="utf-8")
    return folder


def headed(server: Path, text: str, kind: str = "flow") -> str:
    """A text, with the line before it that names its schema."""
    return f"# yaml-language-server: $schema={(server / f'{kind}.schema.json').as_uri()}\n{text}"


async def test_no_example_is_complained_about(server: Path) -> None:
    """Nor does the server take everything: each with one key more is complained about, at the line of that key."""
    complaints: dict[str, list[str]] = {}
    async with editor(server) as one:
        for file in FILES:
            kind, text = "shared" if file.stem == "shared" else "flow", file.read_text(encoding="utf-8")
            complaints[file.stem] = await complaints_about(one, headed(server, text, kind))
            wrong = await complaints_about(one, headed(server, f"{text}\nextra: 1\n", kind))
            assert wrong == [f"{text.count(chr(10)) + 2}: Property extra is not allowed."]
    assert [name for name, said in complaints.items() if said] == []


WRONG = """\
flow: orders
windw: 3
item: {orderId: integr, lines: {tpe: array}}
services:
  pricing: {get: http://h/, timeout: 2 seconds}
  nothing: {timeout: 2s}
steps:
  - filtr: value.a
  - filter: value.a
    map: value.b
  - batch: {size: 5, max_wait: 1s}
tests:
  - {name: a test, given: [1], expect: {okay: 1}}
"""

STEPS = "map, set, filter, fail, tap, flat_map, map_async, enrich, batch, throttle, through, route, to, operator, apply"

SAID = [
    "2: Property windw is not allowed.",
    '3: Value is not accepted. Valid values: "integer", "number", "string", "boolean", "object", "array", "any", '
    '"integer?", "number?", "string?", "boolean?", "object?", "array?", "any?".',
    "3: Property tpe is not allowed.",
    "5: expected a duration > 0 such as 250ms, 2s or 1h30m",
    "6: expected a mapping with one of call, get, post, put, patch, delete",
    "8: Property filtr is not allowed.",
    f"8: expected a mapping with one of {STEPS}",
    "9: Matches multiple schemas when only one must validate.",
    '11: Missing property "service".',
    "13: Property okay is not allowed.",
]


async def test_a_mistake_is_shown_where_it_is(server: Path) -> None:
    """At its line, and in words that lead out of it."""
    async with editor(server) as one:
        assert sorted(await complaints_about(one, headed(server, WRONG))) == sorted(SAID)


async def complaints_about(one: Editor, text: str) -> list[str]:
    """What the server says about a document, with its line in the text that was headed."""
    _, found = await one.open(text)
    return [f"{complaint['range']['start']['line']}: {complaint['message']}" for complaint in found]


OFFERED = {
    "flow: f\n|": ["steps", "services", "dead_letters", "window", "workers", "tests", "include", "key", "item"],
    "flow: f\nsteps:\n  - |": ["enrich", "filter", "map", "batch", "route", "to", "apply", "name"],
    "flow: f\nsteps:\n  - route:\n      big:\n        |": ["when", "steps", "final"],
    "flow: f\nservices:\n  pricing:\n    |": ["call", "get", "post", "timeout", "attempts", "max_in_flight"],
    "flow: f\norder: |": ["completion", "input", "key"],
    "flow: f\nitem:\n  id: |": ["integer", "string", "string?"],
    "flow: f\nsteps:\n  - to: |": ["stdout", "discard"],
    "flow: f\nworkers:\n  A:\n    source:\n      |": ["generate", "file", "directory", "call"],
    "flow: f\ntests:\n  - name: t\n    expect:\n      |": ["ok", "failed", "delivered", "max_duration"],
}
"""What is offered, at the least, where the bar stands."""


async def test_what_may_stand_somewhere_is_offered(server: Path) -> None:
    """Keys and words, each with what it is for."""
    lacking: dict[str, list[str]] = {}
    async with editor(server) as one:
        for text, offered in OFFERED.items():
            before, _, after = headed(server, text).partition("|")
            uri, _ = await one.open(before + after)
            items = await one.completion(uri, before.count("\n"), len(before) - before.rfind("\n") - 1)
            explained = {item["label"] for item in items if item.get("documentation")}
            lacking[text] = [name for name in offered if name not in explained]
    assert {text: names for text, names in lacking.items() if names} == {}


async def test_a_key_is_explained(server: Path) -> None:
    """When one points at it."""
    text = "window: 3\nsteps:\n  - filter: value.a\nservices:\n  s: {timeout: 2s, get: http://h/}\nflow: f\n"
    async with editor(server) as one:
        uri, _ = await one.open(headed(server, text))
        assert "How much one run may hold" in await one.hover(uri, 1, 2)
        assert "Keep the values for which this is true" in await one.hover(uri, 3, 5)
        assert "The time for one attempt" in await one.hover(uri, 5, 8)
