"""One model, three faces: what a flow file says, what the builder says, and what a dump says are the same flow."""

from __future__ import annotations

import inspect
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import assume, given
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parent))

import named

from penstock import (
    Backoff,
    Cron,
    Every,
    Expression,
    FileSink,
    Flow,
    FlowDefinitionError,
    Once,
    Otherwise,
    Service,
    When,
)
from penstock.deadletters.target import DeadLetterTarget, Keep
from penstock.expressions import Assign, Fields
from penstock.flowfile import dump, load, loads
from penstock.flowfile.item_types import item_type
from penstock.orders import inventory, orders_flow, pricing, sample_order
from penstock.services import NONE, AdaptiveLimit, Breaker
from penstock.sinks import DiscardSink, StdoutSink
from penstock.sources import from_directory, from_file, from_stdin, generate, ticks

NAMES = st.from_regex(r"[a-z][a-z0-9_]{0,7}", fullmatch=True)
TEXTS = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"]), max_size=12)
VALUES = st.sampled_from([Expression("value"), Expression("value.a + 1"), named.double])
PREDICATES = st.sampled_from([Expression("value.a > 1"), Expression("has(value.b) && value.b != 'x: y'"), named.heavy])
FIELDS = st.dictionaries(
    NAMES, st.sampled_from([Expression("value.a"), Expression("'no'"), Expression("1.5")]), min_size=1
)
SECONDS = st.sampled_from([0.001, 0.25, 1.0, 90.0, 5400.0, 1 / 3])
RATES = st.sampled_from([0.1, 10.0, 5000 / 3600, 1234.5])
BREAKERS = st.sampled_from(
    [
        Breaker(),
        None,
        Breaker(failures=5, open=0.25, max_open=90.0, max_open_wait=5400.0, probes=1),
        Breaker(failure_rate=0.8),
        Breaker(failure_rate=1.0, window=99),
        Breaker(failure_rate=1 / 3, open=1 / 3),
    ]
)
LIMITS = st.builds(AdaptiveLimit, st.integers(1, 9), st.integers(9, 500))
BACKOFFS = st.sampled_from([None, NONE, Backoff(), Backoff(0.2, 3.0, 60.0)])


@st.composite
def services(draw: st.DrawFn, *, many: bool = False) -> Service:
    name, limits = (
        draw(NAMES),
        {
            "timeout": draw(SECONDS),
            "attempts": draw(st.integers(1, 5)),
            "max_in_flight": draw(st.integers(1, 500) | LIMITS),
            "backoff": draw(BACKOFFS),
            "breaker": draw(BREAKERS),
        },
    )
    match draw(st.sampled_from(["call", "http"])):
        case "call":
            call = named.answers if many else named.answer
            rate = draw(st.none() | RATES)
            blocking = draw(st.booleans()) and not inspect.iscoroutinefunction(call)
            return Service(name, call, blocking=blocking, rate=rate, **limits)
        case _ if many:
            header = draw(st.sampled_from([None, "Grpc-Timeout"]))
            field = draw(st.none() | NAMES)
            return Service.http_batch(name, "http://${HOST:-h}/x", field=field, deadline_header=header, **limits)
        case _:
            answer = st.none() | st.sampled_from(
                [Expression("response.a", "response"), Fields({"b": Expression("response", "response")})]
            )
            return Service.http(
                name,
                "https://h/{id}?at={place.id}",
                method=draw(st.sampled_from(["GET", "POST", "DELETE"])),
                headers=draw(st.sampled_from([{}, {"Idempotency-Key": "{id}", "X": "on"}])),
                body=draw(st.none() | st.sampled_from([Expression("value"), Fields({"on": Expression("value.no")})])),
                response=draw(answer),
                limit=draw(st.sampled_from([1 << 20, 1000, 12345])),
                deadline_header=draw(st.sampled_from([None, "Penstock-Deadline"])),
                **limits,
            )


OUTLETS = st.sampled_from(
    [
        StdoutSink(),
        DiscardSink(),
        FileSink("a.ndjson"),
        FileSink("${D:-d}/b.csv.gz", fields=["a", "no"]),
        FileSink("c", format="csv"),
    ]
)


