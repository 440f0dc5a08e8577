"""A flow, described: what the description promises before anything runs, and `stream`."""

from __future__ import annotations

import asyncio
import functools
import json
import pathlib
import re
from dataclasses import dataclass
from typing import Annotated, Any, NotRequired, TypedDict

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reactivex import operators as ops

from laws.virtual import quiet, results
from penstock import Flow, Service, When, from_iterable, ndjson
from penstock.errors import FlowDefinitionError, RunError
from penstock.orders import orders_flow
from penstock.results import DiscardResults, LineWriter
from penstock.sinks import DiscardSink
from penstock.sources import Source
from penstock.steps.step import walk


class Order(TypedDict):
    orderId: int
    note: NotRequired[str]


class Record(msgspec.Struct, rename="camel"):
    order_id: int
    price: int = 0


@dataclass
class Item:
    number: int


def upload(*lines: bytes) -> Source[bytes]:
    """Lines as they come over the wire."""

    async def chunks() -> Any:
        yield b"\n".join(lines)

    return ndjson(chunks())


# Description


def test_a_flow_may_be_told_the_type_of_its_items() -> None:
    """`Flow[int]("f")` is the same flow as `Flow("f")`: the type is for the checkers."""
    assert Flow[int]("f") == Flow("f")


def test_a_flow_is_immutable() -> None:
    """Each method gives a new flow; the one it was called on stays as it was."""
    flow = Flow("f")
    longer = flow.map(str).window(7).dead_letters("memory:")

    assert (flow.steps, flow.elements, flow.store) == ((), 256, None)
    assert (len(longer.steps), longer.elements, longer.store) == (1, 7, "memory:")
    with pytest.raises(AttributeError):
        flow.name = "g"  # type: ignore[misc]


def test_names_are_made_unique() -> None:
    """The second step of a name gets a number, so that every failure names one step."""
    flow = Flow("f").map(str).map(str).map(lambda value: value).map(lambda value: value).map(str)

    assert [step.name for step in flow.steps] == ["str", "str-2", "map", "map-2", "str-3"]


