"""A flow as a picture: everything is in it once, in every format, and the drawing is as tidy as it promises."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from collections import Counter
from dataclasses import replace
from importlib.resources import files
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from files.pictures import Place, flows, lives, service
from invoking import invoke
from penstock import Flow, from_iterable
from penstock.cli.graph import write_graph
from penstock.element import Outcome
from penstock.errors import FlowError
from penstock.expressions import Expression
from penstock.files.graph import Counts, graph_of
from penstock.files.pictures import FORMATS, Graph
from penstock.files.pictures.canvas import Box, Wire
from penstock.files.pictures.cards import BOLD, LEAST, PAD, SIZES, Text, card_of
from penstock.files.pictures.facts import address, duration, scheduled, size
from penstock.files.pictures.layout import ROW, lay_out
from penstock.files.pictures.mermaid import quoted
from penstock.files.pictures.words import clean, width
from penstock.orders import orders_flow
from penstock.runtime import Cron, Supervisor, Totals
from penstock.sinks import Discard
from penstock.steps import NamedStep, Way, walk
from penstock.testing import run

SVG = "{http://www.w3.org/2000/svg}"
HERE = Path(__file__).parent


@st.composite
def graphs(draw: st.DrawFn) -> tuple[Flow[Any], Graph]:
    """Any flow, and its graph, live or not."""
    flow = draw(flows())
    return flow, graph_of(flow, draw(lives(flow)))


drawn = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)


def parts(flow: Flow[Any]) -> Counter[str]:
    """The names of everything that a picture of a flow has to show."""
    steps = list(walk(flow.steps))
    outlets = [outlet for step in steps for outlet in step.options.get("outlets", ())]
    named = [*flow.workers, *steps, *(way for step in steps for way in step.ways), *flow.services, *outlets]
    sources = [f"/{flow.name}/bulk"] if flow.serving.http else [] if flow.workers else ["a source"]
    store = [flow.store] if isinstance(flow.store, str) else []
    results = ["client" if flow.serving.http else "results"]
    filtered = ["filtered"] if any(step.kind == "filter" for step in steps) else []
    return Counter([*(part.name for part in named), *sources, "decode", *results, *store, *filtered])


# What is in it


@drawn
@given(graphs())
def test_everything_is_in_the_json_document_once(drawing: tuple[Flow[Any], Graph]) -> None:
    """Every source, step, branch, service, outlet, worker and store; ids are unique, and edges lead to them."""
    flow, graph = drawing
    document = json.loads(FORMATS["json"](graph))
    ids = [node["id"] for node in document["nodes"]]
    assert Counter(node["name"] for node in document["nodes"]) == parts(flow)
    assert len(set(ids)) == len(ids)
    assert {edge[end] for edge in document["edges"] for end in ("from", "to")} <= {*ids, "flow"}


@drawn
@given(graphs())
def test_everything_is_in_the_mermaid_text_once(drawing: tuple[Flow[Any], Graph]) -> None:
    """Whatever its name is made of."""
    flow, graph = drawing
    nodes = re.findall(r'^ +n\d+\W+?"(.*?)(?:<br/>.*)?"\W+$', FORMATS["mermaid"](graph), re.MULTILINE)
    shown = Counter(re.sub(r"#(\d+);", lambda found: chr(int(found[1])), name) for name in nodes)
    assert shown == Counter({clean(name): number for name, number in parts(flow).items()})


@drawn
@given(graphs())
def test_everything_is_in_the_dot_text_once(drawing: tuple[Flow[Any], Graph]) -> None:
    """Whatever its name is made of."""
    flow, graph = drawing
    nodes = re.findall(
        r'^ +"(?:[^"\\]|\\.)*" \[label="((?:[^"\\]|\\["\\])*)(?:\\n.*)?" \w+=', FORMATS["dot"](graph), re.MULTILINE
    )
    shown = Counter(re.sub(r"\\(.)", r"\1", name) for name in nodes)
    assert shown == Counter({clean(name): number for name, number in parts(flow).items()})


@drawn
@given(graphs())
def test_everything_is_in_the_svg_once(drawing: tuple[Flow[Any], Graph]) -> None:
    """Which is well-formed, tells what it is, and holds no more than it says: a box each, by its title."""
    flow, graph = drawing
    root = ElementTree.fromstring(FORMATS["svg"](graph))
    titles = [
        text.text for group in root.iter(f"{SVG}g") for text in group.iter(f"{SVG}text") if text.get("class") == "title"
    ]
    expected = parts(flow) - Counter(["filtered"])
    assert Counter(titles) == Counter(
        shown for name, number in expected.items() for shown in [Text.of(name, "title").shown] * number
    )
    assert root.get("role") == "img"
    assert [child.tag for child in root][:2] == [f"{SVG}title", f"{SVG}desc"]
    assert clean(flow.name) in (root[0].text or "")


@drawn
@given(graphs())
def test_every_node_is_reached(drawing: tuple[Flow[Any], Graph]) -> None:
    """From a source, along the edges: nothing stands alone, unless it is behind branches that all end."""
    flow, graph = drawing
    reached, fresh = {"flow"}, {source.id for source in graph.sources}
    while fresh:
        reached |= fresh
        fresh = {edge.end for edge in graph.edges if edge.start in reached} - reached
    ending = any(step.ways and all(way.end for way in step.ways) for step in walk(flow.steps))
    assert ending or {node.id for node in graph.nodes} <= reached


def test_branches_fork_and_join_or_end() -> None:
    """One joins, one ends as a result, and what no branch takes passes."""
    ways = (
        Way("big", Expression("value > 9"), Flow("b").map(str, name="text").steps),
        Way("odd", Expression("value % 2 == 1"), Flow("b").map(abs).steps, end=True),
    )
    flow = replace(Flow("f"), steps=(NamedStep("route", "by size", {"ways": ways}), *Flow("n").map(repr).steps))
    edges = {(edge.start, edge.end, edge.label) for edge in graph_of(flow).edges if edge.kind == "flow"}
    assert edges - {("http", "decode", "window 256 elements, 16 MiB")} == {
        ("decode", "step.by size", ""),
        ("step.by size", "branch.by size.big", ""),
        ("branch.by size.big", "step.text", ""),
        ("step.text", "step.repr", ""),
        ("step.by size", "branch.by size.odd", ""),
        ("branch.by size.odd", "step.abs", ""),
        ("step.abs", "results", "ends"),
        ("step.by size", "step.repr", "else"),
        ("step.repr", "results", ""),
    }


def test_a_shared_service_is_one_node() -> None:
    """Each step that calls it has an edge to it; the drawing names it at the second."""
    shared = service("stock")
    graph = graph_of(Flow("f").map_async(shared, name="first").enrich(second=shared))
    calls = [(edge.start, edge.end, edge.label) for edge in graph.edges if edge.kind == "call"]
    assert calls == [("step.first", "service.stock", ""), ("step.enrich", "service.stock", "second")]
    assert FORMATS["svg"](graph).count(">stock<") == 1
    assert "calls stock" in FORMATS["svg"](graph)


def test_what_is_worth_knowing_stands_on_the_nodes() -> None:
    """Limits, times, conditions: as short facts."""
    flow = (
        Flow[int]("f", int)
        .filter(Expression("value < 5"), name="few")
        .throttle(10, burst=3)
        .batch(service("prices", max_in_flight=64, timeout=2, attempts=2), size=50, seconds=0.02)
        .map(Expression("value * 2"), name="twice")
        .worker("A", from_iterable([1]))
        .dead_letters("memory:", redact=["card.number"])
    )
    assert {node.id: node.facts for node in graph_of(flow).nodes} == {
        "http": (),
        "worker.A": ("iterable", "once"),
        "decode": ("int",),
        "step.few": ("only value < 5",),
        "step.throttle": ("10/s", "bursts of 3"),
        "step.prices": ("size 50 within 20ms",),
        "service.prices": ("max 64 in flight", "timeout 2s", "attempts 2"),
        "step.twice": ("value * 2",),
        "results": ("as they are ready",),
        "filtered": ("without a result",),
        "dead-letters": ("without card.number",),
    }


def test_a_password_is_in_no_picture() -> None:
    """Variables stay as they are written, and a password that is written there is left out."""
    outlet = Place("ledger", path="postgres://me:s3cret@db/ledger")
    flow = replace(Flow("f", store="sqlite:///${FOLDER}/f.db"), steps=(NamedStep("to", "to", {"outlets": (outlet,)}),))
    for draw in FORMATS.values():
        picture = html.unescape(draw(graph_of(flow)))
        assert "s3cret" not in picture
        assert "FOLDER" in picture
    assert address("kafka://u:p@h:1,h:2/t?x=1") == "kafka://u:…@h:1,h:2/t?x=1"
    assert address("redis://:p@ss@h/0") == "redis://:…@h/0"
    assert address("http://h:80/{a}@b") == "http://h:80/{a}@b"
    assert address("sqlite:///a@b.db") == "sqlite:///a@b.db"


# Live


@drawn
@given(st.data())
def test_failures_stand_where_they_happened(data: st.DataObject) -> None:
    """The failures on the nodes add up to the letters, whatever the places are called."""
    flow = data.draw(flows())
    letters = {place: data.draw(st.integers(1, 99)) for place in data.draw(st.sets(st.sampled_from(flow.places)))}
    letters.pop("encode", None)
    graph = graph_of(flow, Counts(letters=letters))
    steps = [dict(node.counts).get("failed", 0) for node in graph.nodes if node.kind == "step"]
    assert sum(steps) == sum(letters.values())


def test_a_live_picture_has_the_numbers_of_the_flow() -> None:
    """Those of the run, of the services and of the letters, after real work."""

    async def main() -> Graph:
        flow = orders_flow(dead_letters="memory:")
        supervisor = Supervisor()
        await supervisor.add(flow)
        await supervisor.start(
            flow, from_iterable([{"orderId": number} for number in range(1, 11)]), Discard()
        ).finished
        totals = supervisor.totals["orders"]
        assert totals.settled(Outcome.OK) == 7
        return graph_of(flow, Counts.of(totals))

    graph = run(main())
    counts = {node.id: dict(node.counts) for node in graph.nodes}
    assert dict(graph.counts) == {"received": 10, "in flight": 0, "filtered": 0, "cancelled": 0}
    assert counts["results"] == {"ok": 7, "failed": 3}
    assert counts["step.enrich"] == {"failed": 3}
    assert counts["service.inventory"] == {"calls": 13, "in flight": 0, "waiting": 0}
    assert counts["dead-letters"] == {"letters": 3}
    assert "13 calls" in FORMATS["svg"](graph)


def test_a_picture_that_is_not_live_has_no_numbers() -> None:
    """Then it is the same each time, and can be kept beside the flow."""
    first, second = (FORMATS["json"](graph_of(orders_flow())) for _ in range(2))
    assert first == second
    assert "counts" not in first
    assert Counts.of(Totals("orders")) == Counts(letters=Counter())


# How it is drawn


def inside(wire: Wire, box: Box) -> bool:
    """Whether a line runs through a box, further than to its edge."""
    return any(
        min(ax, bx) < box.right - 0.5
        and max(ax, bx) > box.x + 0.5
        and min(ay, by) < box.bottom - 0.5
        and max(ay, by) > box.y + 0.5
        for (ax, ay), (bx, by) in pairwise(wire.points)
    )


@drawn
@given(graphs())
def test_no_two_boxes_overlap(drawing: tuple[Flow[Any], Graph]) -> None:
    """Nor does a label lie on a box, and nothing lies beyond the edge of the picture."""
    layout = lay_out(drawing[1])
    boxes = [(box.x, box.y, box.right, box.bottom) for box in layout.canvas.boxes]
    labels = [
        (label.x, label.y - SIZES["edge"], label.x + label.text.width, label.y + 2) for label in layout.canvas.labels
    ]
    for one, other in combinations([*boxes, *labels], 2):
        assert one[2] <= other[0] or other[2] <= one[0] or one[3] <= other[1] or other[3] <= one[1]
    panel = layout.panel
    for left, top, right, bottom in [*boxes, *labels, (panel.x, panel.y, panel.right, panel.bottom)]:
        assert left >= 0
        assert top >= 0
        assert right <= layout.width
        assert bottom <= layout.height


@drawn
@given(graphs())
def test_no_line_runs_through_a_box(drawing: tuple[Flow[Any], Graph]) -> None:
    """Lines run along the axes, and end at the edges of boxes."""
    canvas = lay_out(drawing[1]).canvas
    for wire in canvas.wires:
        assert all(ax == bx or ay == by for (ax, ay), (bx, by) in pairwise(wire.points))
        assert not any(inside(wire, box) for box in canvas.boxes)


@drawn
@given(graphs())
def test_no_text_is_wider_than_its_box(drawing: tuple[Flow[Any], Graph]) -> None:
    """Nor than the panel; what was shortened can be read in full in a title."""
    layout = lay_out(drawing[1])
    for box in layout.canvas.boxes:
        for text in box.card.texts:
            assert text.width <= box.card.width - 2 * PAD + 0.01
            assert text.shown == text.whole or text.whole in box.card.hidden
    for label in layout.panel.heading:
        assert label.x + label.text.width <= layout.panel.right


def test_texts_are_measured_generously() -> None:
    """At least as wide as in DejaVu Sans, the widest of the usual fonts (its own advance widths, in 1/2048)."""
    regular = {
        "a": 1255,
        "e": 1260,
        "i": 569,
        "m": 1995,
        "w": 1675,
        "M": 1767,
        "W": 2025,
        "0": 1303,
        " ": 651,
        "@": 2048,
    }
    bold = {"a": 1382, "e": 1389, "i": 702, "m": 2134, "w": 1892, "M": 2038, "0": 1425, " ": 713, "@": 2048}
    assert all(width(letter, 2048) >= advance for letter, advance in regular.items())
    assert all(width(letter, 2048, bold=True) >= advance for letter, advance in bold.items())
    assert "title" in BOLD


def test_a_long_flow_goes_on_in_the_next_row() -> None:
    """So that it can be read without scrolling far."""
    flow = Flow("long")
    for number in range(12):
        flow = flow.map(str, name=f"a step of some length {number}")
    layout = lay_out(graph_of(flow))
    assert layout.panel.width <= ROW + 100
    assert len({box.middle for box in layout.canvas.boxes}) == 2 + 1


def test_a_small_box_has_room() -> None:
    """However short its texts."""
    assert card_of(graph_of(Flow("f").map(str, name="x")).stages[1].node).width == LEAST


# The words


@pytest.mark.parametrize(
    ("said", "text"),
    [
        (duration(0.02), "20ms"),
        (duration(2.5), "2.5s"),
        (duration(90), "1m 30s"),
        (duration(7200), "2h"),
        (size(100), "100 B"),
        (size(16 * 1024 * 1024), "16 MiB"),
        (scheduled(graph_of), "function"),
        (scheduled(Cron("0 6 * * *", "Europe/Berlin")), "cron 0 6 * * * Europe/Berlin"),
        (quoted('a "b" [c] <d>'), "a #34;b#34; #91;c#93; #60;d#62;"),
        (quoted("1. one\n- two"), "#49;#46; one - two"),
        (clean("a\u202eb\x00\tc\nd"), "ab c d"),
    ],
)
def test_words(said: str, text: str) -> None:
    """Times and sizes as people say them; texts without what cannot be shown."""
    assert said == text


# The command


@pytest.fixture
def orders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The orders flow in a file of the working directory."""
    monkeypatch.chdir(tmp_path)
    Path("orders.yaml").write_bytes(files("penstock").joinpath("orders.yaml").read_bytes())
    return "orders.yaml"