@st.composite
def extended(draw: st.DrawFn, flow: Flow[Any], depth: int = 0) -> Flow[Any]:
    """The flow with a few steps more."""
    for _ in range(draw(st.integers(0, 4 if depth == 0 else 2))):
        name = draw(st.none() | TEXTS.filter(str.strip))
        named_ = {} if name is None else {"name": name}
        kinds = [
            "map",
            "object",
            "set",
            "filter",
            "fail",
            "tap",
            "flat_map",
            "map_async",
            "enrich",
            "batch",
            "throttle",
            "through",
            "step",
            "to",
        ]
        match draw(st.sampled_from([*kinds, "route"] if depth < 2 else kinds)):
            case "map":
                flow = flow.map(draw(VALUES), **named_)
            case "object":
                flow = flow.map(Fields(draw(FIELDS)), **named_)
            case "set":
                flow = flow.map(Assign(draw(FIELDS)), name=name or "set")
            case "filter":
                flow = flow.filter(draw(PREDICATES), **named_)
            case "fail":
                flow = flow.fail(
                    draw(st.none() | PREDICATES),
                    reason=draw(
                        st.sampled_from(["no {id}: {{", "on", "module:name", Expression("value.a"), named.double])
                    ),
                    type=draw(st.sampled_from(["Rejected", "TooOld"])),
                    **named_,
                )
            case "tap":
                flow = flow.tap(named.look, **named_)
            case "flat_map":
                function = draw(st.sampled_from([Expression("value.lines"), named.double]))
                flow = flow.flat_map(function, max_parts=draw(st.integers(1, 300)), **named_)
            case "map_async":
                flow = flow.map_async(draw(services()), ordered=draw(st.booleans()), **named_)
            case "enrich":
                asked = draw(
                    st.dictionaries(
                        NAMES.filter(lambda name: name not in ("name", "merge")), services(), min_size=1, max_size=3
                    )
                )
                flow = flow.enrich(
                    merge=named.merge if flow.item is named.Parcel else draw(st.sampled_from([None, named.merge])),
                    **named_,
                    **asked,
                )
            case "batch":
                flow = flow.batch(
                    draw(services(many=True)), size=draw(st.integers(1, 99)), max_wait=draw(SECONDS), **named_
                )
            case "throttle":
                flow = flow.throttle(draw(RATES), burst=draw(st.integers(1, 3)), **named_)
            case "through":
                operator = draw(st.sampled_from([named.distinct, named.latest]))
                flow = flow.through(operator, max_parts=draw(st.integers(1, 20)), **named_)
            case "step":
                flow = flow.operator(named.own, max_parts=draw(st.integers(0, 3)), **named_)
            case "to":
                flow = flow.to(*draw(st.lists(OUTLETS, min_size=1, max_size=3)), timeout=draw(SECONDS), **named_)
            case _:
                ways: dict[str, When | Otherwise] = {
                    way: When(draw(PREDICATES), lambda fork: draw(extended(fork, depth + 1)), final=draw(st.booleans()))
                    for way in draw(st.lists(NAMES, min_size=1, max_size=2, unique=True))
                }
                if draw(st.booleans()):
                    ways["others"] = Otherwise(lambda fork: draw(extended(fork, depth + 1)))
                flow = flow.route(ways, **named_)
    return flow


@st.composite
def flows(draw: st.DrawFn) -> Flow[Any]:
    """Any flow that can be written down."""
    rules = {"id": {"type": "integer", "minimum": 1}, "no": "string?", "on": {"enum": ["yes", "no"]}}
    item = draw(st.sampled_from([None, named.Parcel, item_type(rules)]))
    key = draw(st.sampled_from([None, "id"]))
    window = draw(st.sampled_from([{}, {"elements": 5}, {"elements": 7, "bytes": 1 << 20}, {"bytes": 12345}]))
    flow: Flow[Any] = Flow(draw(NAMES), item, key, description=draw(TEXTS), **window)
    flow = draw(extended(flow))
    assume(all(one == other for one in flow.all_services for other in flow.all_services if one.name == other.name))
    if draw(st.booleans()):
        flow = flow.order(draw(st.sampled_from(["input"] if key is None else ["input", "key"])))
    flow = flow.samples(draw(st.sampled_from([sample_order, Fields({"id": Expression("seq", "seq")})])))
    sources = [
        generate(20, flow.sample_factory),
        ticks(1.5, 3),
        from_file("a.csv.gz"),
        from_file("b", format="ndjson", limit=99),
    ]  # type: ignore[arg-type]
    sources += [
        from_stdin(),
        from_directory("in", pattern="*.csv", poll_interval=2.0, stable_for=3.0, processed_dir="old"),
    ]
    for name in draw(st.lists(NAMES, max_size=2, unique=True)):
        schedule = draw(
            st.sampled_from([Once(), Every(90.0), Cron("30 4 * * 1-5"), Cron("*/5 * * * *", "Europe/Berlin")])
        )
        flow = flow.worker(name, draw(st.sampled_from(sources)), schedule)
    serving = st.sampled_from(
        [
            {},
            {"http": False},
            {"refuse_when_open": True},
            {"name": "x", "max_runs": 3, "max_line": 65536, "max_body": 100, "max_count": 9},
        ]
    )
    flow = flow.serve(**draw(serving))
    if draw(st.booleans()):
        flow = flow.deadline(draw(SECONDS))
    store = draw(st.sampled_from([None, "memory:", "sqlite:///${DIR:-.}/on.db"]))
    if draw(st.booleans()):
        flow = flow.redrive(rate=draw(st.sampled_from([None, 50.0, 1 / 3])))
    if store is None:
        return flow
    keep = st.dictionaries(st.sampled_from(["resolved", "parked", "waiting"]), st.sampled_from([0.25, 604800.0, 1e9]))
    limits: dict[str, float] = draw(keep) | draw(st.sampled_from([{}, {"max": 1_000_000}]))
    return flow.dead_letters(
        store,
        copy=draw(st.sampled_from([(), ("sqlite:///${DIR:-.}/copy.db", "memory")])) if store != "memory:" else (),
        redact=draw(st.sampled_from([(), ("card.number", "no")])),
        keep=limits or None,
    )


