"""Graphs of flows: every format contains everything once, in valid syntax, whatever the names contain."""

from __future__ import annotations

import html
import json
import os
import re
import shutil
import subprocess
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from graph.random_flows import TRAPS, NamedSink, counters, flows, service
from npm import installed
from penstock import AdaptiveLimit, Flow, from_iterable
from penstock.core.element import Outcome
from penstock.errors import GraphvizFailed
from penstock.expressions import Expression
from penstock.graph import TEXT_FORMATS, FlowCounters, Graph, build_graph, render_image
from penstock.graph.details import format_duration, format_size, hide_password, schedule_label
from penstock.graph.dot import wrap
from penstock.graph.mermaid import escape
from penstock.graph.model import MAX_TEXT, clean
from penstock.orders import orders_flow
from penstock.results import DiscardResults
from penstock.runtime import Cron, FlowStatistics, Supervisor
from penstock.steps import Branch, Route, To, walk
from penstock.testing import run

HERE = Path(__file__).parent
SVG = "{http://www.w3.org/2000/svg}"
needs_graphviz = pytest.mark.skipif(not shutil.which("dot"), reason="needs Graphviz: apt-get install graphviz")


@st.composite
def graphs(draw: st.DrawFn) -> tuple[Flow[Any], Graph]:
    """Return any flow, and its graph with or without live counts."""
    flow = draw(flows())
    return flow, build_graph(flow, draw(counters(flow)))


drawn = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)


def names_in(flow: Flow[Any]) -> Counter[str]:
    """Return the names of all nodes that the graph of a flow must have."""
    steps = list(walk(flow.steps))
    sinks = [sink for step in steps for sink in step.sinks.values()]
    named = [*flow.workers, *steps, *(branch for step in steps for branch in step.branches), *flow.all_services, *sinks]
    sources = [f"/{flow.name}/bulk"] if flow.serving.http else [] if flow.workers else ["source"]
    store = [flow.store] if isinstance(flow.store, str) else []
    results = ["client" if flow.serving.http else "results"]
    filtered = ["filtered"] if any(step.kind == "filter" for step in steps) else []
    return Counter([*(item.name for item in named), *sources, "decode", *results, *store, *filtered])


def without_spaces(names: Counter[str]) -> Counter[str]:
    """Return the names as DOT can be compared with them: a name is broken into lines there."""
    found: Counter[str] = Counter()
    for name, number in names.items():
        found["".join(clean(name).split())] += number
    return found


# Contents


@drawn
@given(graphs())
def test_the_json_document_contains_everything_once(drawing: tuple[Flow[Any], Graph]) -> None:
    """It lists each source, step, branch, service, sink, worker and store. Ids are unique, and edges use them."""
    flow, graph = drawing
    document = json.loads(TEXT_FORMATS["json"](graph))
    ids = [node["id"] for node in document["nodes"]]
    assert Counter(node["name"] for node in document["nodes"]) == names_in(flow)
    assert len(set(ids)) == len(ids)
    assert {edge[end] for edge in document["edges"] for end in ("from", "to")} <= {*ids, "flow"}


@drawn
@given(graphs())
def test_the_mermaid_text_contains_everything_once(drawing: tuple[Flow[Any], Graph]) -> None:
    """Names may contain any character."""
    flow, graph = drawing
    nodes = re.findall(r'^ +n\d+\W+?"<b>(.*?)</b>(?:<br/>.*)?"\W+$', TEXT_FORMATS["mermaid"](graph), re.MULTILINE)
    shown = Counter(re.sub(r"#(\d+);", lambda found: chr(int(found[1])), name) for name in nodes)
    assert shown == Counter({clean(name): number for name, number in names_in(flow).items()})


@drawn
@given(graphs())
def test_the_dot_text_contains_everything_once(drawing: tuple[Flow[Any], Graph]) -> None:
    """Names may contain any character."""
    flow, graph = drawing
    labels = re.findall(r'^ +"(?:[^"\\]|\\.)*" \[label=<(.*)> shape=', TEXT_FORMATS["dot"](graph), re.MULTILINE)
    names = ("".join(re.findall("<B>(.*?)</B>", label)) for label in labels)
    shown = Counter(html.unescape("".join(name.split())).replace("\\\\", "\\") for name in names)
    assert shown == without_spaces(names_in(flow))