def test_the_command_writes_to_standard_output(orders: str) -> None:
    """Mermaid, unless another format is given."""
    assert invoke("graph", orders).stdout.startswith("flowchart LR")
    assert invoke("graph", orders, "--format", "dot").stdout.startswith('digraph "orders"')


def test_the_suffix_of_the_output_is_the_format(orders: str) -> None:
    """`--format` overrides it."""
    for name, start in (("f.dot", "digraph"), ("f.mmd", "flowchart"), ("f.JSON", "{"), ("f", "flow")):
        assert invoke("graph", orders, "--output", name).exit_code == 0
        assert Path(name).read_text(encoding="utf-8").startswith(start)
    assert invoke("graph", orders, "--format", "json", "--output", "g.dot").exit_code == 0
    assert Path("g.dot").read_text().startswith("{")


def test_errors_of_the_command(orders: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit code 1 for a flow that is invalid and a graph that cannot be written, 2 for wrong usage."""

    def broken(file: str) -> Flow[Any]:
        raise FlowError(f"{file} is invalid")

    assert write_graph(orders, None, None, broken) == 1
    assert capsys.readouterr().err == f"penstock graph: {orders} is invalid\n"
    unwritable = invoke("graph", orders, "--output", "no/f.dot")
    assert (unwritable.exit_code, "No such file or directory" in unwritable.stderr) == (1, True)
    assert invoke("graph", orders, "--format", "bmp").exit_code == 2
    unknown = invoke("graph", orders, "--output", "f.bmp")
    assert (unknown.exit_code, "f.bmp: unknown suffix .bmp; use one of " in unknown.stderr) == (2, True)
    assert not Path("f.bmp").exists()


@pytest.mark.parametrize("name", ["orders.yaml", "hard.yaml", "soft.yaml"])
def test_a_graph_does_not_overwrite_its_flow(orders: str, name: str) -> None:
    """Under any name."""
    flow = Path(orders)
    before = flow.read_bytes()
    Path("hard.yaml").hardlink_to(flow)
    Path("soft.yaml").symlink_to(flow)
    result = invoke("graph", orders, "--output", name)
    assert (result.exit_code, "is the flow file and would be overwritten" in result.stderr) == (2, True)
    assert flow.read_bytes() == before


# The programs that read it


def pictures(format: str) -> list[str]:
    """Pictures of flows with every trap, live and not."""
    found: list[str] = []

    @settings(max_examples=40, database=None, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck))
    @given(graphs())
    def gather(drawing: tuple[Flow[Any], Graph]) -> None:
        found.append(FORMATS[format](drawing[1]))

    gather()
    return found


@pytest.mark.graphviz
@pytest.mark.skipif(not shutil.which("dot"), reason="Graphviz is not on this machine: apt-get install graphviz")
def test_graphviz_takes_what_is_for_it() -> None:
    """Without an error or a warning."""
    done = subprocess.run(
        ["dot", "-Tcanon"], input="".join(pictures("dot")).encode(), capture_output=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.node
@pytest.mark.skipif(not shutil.which("npm"), reason="npm is not on this machine: apt-get install nodejs npm")
def test_mermaid_takes_what_is_for_it(tmp_path: Path) -> None:
    """Its own parser does, with a document of jsdom in the place of a browser's."""
    for name in (".npmrc", "package.json", "package-lock.json", "parse.mjs"):
        shutil.copy(HERE / "mermaid" / name, tmp_path)
    install = ["npm", "ci", "--ignore-scripts"]
    subprocess.run(install, cwd=tmp_path, capture_output=True, timeout=300, check=True)
    texts = json.dumps(pictures("mermaid"))
    done = subprocess.run(
        ["node", "parse.mjs"], cwd=tmp_path, input=texts, capture_output=True, text=True, timeout=60, check=True
    )
    assert set(json.loads(done.stdout)) == {None}