@pytest.mark.parametrize(
    ("build", "says"),
    [
        (lambda: Flow("a b"), "invalid flow name 'a b': use letters, digits, - and _"),
        (lambda: Flow("f", elements=0), "flow f: elements: expected an integer >= 1, got 0"),
        (lambda: Flow("f").window(0), "flow f: elements: expected an integer >= 1, got 0"),
        (lambda: Flow("f").window(2.5), "flow f: elements: expected an integer >= 1, got 2.5"),
        (lambda: Flow("f").map(None), "map: expected a function, got None"),
        (lambda: Flow("f").filter("value.x > 1"), "filter: expected a function, got 'value.x > 1'"),
        (
            lambda: Flow("f").filter(asyncio.sleep),
            "filter: expected a plain function, and sleep is a coroutine function",
        ),
        (
            lambda: Flow("f").tap(functools.partial(asyncio.sleep, 1)),
            "tap: expected a plain function, .* use map_async",
        ),
        (lambda: Flow("f").through(3), "through: expected a function, got 3"),
        (lambda: Flow("f").operator(3), "operator: expected a function, got 3"),
        (lambda: Flow("f").to("out.ndjson"), "to: expected sinks such as FileSink.*got 'out.ndjson'"),
        (lambda: Flow("f").route(a=len), "branch a of route: expected When"),
        (lambda: Flow("f").route(a=When("value > 1")), "branch a of route: when: expected a function"),
        (
            lambda: Flow("f").route(a=When(bool, lambda way: None)),
            "expected a function that returns the flow with its steps, got None",
        ),
        (lambda: Flow("f").enrich(name=Service("s", len), b=len), "enrich: name, merge and into are options"),
        (
            lambda: Flow("f").start([1, 2], DiscardResults()),
            "flow f: source: expected a source such as from_iterable.*, got list",
        ),
        (lambda: Flow("f").window(1, 0), "flow f: bytes: expected an integer >= 1, got 0"),
        (lambda: Flow("f", Order, key="orderID"), r"did you mean 'orderId'\? \(fields: orderId, note\)"),
        (lambda: Flow("f", Record, key="zzz"), r"key: the item has no field 'zzz' \(fields: order_id, price\)"),
        (lambda: Flow("f", Item, key="numbr"), "did you mean 'number'?"),
        (lambda: Flow("f").enrich(), "at least one service"),
        (lambda: Flow("f", Record).enrich(prise=str), "did you mean 'price'?.*|.*pass merge="),
        (lambda: Flow("f", Item).enrich(price=str), "Item has no field 'price' for the response; add the field"),
        (lambda: Flow("f").enrich(price="url"), "price: expected a function or a Service, got 'url'"),
        (lambda: Flow("f").map_async(5), "map_async: expected a function or a Service, got 5"),
        (
            lambda: Flow("f").dead_letters(pathlib.Path("x.db")),
            "dead_letters: expected a store such as 'sqlite:///FILE', got PosixPath",
        ),
        (
            lambda: Flow("f").start(from_iterable([1]), DiscardResults),
            "consumer: expected an object such as LineWriter.*, got <class",
        ),
        (lambda: Flow("f", "id"), "did you mean key='id'"),
        (lambda: Flow("f").enrich(Service("s", len)), "each service needs a name for its response"),
        (lambda: Flow("f").dead_letters("redis://x"), "use sqlite:///FILE, postgresql://HOST/DATABASE,"),
        (
            lambda: Flow("f").dead_letters("memory:").map(str),
            "step str: no step may follow dead_letters; put it before",
        ),
    ],
)
def test_what_is_wrong_is_said_when_the_flow_is_built(build: Any, says: str) -> None:
    """The error names the thing, what was given, and the way out."""
    with pytest.raises(FlowDefinitionError, match=says):
        build()


@pytest.mark.parametrize(
    ("build", "says"),
    [
        (lambda: Flow("f").batch(str, size=0, max_wait=1), "got 0"),
        (lambda: Flow("f").batch(str, size=2.5, max_wait=1), "size: expected an integer >= 1, got 2.5"),
        (lambda: Flow("f").throttle(0), "got 0"),
        (lambda: Flow("f").flat_map(str, max_parts=0), "got 0"),
        (lambda: Flow("f").map_async(str, attempts=0), "attempts"),
        (lambda: Flow("f").map_async(str, timeout=0), "timeout: expected a number of seconds > 0"),
        (lambda: Flow("f").map_async(str, max_in_flight=0), "max_in_flight"),
    ],
)
def test_a_bound_that_bounds_nothing_is_refused(build: Any, says: str) -> None:
    """A limit of zero is a mistake, and found before anything runs."""
    with pytest.raises(ValueError, match=says):
        build()


def test_services_of_a_flow_are_listed_once() -> None:
    """One service at two steps is one service."""
    shared = Service("s", str)

    assert Flow("f").map_async(shared).map_async(shared).enrich(a=shared).all_services == (shared,)


# Decoding


@pytest.mark.parametrize("item", [None, Order])
@settings(max_examples=60, deadline=None)
@given(
    known=st.integers(-(2**63), 2**63 - 1),
    others=st.dictionaries(
        st.text(st.characters(exclude_categories=["Cs"])).filter(lambda name: name not in ("orderId", "note")),
        st.recursive(
            st.none()
            | st.booleans()
            | st.integers(-(2**63), 2**64 - 1)
            | st.floats(allow_nan=False, allow_infinity=False)
            | st.text(st.characters(exclude_categories=["Cs"])),
            lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("ab"), inner, max_size=3),
            max_leaves=5,
        ),
        max_size=5,
    ),
)
def test_unknown_fields_come_back_unchanged(item: Any, known: int, others: dict[str, Any]) -> None:
    """Whatever an order has beside what the flow knows goes through as it came."""
    order = {**others, "orderId": known}
    (told,) = results(Flow("f", item, key="orderId"), upload(msgspec.json.encode(order)))

    assert (told.ok, told.value, told.key) == (True, order, known)