@given(flows(), st.sampled_from(["yaml", "json"]))
def test_a_dump_loads_to_the_same_flow(flow: Flow[Any], format: str) -> None:
    """Whatever a flow is made of: written down and read again, it is equal."""
    assert loads(dump(flow, format), f"flow.{format}").flow == flow


@given(flows())
def test_a_dump_of_what_was_loaded_says_the_same(flow: Flow[Any]) -> None:
    """Nothing is added by going round."""
    text = dump(flow)
    assert dump(loads(text, "flow.yaml").flow) == text


ORDERS = """
flow: orders
key: orderId
item: {orderId: {type: integer, minimum: 1}}
window: {elements: 64, bytes: 1MiB}
deadline: 1m30s
services:
  pricing:
    {get: "${PRICING:-http://h}/prices/{orderId}", timeout: 2s, attempts: 2, deadline_header: Penstock-Deadline,
      max_in_flight: 64, response: response.price}
  inventory: {call: "penstock.orders:inventory", timeout: 2s, backoff: {first: 10ms}, rate: 600/m}
templates:
  packed:
    - set: {packed: "true"}
steps:
  - enrich: [pricing, inventory]
  - filter: value.pricing < 5000
  - route:
      big: {when: value.pricing > 1000, steps: [{apply: packed}, {to: {file: big.ndjson}}], final: true}
      rest: {steps: [{throttle: {rate: 10/s, burst: 5}}]}
  - map_async: {service: pricing, ordered: true}
    name: again
order: input
dead_letters:
  store: sqlite:///orders.db
  copy: [sqlite:///copy.db]
  redact: [card.number]
  keep: {resolved: 7d, waiting: 90d, max: 1000000}
redrive: {when: recovered, rate: 50/s}
samples: {orderId: seq}
serve: {max_line: 64KiB}
workers:
  A: {source: {generate: 20}, every: 1m}
"""


def test_a_file_says_what_the_builder_says() -> None:
    """The same flow, written down and built."""
    item = item_type({"orderId": {"type": "integer", "minimum": 1}})
    prices = Service.http(
        "pricing",
        "${PRICING:-http://h}/prices/{orderId}",
        timeout=2,
        attempts=2,
        max_in_flight=64,
        response=Expression("response.price", "response"),
        deadline_header="Penstock-Deadline",
    )
    stock = Service("inventory", inventory, timeout=2, backoff=Backoff(first=0.01), rate=10)
    samples = Fields({"orderId": Expression("seq", "seq")})

    built = (
        Flow[Any]("orders", item, "orderId", 64, 1 << 20)
        .deadline(90)
        .enrich(pricing=prices, inventory=stock)
        .filter(Expression("value.pricing < 5000"))
        .route(
            big=When(
                Expression("value.pricing > 1000"),
                lambda big: big.map(Assign({"packed": Expression("true")}), name="set").to(FileSink("big.ndjson")),
                final=True,
            ),
            rest=Otherwise(lambda rest: rest.throttle(10, burst=5)),
        )
        .map_async(prices, ordered=True, name="again")
        .order()
        .samples(samples)
        .worker("A", generate(20, samples), Every(60))
        .serve(max_line=64 * 1024)
        .dead_letters(
            "sqlite:///orders.db",
            copy=["sqlite:///copy.db"],
            redact=["card.number"],
            keep={"resolved": 7 * 86400, "waiting": 90 * 86400, "max": 1_000_000},
        )
        .redrive(rate=50)
    )

    assert loads(ORDERS, "orders.yaml").flow == built
    assert built.dead_letter_target == DeadLetterTarget(
        "sqlite:///orders.db",
        ("sqlite:///copy.db",),
        Keep(seconds={"waiting": 7776000.0, "resolved": 604800.0}, max=1_000_000),
    )


