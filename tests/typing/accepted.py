"""Code as users write it, and the types that the checkers find in it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypedDict, assert_type

from msgspec import Struct
from reactivex import Observable
from reactivex import operators as ops

from penstock import (
    Expression,
    Failed,
    Failure,
    FileSink,
    Flow,
    Ok,
    Otherwise,
    PushSource,
    Result,
    Service,
    Source,
    Summary,
    When,
    from_async_iterable,
    from_file,
    from_iterable,
    from_stdin,
    generate,
    ndjson,
    remaining_seconds,
    ticks,
)
from penstock.results import LineWriter


class Order(Struct):
    id: int
    note: str = ""
    pricing: float | None = None


class Price(Struct):
    amount: float


class Stock(Struct):
    pieces: int


class Offer(Struct):
    id: int
    pricing: Price
    stock: Stock


@dataclass
class Parcel:
    kg: float
    carrier: str = ""


class Line(TypedDict):
    sku: str
    count: int


async def price_of(order: Order) -> Price:
    return Price(order.id * 1.5)


async def stock_of(order: Order) -> Stock:
    return Stock(order.id)


async def prices_of(orders: list[Order]) -> list[Price | Exception]:
    return [Price(order.id) if order.id else ValueError("no id") for order in orders]


def stock_blocking(order: Order) -> Stock:
    return Stock(order.id)


def by_truck(parcel: Parcel) -> str:
    return f"truck {parcel.kg}"


def total(order: Order) -> float:
    return order.pricing or 0.0


ORDERS = Flow("orders", Order, key="id")
PRICING = Service("pricing", price_of, timeout=2, attempts=3)
STOCK = Service("stock", stock_blocking, blocking=True)


def flows() -> None:
    assert_type(Flow("any"), Flow[Any, Any])
    assert_type(ORDERS, Flow[Order, Order])
    annotated: Flow[Order] = ORDERS
    lines: Flow[Line] = Flow("lines", Line)
    assert_type(annotated.map(total), Flow[Order, float])
    assert_type(lines.map(lambda line: line["count"]), Flow[Line, int])
    assert_type(Flow("numbers").map(str), Flow[Any, str])


def services() -> None:
    assert_type(PRICING, Service[Order, Price])
    assert_type(STOCK, Service[Order, Stock])
    assert_type(Service.http("web", "http://prices/{id}", response=Price), Service[Any, Price])
    assert_type(Service.http("web", "http://prices/{id}"), Service[Any, Any])
    assert_type(Service.http_batch("web", "http://prices", field="id", response=Price), Service[list[Any], list[Price]])


def steps() -> None:
    assert_type(ORDERS.filter(lambda order: order.id > 3), Flow[Order, Order])
    assert_type(ORDERS.filter(Expression("value.id > 3")), Flow[Order, Order])
    assert_type(ORDERS.tap(print), Flow[Order, Order])
    assert_type(ORDERS.fail(lambda order: not order.note, reason="order {id} has no note"), Flow[Order, Order])
    assert_type(ORDERS.fail(reason=lambda order: order.note), Flow[Order, Order])
    assert_type(ORDERS.flat_map(lambda order: [order.id] * 3), Flow[Order, int])
    assert_type(ORDERS.map_async(price_of), Flow[Order, Price])
    assert_type(ORDERS.map_async(PRICING, ordered=True), Flow[Order, Price])
    assert_type(ORDERS.map_async(STOCK).map(lambda stock: stock.pieces), Flow[Order, int])
    assert_type(ORDERS.batch(prices_of, size=50, max_wait=0.02), Flow[Order, Price])
    assert_type(ORDERS.batch(lambda orders: [each.id for each in orders], size=9, max_wait=1), Flow[Order, int])
    assert_type(
        ORDERS.batch(Service.http_batch("web", "http://prices", response=Price), size=9, max_wait=1), Flow[Order, Price]
    )
    assert_type(ORDERS.throttle(100, burst=10), Flow[Order, Order])
    assert_type(ORDERS.to(FileSink("orders.ndjson")), Flow[Order, Order])
    assert_type(ORDERS.map(total).through(distinct), Flow[Order, float])
    assert_type(ORDERS.apply(priced), Flow[Order, float])
    assert_type(ORDERS.samples(lambda number: Order(number)), Flow[Order, Order])
    assert_type(ORDERS.window(8).order().dead_letters("memory:", redact=["note"]), Flow[Order, Order])
    assert_type(ORDERS.deadline(2), Flow[Order, Order])
    assert_type(remaining_seconds(), float | None)
    assert_type(
        Service.http("web", "http://prices/{id}", response=Price, deadline_header="Grpc-Timeout"), Service[Any, Price]
    )
    assert_type(ORDERS.services({"pricing": PRICING}), Flow[Order, Order])


def distinct(values: Observable[float]) -> Observable[float]:
    return values.pipe(ops.distinct_until_changed())


def priced(flow: Flow[Order]) -> Flow[Order, float]:
    return flow.map_async(price_of).map(lambda price: price.amount)


class OrderSink:
    """A sink of one type of values."""

    name = "orders"

    async def open(self) -> None: ...

    async def write(self, values: Sequence[Order]) -> None:
        print([order.id for order in values])

    async def aclose(self) -> None: ...


def sinks() -> None:
    assert_type(ORDERS.to(OrderSink(), FileSink("orders.csv")), Flow[Order, Order])


def enriched() -> None:
    assert_type(ORDERS.enrich(pricing=price_of), Flow[Order, Order])
    assert_type(ORDERS.enrich({"name": price_of}, pricing=PRICING, into=Offer), Flow[Order, Offer])
    assert_type(Flow("parcels", Parcel).enrich(carrier=lambda parcel: named(parcel.kg)), Flow[Parcel, Parcel])
    assert_type(
        Flow("lines", Line).enrich(name=" enrich", stock=lambda line: named(line["count"])), Flow[Line, dict[str, Any]]
    )
    assert_type(Flow("lines", Line).enrich(stock=Service("stock", count_of), into=Offer), Flow[Line, Offer])
    assert_type(
        ORDERS.enrich(price=price_of, merge=lambda order, found: (order.id, len(found))),
        Flow[Order, tuple[int, int]],
    )
    assert_type(ORDERS.enrich(price_of, merge=lambda order, price: price.amount), Flow[Order, float])
    assert_type(
        ORDERS.enrich(PRICING, STOCK, merge=lambda order, price, stock: Offer(order.id, price, stock)),
        Flow[Order, Offer],
    )
    assert_type(
        ORDERS.enrich(PRICING, STOCK, price_of, stock_of, price_of, merge=lambda order, a, b, c, d, e: e.amount),
        Flow[Order, float],
    )


async def named(number: float) -> str:
    return str(number)


async def count_of(line: Line) -> int:
    return line["count"]


def routed() -> None:
    parcels = Flow("parcels", Parcel)
    assert_type(parcels.route(heavy=When(lambda parcel: parcel.kg > 30)), Flow[Parcel, Parcel])
    assert_type(
        parcels.route(heavy=When(lambda parcel: parcel.kg > 30, lambda heavy: heavy.map(by_truck))),
        Flow[Parcel, Parcel | str],
    )
    assert_type(
        parcels.route(
            heavy=When(lambda parcel: parcel.kg > 30, lambda heavy: heavy.map(by_truck), final=True),
            otherwise=Otherwise(lambda light: light.map(lambda parcel: parcel.kg)),
        ),
        Flow[Parcel, str | float],
    )


async def values() -> AsyncIterator[Order]:
    yield Order(1)


async def chunks() -> AsyncIterator[bytes]:
    yield b"{}\n"


def some() -> Iterator[Order]:
    yield Order(1)


async def sources() -> None:
    assert_type(from_iterable([Order(1)]), Source[Order])
    assert_type(ticks(1), Source[int])
    for source in (from_file("orders.ndjson"), from_stdin(), ndjson(chunks())):
        await ORDERS.run(source)
    await ORDERS.run(from_iterable(some()))
    await ORDERS.run(from_async_iterable(values()))
    await ORDERS.run(generate(5, Order))
    await ORDERS.run(from_iterable([{"id": 1}]))
    await ORDERS.run(from_iterable([{"id": 1, "note": "x"}]))
    await Flow("lines", Line).run(from_iterable([Line(sku="a", count=1)]))
    pushed = PushSource[Order](100, "drop_oldest")
    pushed.push_nowait(Order(1))
    await pushed.push(Order(2))
    await ORDERS.run(pushed)
    ORDERS.worker("hourly", from_file("orders.ndjson"))


async def runs() -> None:
    summary = await ORDERS.run(from_file("orders.ndjson"))
    assert_type(summary, Summary)
    assert_type(await ORDERS.run(from_stdin(), LineWriter(write)), Summary)
    run = ORDERS.start(from_stdin())
    run.drain()
    assert_type(await run.finished, Summary)


async def write(data: bytes) -> None:
    print(data)


async def results() -> None:
    flow = ORDERS.map_async(price_of)
    async for result in flow.stream(from_stdin()):
        assert_type(result, Ok[Price] | Failed)
        if result.ok:
            assert_type(result.value, Price)
        else:
            assert_type(result.failure, Failure)
        match result:
            case Ok(value):
                assert_type(value, Price)
            case Failed(failure):
                assert_type(failure, Failure)
        if isinstance(result, Failed):
            assert_type(result, Failed)
            print(result.dead_letter, result.failure.step)
        else:
            assert_type(result, Ok[Price])
        assert_type(amount(result), float)
    async with flow.order("key").stream(from_stdin(), ordered="input") as by_word:
        assert_type((await anext(by_word)).seq, int)
    async with flow.order().stream(from_stdin(), ordered=True) as stream:
        assert_type((await anext(stream)).seq, int)
        assert_type([each.value.amount async for each in stream if each.ok], list[float])


def amount(result: Result[Price]) -> float:
    return result.value.amount if result.ok else 0.0