@drawn
@given(graphs())
def test_every_node_can_be_reached_from_a_source(drawing: tuple[Flow[Any], Graph]) -> None:
    """Only the steps after a step whose branches are all final cannot."""
    flow, graph = drawing
    reached, fresh = {"flow"}, {source.id for source in graph.sources}
    while fresh:
        reached |= fresh
        fresh = {edge.end for edge in graph.edges if edge.start in reached} - reached
    final = any(step.branches and all(branch.final for branch in step.branches) for step in walk(flow.steps))
    assert final or {node.id for node in graph.nodes} <= reached


def routed_flow() -> Flow[Any]:
    """Return a flow with two branches, one of them final."""
    branches = (
        Branch("big", Expression("value > 9"), Flow("b").map(str, name="text").steps),
        Branch("odd", Expression("value % 2 == 1"), Flow("b").map(abs).steps, final=True),
    )
    return replace(Flow("f"), steps=(Route(branches, name="by size"), *Flow("n").map(repr).steps))


def test_branches_join_again_or_are_final() -> None:
    """Values that match no branch go to the next step."""
    edges = {(edge.start, edge.end, edge.label) for edge in build_graph(routed_flow()).edges if edge.kind == "flow"}
    assert edges == {
        ("http", "decode", ""),
        ("decode", "step.by size", ""),
        ("step.by size", "branch.by size.big", ""),
        ("branch.by size.big", "step.text", ""),
        ("step.text", "step.repr", ""),
        ("step.by size", "branch.by size.odd", ""),
        ("branch.by size.odd", "step.abs", ""),
        ("step.abs", "results", "final"),
        ("step.by size", "step.repr", "else"),
        ("step.repr", "results", ""),
    }


def test_a_branch_is_a_group_of_nodes() -> None:
    """Its steps stand inside the group, the next step after it."""
    mermaid = TEXT_FORMATS["mermaid"](build_graph(routed_flow()))
    group = mermaid[mermaid.index("subgraph branch_") : mermaid.index("end", mermaid.index("subgraph branch_"))]
    assert ("big" in group, "text" in group, "repr" in group) == (True, True, False)
    dot = TEXT_FORMATS["dot"](build_graph(routed_flow()))
    group = dot[dot.index("cluster_branch.by size.big") : dot.index("cluster_branch.by size.odd")]
    assert ("<B>big</B>" in group, "<B>text</B>" in group, "<B>repr</B>" in group) == (True, True, False)


def test_a_shared_service_is_one_node() -> None:
    """Each step that calls it has an edge to it."""
    shared = service("stock")
    graph = build_graph(Flow("f").map_async(shared, name="first").enrich(second=shared))
    calls = [(edge.start, edge.end, edge.label) for edge in graph.edges if edge.kind == "call"]
    assert calls == [("step.first", "service.stock", ""), ("step.enrich", "service.stock", "second")]


def test_nodes_have_details() -> None:
    """They describe limits, durations and conditions."""
    flow = (
        Flow[int]("f", int)
        .filter(Expression("value < 5"), name="few")
        .throttle(10, burst=3)
        .batch(service("prices", max_in_flight=64, timeout=2, attempts=2), size=50, max_wait=0.02)
        .map(Expression("value * 2"), name="twice")
        .worker("A", from_iterable([1]))
        .dead_letters("memory:", redact=["card.number"])
    )
    assert {node.id: node.details for node in build_graph(flow).nodes} == {
        "http": (),
        "worker.A": ("iterable", "once"),
        "decode": ("int",),
        "step.few": ("only value < 5",),
        "step.throttle": ("10/s", "burst 3"),
        "step.prices": ("size 50, max wait 20ms",),
        "service.prices": ("max 64 in flight", "timeout 2s", "attempts 2"),
        "step.twice": ("value * 2",),
        "results": ("in completion order",),
        "filtered": ("no result",),
        "dead-letters": ("redacts card.number",),
    }


def test_an_adaptive_limit_is_shown_as_a_range() -> None:
    """Other limits are maxima."""
    nodes = build_graph(Flow("f").map_async(service("s", max_in_flight=AdaptiveLimit(4, 99)))).nodes
    assert [node.details[0] for node in nodes if node.id == "service.s"] == ["4 to 99 in flight"]