def test_short_forms_of_dead_letters_are_written_back() -> None:
    """One store, and a redrive without a rate, are one word each."""
    text = "flow: f\ndead_letters: sqlite:///f.db\nredrive: recovered\n"
    assert dump(loads(text, "f.yaml").flow) == text


def test_the_orders_flow_is_its_file() -> None:
    """What `penstock serve` serves is the file in the package; the function builds the same steps."""
    flow = load(Path(named.__file__).parents[2] / "flows/penstock/orders.yaml").flow

    assert flow.steps == orders_flow(Service("pricing", pricing, timeout=10, attempts=2, backoff=NONE)).steps
    assert flow.plan().steps[1:] != ()


def test_json_says_the_same() -> None:
    """One model, whatever it is written in."""
    flow = {
        "flow": "f",
        "window": {"elements": 3},
        "steps": [{"filter": "value > 1"}, {"throttle": "10/s", "name": "slow"}],
    }
    built = Flow[Any]("f", elements=3).filter(Expression("value > 1")).throttle(10, name="slow")

    assert loads(json.dumps(flow), "f.json").flow == built


def test_secrets_stay_in_the_environment() -> None:
    """A dump, a flow's repr and the message of a mistake say the variable, never what stands in it."""
    service = '{get: "https://h/", headers: {Authorization: "Bearer ${TOKEN}"}}'
    text = f"flow: f\nservices: {{s: {service}}}\nsteps: [map_async: s]\n"
    flow = loads(text, "f.yaml", environment={"TOKEN": "s3cret"}).flow

    assert "${TOKEN}" in dump(flow)
    assert "s3cret" not in dump(flow) + repr(flow) + repr(flow.all_services[0].function)


def named_outlet() -> FileSink:
    outlet = FileSink("a.ndjson")
    outlet.name = "audit"
    return outlet


@pytest.mark.parametrize(
    "flow",
    [
        Flow("f").route({"a b": When(bool)}),
        Flow("f").map_async(Service("s", len, timeout=float("inf"))),
        Flow("f").serve("x", http=False, max_line=5),
        Flow("f").to(named_outlet()),
        Flow("f").map_async(Service("s", named.answer)).map_async(Service("s", named.answer, attempts=2)),
    ],
    ids=["a name", "no end", "a limit of what is not served", "a name of an outlet", "two services of one name"],
)
def test_what_no_file_can_say_is_refused(flow: Flow[Any]) -> None:
    """A dump that would not load, or to another flow, is none."""
    with pytest.raises(FlowDefinitionError, match=r"cannot be dumped: |a flow file cannot contain"):
        dump(flow)


@pytest.mark.parametrize(
    "flow",
    [
        Flow[Any]("f").map(lambda value: value),
        Flow[Any]("f").worker("A", generate(2, abs)),
        loads("flow: f\nsteps:\n- operator: named:made\n", "f.yaml").flow,
    ],
    ids=["a lambda", "a source of its own", "an object made by a function"],
)
def test_what_has_no_name_is_refused(flow: Flow[Any]) -> None:
    """A flow file calls things by their names, so what has none cannot be written down."""
    with pytest.raises(FlowDefinitionError, match=r"cannot be (imported by its name|written to a flow file)"):
        dump(flow)


@pytest.mark.parametrize("text", ["a\x85b", "a\u2028b\n", "a\n\u2029\nb", "\x85"], ids=ascii)
def test_line_breaks_that_only_pyyaml_knows_come_back(text: str) -> None:
    """They are written as escapes: PyYAML would fold them away."""
    assert loads(dump(Flow[Any]("f", description=text)), "f.yaml").flow.description == text


def test_examples_are_read_by_every_parser_of_yaml() -> None:
    """PyYAML without libyaml takes a ? before a bracket for the sign of a key."""
    examples = sorted((Path(__file__).parents[2] / "flows" / "examples").glob("*.yaml"))
    assert examples
    for path in examples:
        assert list(yaml.parse(path.read_text(), Loader=yaml.SafeLoader))
