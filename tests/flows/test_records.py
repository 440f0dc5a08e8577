"""The lines of the contract, to the byte."""

from __future__ import annotations

import asyncio
from math import inf, nan
from typing import Any

import msgspec
import pytest
from msgspec import Struct

from laws.virtual import quiet
from penstock import Flow, Service, from_iterable
from penstock.deadletters import DeadLetterQuery, MemoryStore
from penstock.orders import orders_flow
from penstock.results import EndRecord, LineWriter, end_line
from penstock.results.records import NdjsonFormat, RecordFormat, ServerSentEvents
from penstock.runtime import Summary
from penstock.services import NONE


def lines_of(flow: Flow[Any], values: Any, *, ordered: bool = True) -> tuple[list[bytes], Summary]:
    """What the reader is told, line by line."""
    written: list[bytes] = []

    async def write(data: bytes) -> None:
        written.append(data)

    async def main() -> Summary:
        return await flow.start(from_iterable(values), LineWriter(write), ordered=ordered).finished

    summary = quiet(main())
    return b"".join(written).splitlines(keepends=True), summary


def test_the_line_of_an_order_that_made_it() -> None:
    """`ok`, `seq`, and the order with its price and stock."""
    (line,), _ = lines_of(orders_flow(), [{"orderId": 1}])

    assert line == (
        b'{"ok":true,"seq":0,"value":{"orderId":1,"pricing":{"price":1001},"inventory":{"inStock":true}}}\n'
    )


def test_the_line_of_an_order_that_failed() -> None:
    """`ok`, `seq`, `key`, the error with its attempts, and the id of its dead letter."""
    store = MemoryStore()
    lines, _ = lines_of(orders_flow(dead_letters=store), [{"orderId": 1}, {"orderId": 2}, {"orderId": 3}])
    (letter,) = asyncio.run(store.page(DeadLetterQuery())).letters

    assert lines[2] == (
        b'{"ok":false,"seq":2,"key":3,"error":{"step":"inventory","type":"InventoryUnavailable",'
        b'"message":"Inventory unavailable","attempts":2},"deadLetter":"%b"}\n' % letter.id.encode()
    )


def test_the_end_record() -> None:
    """The numbers of the summary, in the order of the contract."""
    assert end_line(EndRecord("completed", 10, 7, 3, 0, 0, 0.31)) == (
        b'{"end":{"reason":"completed","received":10,"ok":7,"failed":3,"filtered":0,"cancelled":0,"seconds":0.31}}\n'
    )


def test_the_end_record_of_a_run_that_broke_says_why() -> None:
    """A failed run has its error as the last field."""

    def broken() -> Any:
        yield 1
        raise OSError("cut")

    _, summary = lines_of(Flow("f"), broken())

    assert end_line(summary.end_record()).endswith(b',"error":"the source iterable failed: cut"}}\n')


def test_a_failure_without_key_and_store_has_neither() -> None:
    """No field is there for what there is not."""
    (line,), _ = lines_of(Flow("f").map(lambda _: 1 // 0, name="divide"), [5])

    assert line == (
        b'{"ok":false,"seq":0,"error":{"step":"divide","type":"ZeroDivisionError",'
        b'"message":"integer division or modulo by zero","attempts":1}}\n'
    )


def test_the_lines_of_parts_have_their_number() -> None:
    """`part` comes with the value, and between `seq` and the error."""

    def second_fails(value: int) -> int:
        return 1 // (1 - value)

    lines, _ = lines_of(Flow("f").flat_map(range).map(second_fails, name="m"), [2])

    assert sorted(lines, reverse=True)[0] == b'{"ok":true,"seq":0,"value":1,"part":0}\n'
    assert sorted(lines)[0].startswith(b'{"ok":false,"seq":0,"part":1,"error":{"step":"m",')


@pytest.mark.parametrize(
    "value",
    [object(), {"x": {1, object()}}, "\ud800", {"k": "\udfff"}],
    ids=["object", "object inside", "half a pair", "half a pair inside"],
)
def test_a_value_that_cannot_be_written_fails_alone(value: Any) -> None:
    """It fails at `encode`; those that travel with it are told as ever."""
    lines, summary = lines_of(Flow("f"), [1, value, 3])

    assert [msgspec.json.decode(line)["ok"] for line in lines] == [True, False, True]
    assert msgspec.json.decode(lines[1])["error"]["type"] == "EncodingFailed"
    assert (summary.ok, summary.failed) == (2, 1)


class Quotient(Struct):
    """A value that is no dict."""

    q: Any


@pytest.mark.parametrize("form", [NdjsonFormat(), ServerSentEvents()], ids=["ndjson", "events"])
@pytest.mark.parametrize("number", [nan, inf, -inf], ids=repr)
def test_a_number_that_json_cannot_hold_is_no_success(number: float, form: RecordFormat) -> None:
    """However deep it is, and in a batch as alone: it would be told as `null`. What is nothing stays so."""
    values = [{"q": None}, number, {"q": [{"r": number}, None]}, Quotient((1.5, number)), Quotient("null"), 2.5]
    written: list[bytes] = []

    async def write(data: bytes) -> None:
        written.append(data)

    async def main() -> Summary:
        return await Flow[Any]("f").start(from_iterable(values), LineWriter(write, form)).finished

    summary = quiet(main())
    assert (summary.ok, summary.failed) == (3, 3)
    assert b"".join(written).count(b"the value cannot be written as JSON: %r is not a number that JSON" % number) == 3
    assert b'"step":"encode","type":"EncodingFailed"' in b"".join(written)


def test_json_that_is_ready_made_is_told_as_it_is() -> None:
    """Nobody looks for numbers in it, whatever line breaks it has."""
    lines, summary = lines_of(Flow("f"), [{"a": msgspec.Raw(b"[null,\n1]")}, {"b": None}])
    assert summary.ok == 2
    assert b'"value":{"a":[null,' in lines[0]


@pytest.mark.parametrize("key", ["\ud800", 10**30, 1.5, None, [1], float("nan"), True], ids=repr)
def test_whatever_the_key_is_a_failure_can_be_told(key: Any) -> None:
    """A key that no line can hold does not break the run for the others."""
    lines, summary = lines_of(Flow("f", key="id").map(lambda _: 1 // 0), [{"id": key}, {"id": 1}])

    assert (len(lines), summary.reason, summary.failed) == (2, "completed", 2)


def test_a_message_is_cut_and_can_always_be_written() -> None:
    """Long ones end after 2000 characters; a lone surrogate becomes an escape."""

    async def complain(_: Any) -> Any:
        await asyncio.sleep(0)
        raise ValueError("\ud800" + "x" * 10_000)

    (line,), _ = lines_of(Flow("f").map_async(Service("s", complain, backoff=NONE)), [1])
    message = msgspec.json.decode(line)["error"]["message"]

    assert (message[:7], len(message)) == (r"\ud800x", 2005)