def test_the_kinds_of_nodes_and_edges() -> None:
    """Programs depend on them."""
    steps = Flow("f").filter(bool).map_async(service("s")).steps
    flow = replace(Flow("f", store="memory:"), steps=(*steps, To((NamedSink("o"),), name="out")))
    document = json.loads(TEXT_FORMATS["json"](build_graph(flow)))
    assert {node["id"]: node["kind"] for node in document["nodes"]} == {
        "http": "source",
        "decode": "step",
        "step.bool": "step",
        "step.s": "step",
        "service.s": "service",
        "step.out": "step",
        "sink.o": "sink",
        "results": "result",
        "filtered": "result",
        "dead-letters": "store",
    }
    assert {edge["to"]: edge["kind"] for edge in document["edges"]} == {
        "decode": "flow",
        "step.bool": "flow",
        "filtered": "filtered",
        "step.s": "flow",
        "service.s": "call",
        "step.out": "flow",
        "sink.o": "flow",
        "dead-letters": "failure",
        "results": "failure",
    }


def test_a_graph_contains_no_password() -> None:
    """Variables are shown as they are written. A password in a URL is left out."""
    sink = NamedSink("ledger", path="postgres://me:s3cret@db/ledger")
    flow = replace(Flow("f", store="sqlite:///${FOLDER}/f.db"), steps=(To((sink,)),))
    for render in TEXT_FORMATS.values():
        text = html.unescape(render(build_graph(flow)))
        assert "s3cret" not in text
        assert "FOLDER" in text
    assert hide_password("kafka://u:p@h:1,h:2/t?x=1") == "kafka://u:…@h:1,h:2/t?x=1"
    assert hide_password("redis://:p@ss@h/0") == "redis://:…@h/0"
    assert hide_password("http://h:80/{a}@b") == "http://h:80/{a}@b"
    assert hide_password("sqlite:///a@b.db") == "sqlite:///a@b.db"


# Live counts


@drawn
@given(st.data())
def test_failures_are_counted_at_their_steps(data: st.DataObject) -> None:
    """The failures of all steps add up to the dead letters, whatever the names of the failure points."""
    flow = data.draw(flows())
    letters = {
        point: data.draw(st.integers(1, 99)) for point in data.draw(st.sets(st.sampled_from(flow.failure_points)))
    }
    letters.pop("encode", None)
    graph = build_graph(flow, FlowCounters(dead_letters=letters))
    steps = [dict(node.counts).get("failed", 0) for node in graph.nodes if node.kind == "step"]
    assert sum(steps) == sum(letters.values())


def test_a_live_graph_has_the_counts_of_the_flow() -> None:
    """It has those of the flow, of its services and of its dead letters."""

    async def main() -> Graph:
        flow = orders_flow(dead_letters="memory:")
        supervisor = Supervisor()
        await supervisor.add(flow)
        await supervisor.start(
            flow, from_iterable([{"orderId": number} for number in range(1, 11)]), DiscardResults()
        ).finished
        totals = supervisor.flow_statistics["orders"]
        assert totals.settled(Outcome.OK) == 7
        return build_graph(flow, FlowCounters.of(totals))

    graph = run(main())
    counts = {node.id: dict(node.counts) for node in graph.nodes}
    assert dict(graph.counts) == {"received": 10, "in flight": 0, "filtered": 0, "cancelled": 0}
    assert counts["results"] == {"ok": 7, "failed": 3}
    assert counts["step.enrich"] == {"failed": 3}
    assert counts["service.inventory"] == {"calls": 13, "in flight": 0, "waiting": 0}
    assert counts["dead-letters"] == {"stored": 3}
    assert all("13 calls" in TEXT_FORMATS[format](graph) for format in ("mermaid", "dot"))
    assert json.loads(TEXT_FORMATS["json"](graph))["counts"]["inFlight"] == 0


def test_a_graph_without_counters_has_no_counts() -> None:
    """It is the same each time, so that it can be kept in a repository."""
    for render in TEXT_FORMATS.values():
        first, second = (render(build_graph(orders_flow())) for _ in range(2))
        assert first == second
        assert "counts" not in first
    assert FlowCounters.of(FlowStatistics("orders")) == FlowCounters(dead_letters=Counter())


