"""Mistakes of users that mypy and pyright report: one a line, with the name of the error in each of them.

Some mistakes only a run finds: a misspelt `key`, a field that `into` does not have, a coroutine function with `blocking`, a
result whose value is read without a look at `ok`.
"""

# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false, reportUnknownVariableType=false
# pyright: reportUnknownLambdaType=false

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypedDict

from msgspec import Struct

from penstock import (
    Failed,
    FileSink,
    Flow,
    Ok,
    Otherwise,
    PushSource,
    Result,
    Service,
    When,
    from_iterable,
    generate,
    ticks,
)


class Order(Struct):
    id: int
    note: str = ""


class Price(Struct):
    amount: float


@dataclass
class Parcel:
    kg: float


class Line(TypedDict):
    sku: str


async def price_of(order: Order) -> Price:
    return Price(order.id)


async def weight_of(parcel: Parcel) -> float:
    return parcel.kg


def total(price: Price) -> float:
    return price.amount


def is_heavy(parcel: Parcel) -> bool:
    return parcel.kg > 30


class PriceSink:
    name = "prices"

    async def open(self) -> None: ...

    async def write(self, values: Sequence[Price]) -> None: ...

    async def aclose(self) -> None: ...


ORDERS = Flow("orders", Order)
LINES = Flow("lines", Line)
PRICES = ORDERS.map_async(price_of)
PRICING = Service("pricing", price_of)

# Flows
Flow(5)  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]
Flow("orders", Order, key=5)  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType, reportCallIssue]
Flow("orders", "id")  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType, reportCallIssue]
Flow("orders", Order, window=5)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]
ORDERS.item = None  # type: ignore[misc]  # pyright: ignore[reportAttributeAccessIssue]
ORDERS.widnow(5)  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]
ORDERS.deadline("2s")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
ORDERS.window("8")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


class Mine(Flow[Order]):  # type: ignore[misc]  # pyright: ignore[reportGeneralTypeIssues]
    pass


# Steps
ORDERS.map(total)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
ORDERS.map(lambda order: order.price)  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]
ORDERS.map(3)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
LINES.map(lambda line: line["size"])  # type: ignore[typeddict-item]  # pyright: ignore[reportGeneralTypeIssues]
ORDERS.filter(is_heavy)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
ORDERS.filter(lambda order: order.total > 3)  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]
ORDERS.tap(total)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
ORDERS.fail(is_heavy, reason="heavy")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
ORDERS.fail(lambda order: True)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
ORDERS.flat_map(lambda order: order.id)  # type: ignore[arg-type, return-value]  # pyright: ignore[reportArgumentType]
ORDERS.map_async(weight_of)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
ORDERS.map_async(lambda order: order.id)  # type: ignore[arg-type, return-value]  # pyright: ignore[reportArgumentType]
ORDERS.map_async(Service("weight", weight_of))  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
PRICES.map_async(PRICING)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
PRICES.map(lambda price: price.total)  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]
PRICES.map(total).map(total)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
ORDERS.map_async(price_of, attempts="3")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
ORDERS.batch(price_of, size=5, max_wait=1)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType, reportCallIssue]
ORDERS.batch(lambda orders: len(orders), size=5, max_wait=1)  # type: ignore[arg-type, return-value]  # pyright: ignore[reportArgumentType, reportCallIssue]
ORDERS.batch(Service.http_batch("web", "http://prices"), size=5)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]
ORDERS.throttle("5/s")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
ORDERS.to(PriceSink())  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
ORDERS.to("orders.ndjson")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
ORDERS.apply(lambda flow: flow.map(total))  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
ORDERS.samples(lambda number: Parcel(number))  # type: ignore[arg-type, return-value]  # pyright: ignore[reportArgumentType]
ORDERS.dead_letters(5)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
ORDERS.services({"pricing": price_of})  # type: ignore[dict-item]  # pyright: ignore[reportArgumentType]

# enrich
ORDERS.enrich(weight=weight_of)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType, reportCallIssue]
ORDERS.enrich(pricing="http://prices")  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType, reportCallIssue]
ORDERS.enrich(pricing=price_of, into=Price).map(lambda price: price.pricing)  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]
ORDERS.enrich(pricing=price_of, into=Price, merge=lambda order, found: order)  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType, reportCallIssue]
ORDERS.enrich(PRICING, merge=lambda order, price: price.total)  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]
ORDERS.enrich(PRICING, PRICING, merge=lambda order, price: price)  # type: ignore[arg-type, misc]  # pyright: ignore[reportArgumentType]
ORDERS.enrich(Service("weight", weight_of), merge=lambda order, weight: weight)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType, reportCallIssue]
ORDERS.map(lambda order: order.id).enrich(pricing=price_of)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]
ORDERS.enrich(PRICING)  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType, reportCallIssue]

# route
Flow("parcels", Parcel).route(heavy=is_heavy)  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]
Flow("parcels", Parcel).route(heavy=When(lambda parcel: parcel.weight > 30))  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]
Flow("parcels", Parcel).route(heavy=When(is_heavy, lambda heavy: heavy.map(lambda parcel: parcel.weight)))  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]
Flow("parcels", Parcel).route(heavy=When(is_heavy, lambda heavy: heavy.map(lambda parcel: parcel.kg))).map(is_heavy)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
Flow("parcels", Parcel).route(otherwise=Otherwise(lambda light: light.map(total)))  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
ORDERS.route(heavy=When(is_heavy))  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]

# Services
Service("pricing")  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]
Service("pricing", price_of, timeout="2")  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType, reportCallIssue]
Service.http("pricing", "http://prices", response=5)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]

# Sources
push = PushSource[Order](5)
push.push_nowait(Price(1))  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
FileSink("orders.ndjson", format=5)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


async def runs() -> None:
    await ORDERS.run([Order(1)])  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await ORDERS.run(from_iterable([Parcel(1)]))  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await ORDERS.run(ticks(1))  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await ORDERS.run(generate(5, Parcel))  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await ORDERS.run(from_iterable([Order(1)]), print)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await ORDERS.stream(from_iterable([Order(1)]))  # type: ignore[misc]  # pyright: ignore[reportGeneralTypeIssues]
    for _ in ORDERS.stream(from_iterable([Order(1)])):  # type: ignore[attr-defined]  # pyright: ignore[reportGeneralTypeIssues]
        pass
    summary = await ORDERS.run(from_iterable([Order(1)]))
    print(summary.okay)  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]
    async for result in PRICES.stream(from_iterable([Order(1)])):
        print(result.value.total)  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]
        print(result.reason)  # type: ignore[union-attr]  # pyright: ignore[reportAttributeAccessIssue]
        print(result.dead_letter)  # type: ignore[union-attr]  # pyright: ignore[reportAttributeAccessIssue]
        result.seq = 5  # type: ignore[misc]  # pyright: ignore[reportAttributeAccessIssue]
        match result:
            case Ok(value):
                print(value.total)  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]
            case Failed(failure):
                print(failure.stpe)  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]


def amount(result: Result[Price]) -> Order:
    return result.value if result.ok else Order(1)  # type: ignore[return-value]  # pyright: ignore[reportReturnType]


def made() -> Flow[Order, Price]:
    return ORDERS  # type: ignore[return-value]  # pyright: ignore[reportReturnType]


def narrowed(flow: Flow[Any, Price]) -> Flow[Any, Order]:
    return flow  # type: ignore[return-value]  # pyright: ignore[reportReturnType]