@pytest.mark.parametrize(
    ("item", "value"), [(Record, Record(5)), (Item, Item(5)), (int, 5), (None, {"orderId": 5}), (Order, {"orderId": 5})]
)
def test_items_are_what_their_type_says(item: Any, value: Any) -> None:
    """A line becomes an instance; a value that is one already stays the same object."""
    (decoded,) = results(Flow("f", item), upload(msgspec.json.encode(value)))
    (passed,) = results(Flow("f", item), [value])

    assert decoded.value == value
    assert passed.value is value


GOOD_LINES = [b'{"orderId":%d}' % id for id in range(9)]
BAD_LINES = [b'{"orderId":"x"}', b"3 4", b"[1,", b"2]", b"{}", b"\xff", b"x" * 90]


@given(
    st.lists(st.sampled_from(GOOD_LINES), max_size=12) | st.lists(st.sampled_from(GOOD_LINES + BAD_LINES), max_size=12),
    st.integers(1, 12),
)
def test_a_line_fares_the_same_alone_and_in_company(lines: list[bytes], window: int) -> None:
    """Whatever else comes with it, a line is read as itself: the same value, or the same failure."""

    def told(elements: int) -> Any:
        async def chunks() -> Any:
            yield b"\n".join(lines)

        flow = Flow("f", Order, key="orderId").window(elements)
        decoded = results(flow, ndjson(chunks(), limit=80))
        return sorted(
            (result.seq, result.ok, result.key, result.value if result.ok else result.failure) for result in decoded
        )

    assert told(window) == told(1)


@pytest.mark.parametrize(
    ("line", "kind", "says"),
    [
        (b"{", "MalformedJson", "not valid JSON"),
        (b"\xff", "MalformedJson", "not UTF-8 at byte 0$"),
        (b'"\xff"', "MalformedJson", "not UTF-8 at byte 1$"),
        (b'{"orderId":1,"note":"caf\xe9"}', "MalformedJson", "not UTF-8 at byte 24$"),
        (b'{"orderId":1,"caf\xe9":2}', "MalformedJson", "not UTF-8 at byte 17$"),
        (b'{"orderId":1,"note":"\\u00e9\xed\xa0\x80"}', "MalformedJson", "not UTF-8 at byte 27$"),
        (b"[" * 100_000, "MalformedJson", "nested too deeply|truncated"),
        (b'{"orderId":"x"}', "InvalidItem", "Expected `int`, got `str` - at `\\$.orderId`"),
        (b'{"orderId":1,"note":2}', "InvalidItem", "Expected `str`, got `int`"),
        (b"{}", "InvalidItem", "missing required field `orderId`"),
        (b"[]", "InvalidItem", "Expected `object`, got `array`"),
        (b"null", "InvalidItem", "Expected `object`, got `null`"),
    ],
)
def test_a_line_that_is_no_item_is_a_failed_element(line: bytes, kind: str, says: str) -> None:
    """It fails at `decode`, with words that its sender can use, and the next line is fine."""
    bad, good = sorted(results(Flow("f", Order), upload(line, b'{"orderId":1}')), key=lambda result: result.seq)

    assert (bad.failure.step, bad.failure.type) == ("decode", kind)
    assert re.search(says, bad.failure.message)
    assert good.ok


def test_the_key_of_a_bad_item_is_told_if_it_has_one() -> None:
    """A wrong field elsewhere does not hide which item it was; a renamed field is found by its name in Python."""
    (bad,) = results(Flow("f", Order, key="orderId"), upload(b'{"orderId":7,"note":1}'))
    (good,) = results(Flow("f", Record, key="order_id"), upload(b'{"orderId":7}'))

    assert (bad.key, good.key) == (7, 7)