# Texts


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (format_duration(0.02), "20ms"),
        (format_duration(2.5), "2.5s"),
        (format_duration(90), "1m 30s"),
        (format_duration(7200), "2h"),
        (format_size(100), "100 B"),
        (format_size(16 * 1024 * 1024), "16 MiB"),
        (schedule_label(build_graph), "function"),
        (schedule_label(Cron("0 6 * * *", "Europe/Berlin")), "cron 0 6 * * * Europe/Berlin"),
        (escape('a "b" [c] <d>'), "a #34;b#34; #91;c#93; #60;d#62;"),
        (escape("1. one\n- two"), "#49;#46; one - two"),
        (clean("a\u202eb\x00\tc\nd"), "ab c d"),
        (wrap("one two three", 8), ["one two", "three"]),
        (wrap("http://127.0.0.1:8081/prices/{id}", 24), ["http://127.0.0.1:8081/", "prices/{id}"]),
        (wrap("W" * 10, 4), ["WWWW", "WWWW", "WW"]),
        (wrap(" \n ", 4), []),
    ],
)
def test_texts(found: object, expected: object) -> None:
    """Durations, sizes, schedules, escaped texts and lines."""
    assert found == expected


@pytest.mark.parametrize("format", ["mermaid", "dot"])
def test_long_texts_are_shortened_in_drawings(format: str) -> None:
    """JSON documents contain the complete text."""
    text = "value.a == 'x' && " * 1000
    graph = build_graph(Flow("f").filter(Expression(text + "true"), name="few"))
    assert len(TEXT_FORMATS[format](graph)) < 20 * MAX_TEXT
    assert text in json.loads(TEXT_FORMATS["json"](graph))["nodes"][2]["details"][0]


# Programs that read the formats


def generate(format: str) -> list[str]:
    """Return random graphs, with all names of `TRAPS`, with and without live counts."""
    every = Flow("f")
    for number, trap in enumerate(TRAPS):
        every = every.map(str, name=f"{trap} {number}").map(str, name=f"{number} {trap}")
    found = [TEXT_FORMATS[format](build_graph(every))]

    @settings(
        max_examples=40,
        database=None,
        derandomize=True,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )
    @given(graphs())
    def gather(drawing: tuple[Flow[Any], Graph]) -> None:
        found.append(TEXT_FORMATS[format](drawing[1]))

    gather()
    return found


@pytest.mark.graphviz
@needs_graphviz
def test_graphviz_accepts_dot() -> None:
    """It reports no error and no warning."""
    done = subprocess.run(
        ["dot", "-Tcanon"], input="".join(generate("dot")).encode(), capture_output=True, timeout=240, check=False
    )
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.graphviz
@needs_graphviz
def test_an_svg_image_shows_all_names() -> None:
    """Graphviz replaces no escape sequence and no entity in them."""
    flow = Flow("f")
    names = [f"{number} {trap}" for number, trap in enumerate(TRAPS)]
    for name in names:
        flow = flow.map(str, name=name)
    image = render_image(TEXT_FORMATS["dot"](build_graph(flow)), "svg")
    shown = "".join("".join(text.text or "" for text in ElementTree.fromstring(image).iter(f"{SVG}text")).split())
    assert [name for name in names if "".join(clean(name).split()) not in shown.replace("\xa0", "")] == []


@pytest.mark.graphviz
@needs_graphviz
def test_a_png_image() -> None:
    """It is binary data."""
    assert render_image(TEXT_FORMATS["dot"](build_graph(orders_flow())), "png").startswith(b"\x89PNG\r\n")


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("sleep 60", "Graphviz failed: timeout after 0.5 s"),
        ("echo no fonts >&2; exit 1", "Graphviz failed: no fonts"),
        ("exit 3", "Graphviz failed: exit code 3"),
    ],
)
def test_a_failure_of_graphviz_is_reported(
    script: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The message contains its error output."""
    program = tmp_path / "dot"
    program.write_text(f"#!/bin/sh\n{script.replace('sleep', 'exec sleep')}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    with pytest.raises(GraphvizFailed, match=f"^{re.escape(message)}$"):
        render_image("digraph {}", "svg", timeout=0.5)


@pytest.mark.long
@pytest.mark.node
@pytest.mark.skipif(not shutil.which("npm"), reason="needs Node.js and npm: apt-get install nodejs npm")
def test_mermaid_accepts_its_format() -> None:
    """Its own parser runs with the document of jsdom instead of a browser's."""
    texts = json.dumps(generate("mermaid"))
    done = subprocess.run(
        ["node", "parse.mjs"],
        cwd=installed(HERE / "mermaid"),
        input=texts,
        capture_output=True,
        text=True,
        timeout=240,
        check=True,
    )
    assert set(json.loads(done.stdout)) == {None}
