"""Text that cannot be encoded, and names that were mistyped."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import generate_latest

from laws.virtual import quiet
from penstock import Flow, from_iterable
from penstock.observe import HttpCounters, PenstockCollector, registry_for
from penstock.observe.collector import MetricSources
from penstock.results import LineWriter, end_line
from penstock.runtime import Supervisor
from penstock.support.text import sanitize, suggest

ANY = st.text(st.characters(exclude_categories=[]))


@given(ANY)
def test_sanitized_text_can_be_encoded(text: str) -> None:
    """Text without lone surrogates stays as it is."""
    sane = sanitize(text)
    sane.encode()
    assert sane == text or any("\ud800" <= character <= "\udfff" for character in text)


@given(st.recursive(ANY | st.integers(), lambda inner: st.lists(inner) | st.dictionaries(ANY, inner), max_leaves=5))
def test_sanitized_json_is_the_same_value(value: object) -> None:
    """The escapes of lone surrogates are those of JSON."""
    assert json.loads(sanitize(json.dumps(value, ensure_ascii=False)).encode()) == json.loads(json.dumps(value))


def refuse(_: Any) -> Any:
    raise ValueError("\ud800")


def broken() -> Any:
    yield 1
    raise ValueError("\ud800")


def test_lone_surrogates_are_escaped_where_text_leaves_a_flow() -> None:
    """In result lines, the end record and labels; the names of steps and the messages of errors may contain them."""
    lines: list[bytes] = []

    async def write(data: bytes) -> None:
        lines.extend(data.splitlines())

    async def main() -> bytes:
        supervisor = Supervisor()
        flow = Flow[Any]("f").map(refuse, name="\udc80")
        summary = await supervisor.start(flow, from_iterable(broken()), LineWriter(write)).finished
        await write(end_line(summary.end_record()))
        return generate_latest(registry_for(PenstockCollector(MetricSources(supervisor, HttpCounters(), "1"))))

    metrics = quiet(main())
    failed, end = map(msgspec.json.decode, lines)
    assert failed["error"] == {"step": "\\udc80", "type": "ValueError", "message": "\\ud800", "attempts": 1}
    assert end["end"]["error"].endswith("\\ud800")
    assert rb'step="\\udc80"' in metrics


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("maxInFlight", "max_in_flight"),
        ("timout", "timeout"),
        ("Timeout", "timeout"),
        ("banana", None),
        ("t" * 99, None),
    ],
)
def test_the_name_that_was_meant_is_suggested(name: str, meant: str | None) -> None:
    """In spite of its spelling; very long names are not compared."""
    assert suggest(name, ["max_in_flight", "timeout", "attempts"]) == meant