@pytest.mark.parametrize("line", [b"oops", b'"text"', b"[1]", b"1"])
def test_the_key_is_a_field_and_no_attribute(line: bytes) -> None:
    """Bytes, texts, lists and numbers have methods of many names, which are no keys."""
    for key in ("count", "index", "real"):
        (told,) = results(Flow("f", key=key), upload(line))
        assert told.key is None


class Part(TypedDict):
    weight: float


class Parcel(TypedDict):
    price: Annotated[float, msgspec.Meta(gt=0)]
    rates: NotRequired[list[float]]
    parts: NotRequired[list[Part]]
    count: int


@pytest.mark.parametrize("form", ["lines", "values"])
def test_a_fraction_is_one_also_when_a_whole_number_came_in(form: str) -> None:
    """In all places that the type has; numbers of other fields stay what they are."""
    came = {"price": 2, "rates": [1, 0.5], "parts": [{"weight": 3, "other": 4}], "count": 5, "more": 6}
    source = upload(json.dumps(came).encode()) if form == "lines" else from_iterable([came])
    (told,) = results(Flow("f", Parcel), source)

    assert json.dumps(told.value) == (
        '{"price": 2.0, "rates": [1.0, 0.5], "parts": [{"weight": 3.0, "other": 4}], "count": 5, "more": 6}'
    )


def test_a_key_that_cannot_be_looked_at_is_no_key() -> None:
    """The item goes on without one, and so do its neighbours."""

    class Shy:
        @property
        def key(self) -> int:
            raise OSError("not now")

    told = results(Flow("f", key="key"), from_iterable([{"key": 1}, Shy(), {"key": 2}]))
    assert [(result.ok, result.key) for result in told] == [(True, 1), (True, None), (True, 2)]


def test_answers_may_be_called_as_enrich_calls_its_options() -> None:
    """A mapping names them."""
    services = {"name": lambda _: 1, "merge": lambda _: 2, "self": lambda _: 3, "services": lambda _: 4}
    (told,) = results(Flow("f").enrich(services, x=lambda _: 5), from_iterable([{}]))

    assert told.value == {"name": 1, "merge": 2, "self": 3, "services": 4, "x": 5}


def test_the_steps_that_are_measured_are_known_before_they_are() -> None:
    """A series is there from the first scrape on, and stays as long as its step."""

    async def call(value: Any) -> Any:
        return value

    async def call_all(values: list[Any]) -> list[Any]:
        return values

    flow = (
        Flow("f")
        .map(lambda value: value, name="map")
        .filter(bool, name="filter")
        .fail(lambda value: False, reason="x", name="fail")
        .tap(len, name="tap")
        .map_async(call, name="map_async")
        .enrich(enrich=call)
        .batch(call_all, size=2, max_wait=0.1, name="batch")
        .flat_map(lambda value: [value], name="flat_map")
        .throttle(1e6, name="throttle")
        .through(ops.map(lambda value: value), name="through")
        .route(route=When(bool, lambda way: way.map(lambda value: value, name="inside")))
        .to(DiscardSink(), name="to")
        .operator(lambda source: source, name="own")
    )

    async def main() -> set[str]:
        running = flow.start(from_iterable([{"a": 1}] * 3), LineWriter(call))
        assert (await running.finished).ok == 3
        return set(running.statistics.histograms)

    assert quiet(main()) == set(flow.timed_steps)


# Isolation, at its edges


def test_an_error_that_cannot_say_what_it_is_fails_its_element_alone() -> None:
    """An exception whose `__str__` raises is told by the name of its type."""

    class Mute(Exception):
        def __str__(self) -> str:
            raise ValueError

    def speak(value: int) -> int:
        if value == 1:
            raise Mute
        return value

    told = {result.seq: result for result in results(Flow("f").map(speak), range(3))}

    assert [told[seq].ok for seq in range(3)] == [True, False, True]
    assert told[1].failure.message == "Mute"


# Streams


def test_stream_gives_results_in_order_if_asked() -> None:
    """`ordered=True` keeps the order of the input, by default they come as they are ready."""

    async def slow(value: int) -> int:
        await asyncio.sleep(value)
        return value

    flow = Flow("f").filter(lambda value: value != 2).map_async(slow)

    assert [result.value for result in results(flow, [3, 2, 1])] == [1, 3]
    assert [result.value for result in results(flow, [3, 2, 1], ordered=True)] == [3, 1]


def test_a_consumer_that_stops_reading_stops_the_source() -> None:
    """Nothing is made beyond the window while nobody asks."""
    made: list[int] = []

    def values() -> Any:
        for number in range(1000):
            made.append(number)
            yield number

    async def main() -> int:
        async with Flow("f").window(5).stream(from_iterable(values())) as told:
            await anext(told)
            await asyncio.sleep(1000)
            return len(made)

    assert quiet(main()) <= 6


def test_leaving_the_block_of_a_stream_leaves_nothing() -> None:
    """When the block is left, the run is over: its tasks and its calls are gone."""
    service = Service("s", lambda value: asyncio.sleep(value * 1000, value), timeout=1e6)

    async def main() -> int:
        async with Flow("f").map_async(service).stream(from_iterable(range(100))) as told:
            async for _ in told:
                break
        return len(asyncio.all_tasks()) - 1

    assert (quiet(main()), service.statistics().in_flight) == (0, 0)


def test_leaving_a_stream_by_break_leaves_nothing_soon_after() -> None:
    """Without a block nothing waits for the end of the run, but it ends: after a few iterations all is gone."""
    service = Service("s", lambda value: asyncio.sleep(value * 1000, value), timeout=1e6)

    async def main() -> int:
        async for _ in Flow("f").map_async(service).stream(from_iterable(range(100))):
            break
        for _ in range(20):
            await asyncio.sleep(0)
        return len(asyncio.all_tasks()) - 1

    assert (quiet(main()), service.statistics().in_flight) == (0, 0)


def test_a_stream_of_a_broken_source_raises_at_its_end() -> None:
    """First the results of what it gave, then `RunError` with the reason."""

    def values() -> Any:
        yield 1
        yield 2
        raise ConnectionError("gone")

    async def main() -> list[int]:
        seen: list[int] = []
        told = Flow("f").tap(seen.append).stream(from_iterable(values()))
        assert [(await anext(told)).value, (await anext(told)).value] == [1, 2]
        with pytest.raises(RunError, match="the source iterable failed: gone"):
            await anext(told)
        return seen

    assert quiet(main()) == [1, 2]


def test_steps_on_branches_share_no_name_with_others() -> None:
    """Failures, metrics and letters tell steps apart by their names, on branches and around them."""
    flow = Flow[Any]("f").map(len, name="a").route({"b": When(bool, lambda fork: fork.map(len, name="a"))}, name="a")
    names = [step.name for step in walk(flow.map(len, name="a").steps)]

    assert names == ["a", "a-2", "a-3", "a-4"]


def test_a_predicate_that_gives_an_awaitable_fails_its_elements() -> None:
    """It would be true of everything."""

    async def wanted(value: int) -> bool:
        return value > 1

    came = results(Flow("f").filter(lambda value: wanted(value)), [1])
    assert [None if result.ok else result.failure.type for result in came] == ["TypeError"]


@pytest.mark.parametrize("item", [5, len, [], {"id": int}], ids=repr)
def test_what_is_no_type_is_no_type_of_items(item: Any) -> None:
    """It is said when the flow is built: otherwise every item would fail."""
    with pytest.raises(FlowDefinitionError, match="item: expected a type that JSON can be decoded to"):
        Flow("f", item)


def test_a_key_is_the_name_of_a_field() -> None:
    """Nothing else names one."""
    key: Any = 5
    with pytest.raises(FlowDefinitionError, match="flow f: key: expected the name of a field, got 5"):
        Flow[Any]("f", key=key)


@pytest.mark.parametrize("path", ["", ".", "a..b", "card.*", "items[0]", 5], ids=repr)
def test_fields_that_letters_do_not_keep_have_plain_paths(path: Any) -> None:
    """A star or the number of an item would be taken for the name of a field, and the secret would be kept."""
    with pytest.raises(
        FlowDefinitionError, match=r"names of fields with dots between them, such as card\.number, got "
    ):
        Flow[Any]("f").dead_letters("memory", redact=["card.number", path])
    assert Flow[Any]("f").dead_letters("memory", redact=["card.number", "größe", "e mail", "@id"]).redacted


@pytest.mark.parametrize(
    ("keep", "says"),
    [
        ({}, "keep: expected a limit"),
        ({"claimed": 1}, "keep: unknown key 'claimed'; expected resolved, parked, waiting with seconds, or max"),
        ({"waiting": 0}, "keep: waiting: expected a number of seconds > 0, got 0"),
        ({"waiting": "7d"}, "keep: waiting: expected a number of seconds > 0, got '7d'"),
        ({"waiting": True}, "keep: waiting: expected a number of seconds > 0, got True"),
        ({"parked": float("inf")}, "keep: parked: expected a number of seconds > 0, got inf"),
        ({"max": 0.5}, "keep: max: expected an integer >= 1, got 0.5"),
    ],
)
def test_limits_of_letters_that_limit_nothing_are_refused(keep: Any, says: str) -> None:
    """A letter that is deleted too early is lost."""
    with pytest.raises(FlowDefinitionError, match=re.escape(says)):
        Flow[Any]("f").dead_letters("memory", keep=keep)


class Log:
    """A store whose letters cannot be changed."""

    editable = False

    async def add(self, letters: Any) -> None: ...


@pytest.mark.parametrize("log", ["kafka://h/t", Log()], ids=["URL", "object"])
@pytest.mark.parametrize(
    ("build", "option"),
    [
        (lambda log: Flow("f").dead_letters(log, keep={"max": 1}), "keep: "),
        (lambda log: Flow("f").dead_letters(log, copy=["memory"]), "copy: the store "),
        (lambda log: Flow("f").dead_letters(log).redrive(), "redrive: "),
        (lambda log: Flow("f").redrive(rate=5).dead_letters(log), "redrive: "),
    ],
)
def test_what_a_log_cannot_do_is_said_when_the_flow_is_built(log: Any, build: Any, option: str) -> None:
    """Nothing is emulated, and nothing is ignored."""
    with pytest.raises(FlowDefinitionError, match=rf"^{option}.*(is a log|is an object; pass its URL)"):
        build(log)


@pytest.mark.parametrize("rate", [0, -1, float("inf"), float("nan")])
def test_a_rate_of_redrives_is_a_number_above_0(rate: float) -> None:
    """Without a rate the services set the pace."""
    with pytest.raises(ValueError, match=r"redrive: rate: expected a number per second > 0"):
        Flow[Any]("f").redrive(rate=rate)


def test_a_branch_has_no_redrive_of_its_own() -> None:
    """It would be ignored."""
    with pytest.raises(FlowDefinitionError, match="set redrive on the flow itself"):
        Flow[Any]("f").route(a=When(bool, lambda steps: steps.redrive()))


def test_services_and_outlets_that_a_flow_does_not_have_are_refused() -> None:
    """A replacement with a misspelled name must not leave the real service in its place."""
    flow = orders_flow()
    with pytest.raises(FlowDefinitionError, match="flow orders has no service 'pricng'; did you mean 'pricing'"):
        flow.services({"pricng": flow.all_services[0]})
    with pytest.raises(FlowDefinitionError, match="flow orders has no sink 'nope'; sinks: none"):
        flow.sinks({"nope": DiscardSink()})
