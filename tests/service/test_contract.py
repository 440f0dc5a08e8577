"""The contract of `/NAME/bulk`: what goes in, what comes out, in which form."""

from __future__ import annotations

import asyncio
import gzip
import json
import re
import sys
import zlib
from collections.abc import AsyncIterator
from typing import Any

import pytest

from penstock.support.decompression import decompressed
from service.conftest import Serve
from service.processes import Process
from service.wire import NDJSON, Answer, orders

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

FLAGS = ("--max-body", 100_000, "--max-count", 500)


def ok(seq: int, id: int) -> dict[str, Any]:
    """The record of an order that made it."""
    return {
        "ok": True,
        "seq": seq,
        "value": {"orderId": id, "pricing": {"price": 1000 + id}, "inventory": {"inStock": True}},
    }


def failed(seq: int, id: int) -> dict[str, Any]:
    """The record of an order that the inventory could not answer for, without its letter."""
    error = {
        "step": "inventory",
        "type": "InventoryUnavailable",
        "message": "Inventory unavailable",
        "attempts": 2,
    }
    return {"ok": False, "seq": seq, "key": id, "error": error}


def counts(end: dict[str, Any]) -> tuple[int, ...]:
    """The numbers of an end record."""
    return tuple(end[name] for name in ("received", "ok", "failed", "filtered", "cancelled"))


def by_seq(answer: Answer) -> list[dict[str, Any]]:
    """The results in the order of the input."""
    return sorted(answer.results, key=lambda record: record["seq"])


def events(body: bytes) -> list[dict[str, str]]:
    """Server-sent events, each as its fields."""
    blocks = body.decode().split("\n\n")
    assert blocks.pop() == ""
    return [dict(line.split(": ", 1) for line in block.strip().splitlines()) for block in blocks]


def test_a_get_runs_sample_orders(server: Process) -> None:
    """`GET /orders/bulk?count=N` makes N sample orders, ids 1…N; a third of them fail."""
    answer = server.ask("GET", "/orders/bulk?count=10")
    records = by_seq(answer)
    letters = [record.pop("deadLetter") for record in records if not record["ok"]]
    assert (answer.status, answer.headers["content-type"]) == (200, NDJSON)
    assert records == [failed(id - 1, id) if id % 3 == 0 else ok(id - 1, id) for id in range(1, 11)]
    assert len(set(letters)) == 3
    assert answer.end.pop("seconds") > 0
    assert (answer.end["reason"], *counts(answer.end)) == ("completed", 10, 7, 3, 0, 0)


def test_a_get_without_a_count_makes_ten_orders(server: Process) -> None:
    """The count has a default."""
    assert server.ask("GET", "/orders/bulk").end["received"] == 10


def test_lines_come_back_with_what_they_had(server: Process) -> None:
    """Fields of an order that the flow does not know come back unchanged, whatever they are."""
    order = {"orderId": 7, "who": "Zoë 🙂", "deep": {"list": [1, None, 1.5, True]}, "": "", "pricing": "mine"}
    answer = server.post(order)
    assert answer.results == [ok(0, 7) | {"value": order | ok(0, 7)["value"]}]


def test_an_array_is_answered_like_lines(server: Process) -> None:
    """`application/json` takes an array of the same orders; one that is no order fails alone."""
    body = json.dumps([{"orderId": 1}, {"orderId": 3}, {"orderId": "x"}, 5]).encode()
    answer = server.ask("POST", "/orders/bulk", body, Content_Type="application/json; charset=utf-8")
    assert by_seq(answer)[0] == ok(0, 1)
    assert [record.get("error", {}).get("step") for record in by_seq(answer)] == [None, "inventory", "decode", "decode"]
    assert counts(answer.end) == (4, 1, 3, 0, 0)


@pytest.mark.parametrize("kind", ["application/ndjson", "application/jsonl", "Application/X-NDJSON; charset=utf-8"])
def test_ndjson_goes_by_several_names(server: Process, kind: str) -> None:
    """Its media type was never registered, so the usual names are the same."""
    assert server.post({"orderId": 1}, Content_Type=kind).end["ok"] == 1


def test_events_hold_the_same_records(server: Process) -> None:
    """`text/event-stream`: each result is an event with its seq as id, and the end record is an event too."""
    answer = server.ask("GET", "/orders/bulk?count=4&order=input", Accept="text/event-stream")
    assert answer.headers["content-type"] == "text/event-stream"
    opening, *found = events(answer.body)
    assert opening == {"retry": "10000", "id": "start"}
    assert [(event["event"], event.get("id")) for event in found] == [
        *(("result", str(seq)) for seq in range(4)),
        ("end", None),
    ]
    assert json.loads(found[0]["data"]) == ok(0, 1)
    assert json.loads(found[-1]["data"])["end"]["received"] == 4


def test_event_streams_open_with_an_id_before_the_first_result(serve: Serve) -> None:
    """A client that reconnects before the first result sends `Last-Event-ID` too, as it has received an id."""
    process = serve("--latency-scale", 1000)
    for encoding in ("identity", "gzip"):
        with process.connect() as client:
            client.request("GET", "/orders/bulk?count=1", Accept="text/event-stream", Accept_Encoding=encoding)
            answer = client.answer()
            assert next(answer.pieces()) == b"retry: 10000\nid: start\n\n"
            assert answer.headers.get("content-encoding", "identity") == encoding


@pytest.mark.parametrize("id", ["start", "3", "3.1"])
@pytest.mark.parametrize("accept", ["text/event-stream", NDJSON, "application/json"])
def test_a_get_with_last_event_id_starts_no_run(server: Process, id: str, accept: str) -> None:
    """204 makes an EventSource stop reconnecting, and no service is called a second time."""
    received, refused = (
        server.metric("penstock_received_total"),
        server.metric("penstock_http_rejected_total", reason="cannot_resume"),
    )
    answer = server.ask("GET", "/orders/bulk?count=3", Accept=accept, Last_Event_ID=id)
    assert (answer.status, answer.body, answer.headers.get("penstock-run")) == (204, b"", None)
    assert answer.headers["cache-control"] == "no-store"
    assert server.metric("penstock_received_total") == received
    assert server.metric("penstock_http_rejected_total", reason="cannot_resume") == refused + 1


def test_a_post_with_last_event_id_is_refused(server: Process) -> None:
    """Clients that reconnect with their body must not run it twice either."""
    answer = server.post({"orderId": 1}, Accept="text/event-stream", Last_Event_ID="0")
    assert (answer.status, answer.json()["code"]) == (409, "cannot_resume")


def test_an_empty_last_event_id_is_none(server: Process) -> None:
    """A client without an id does not send the header, or sends it empty: its run is its first."""
    assert server.ask("GET", "/orders/bulk?count=2", Last_Event_ID="").end["received"] == 2


@pytest.mark.parametrize(("count", "status"), [(2, 200), (3, 207)])
def test_an_answer_in_one_piece_tells_by_its_status_whether_all_went_well(
    server: Process, count: int, status: int
) -> None:
    """`application/json`: everything at once; 200, or 207 when any element failed."""
    answer = server.ask("GET", f"/orders/bulk?count={count}&order=input", Accept="application/json")
    document = answer.json()
    assert (answer.status, answer.headers["content-type"]) == (status, "application/json")
    assert document["results"][:2] == [ok(0, 1), ok(1, 2)]
    assert document["end"]["received"] == count


@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        ("*/*", NDJSON),
        ("application/*", NDJSON),
        ("text/*", "text/event-stream"),
        ("application/json;q=0.5, text/event-stream", "text/event-stream"),
        ("application/x-ndjson;q=0, */*;q=0.1", "text/event-stream"),
        ("application/jsonl", NDJSON),
        ("text/html, application/json;q=0.9", "application/json"),
        ("text/html\r\nAccept: application/json", "application/json"),
        ("application/x-ndjson;q=0.1, application/ndjson;q=0.9, application/json;q=0.5", NDJSON),
    ],
)
def test_the_form_follows_accept(server: Process, accept: str, kind: str) -> None:
    """The most wanted form wins; among equals the first of NDJSON, events, JSON."""
    assert server.ask("GET", "/orders/bulk?count=1", Accept=accept).headers["content-type"] == kind


def test_results_come_in_the_order_of_the_input_if_asked_for(server: Process) -> None:
    """`?order=input` keeps the order of arrival, failures in their places."""
    answer = server.post(*({"orderId": id} for id in range(1, 301)), query="?order=input")
    assert [record["seq"] for record in answer.results] == list(range(300))


def test_every_answer_names_its_run(server: Process) -> None:
    """The header `Penstock-Run` is the run's id in the log and in its dead letters."""
    answer = server.ask("GET", "/orders/bulk?count=3")
    run = answer.headers["penstock-run"]
    ended = server.event("run.ended", run=run)
    letters = server.ask("GET", f"/dead-letters?run={run}").json()["letters"]
    assert (ended["reason"], ended["received"], ended["failed"]) == ("completed", 3, 1)
    assert [letter["id"] for letter in letters] == [
        record["deadLetter"] for record in answer.results if not record["ok"]
    ]


RUBBISH = {
    "no JSON": (b"rubbish", "MalformedJson"),
    "half a document": (b'{"orderId":1', "MalformedJson"),
    "two documents": (b'{"orderId":1}{"orderId":2}', "MalformedJson"),
    "an empty object": (b"{}", "InvalidItem"),
    "an array": (b"[1]", "InvalidItem"),
    "null": (b"null", "InvalidItem"),
    "a number": (b"5", "InvalidItem"),
    "an id of the wrong type": (b'{"orderId":"1"}', "InvalidItem"),
    "an id that is no whole number": (b'{"orderId":1.5}', "InvalidItem"),
    "an id out of range": (b'{"orderId":0}', "InvalidItem"),
    "no UTF-8": (b'{"orderId":1,"a":"\xff\xfe"}', "MalformedJson"),
    "NUL bytes": (b"\0\0\0", "MalformedJson"),
    "a lone surrogate": (b'{"orderId":1,"a":"\\ud800"}', "MalformedJson"),
    "a bare number too large": (b'{"orderId":1e999}', "InvalidItem|MalformedJson"),
    "an enormous number": (b'{"orderId":' + b"9" * 5000 + b"}", "InvalidItem|MalformedJson"),
    "nested too deeply": (b'{"orderId":1,"a":' + b"[" * 40_000 + b"]" * 40_000 + b"}", "MalformedJson"),
    "UTF-16": ('{"orderId":1}'.encode("utf-16-le"), "MalformedJson"),
}


@pytest.mark.parametrize("name", RUBBISH)
def test_a_line_that_is_no_order_fails_alone(server: Process, name: str) -> None:
    """It is a failed element like any other, at step `decode`, with its bytes kept; its neighbours go on."""
    line, kind = RUBBISH[name]
    body = b'{"orderId":1}\n' + line + b'\n{"orderId":2}\n'
    answer = server.ask("POST", "/orders/bulk", body, Content_Type=NDJSON)
    good, bad, last = by_seq(answer)
    assert (good, last) == (ok(0, 1), ok(2, 2))
    assert bad["error"]["step"] == "decode"
    assert re.fullmatch(kind, bad["error"]["type"]), bad
    letter = server.ask("GET", f"/dead-letters/{bad['deadLetter']}").json()
    assert letter["input"]["size"] == len(line)


@pytest.mark.parametrize("name", sorted(set(RUBBISH) - {"half a document"}))
def test_an_item_of_an_array_that_is_no_order_fails_alone(server: Process, name: str) -> None:
    """As long as it can be told where it ends, what holds for a line holds for an item of an array."""
    item, kind = RUBBISH[name]
    body = b'[{"orderId":1,"a":"]\\\\","b":"\\""},' + item + b' , {"orderId":2}]\n'
    answer = server.ask("POST", "/orders/bulk", body, Content_Type="application/json")
    good, bad, last = by_seq(answer)
    assert (good["value"]["a"], good["value"]["b"], last) == ("]\\", '"', ok(2, 2))
    assert bad["error"]["step"] == "decode"
    assert re.fullmatch(kind, bad["error"]["type"]), bad
    letter = server.ask("GET", f"/dead-letters/{bad['deadLetter']}").json()
    assert letter["input"]["size"] == len(item)


@pytest.mark.parametrize(
    ("body", "ids"),
    [
        (b"", []),
        (b"\n\n \r\n\t\n", []),
        (b'{"orderId":1}', [1]),
        (b'{"orderId":1}\r\n{"orderId":2}\r\n', [1, 2]),
        (b'\xef\xbb\xbf{"orderId":1}\n', [1]),
        (b'\n\n{"orderId":1}\n\n{"orderId":2}\n\n', [1, 2]),
        (b'{"orderId":1,"orderId":2}\n', [2]),
    ],
    ids=["nothing", "blanks", "no newline", "CRLF", "BOM", "blank lines", "a key twice"],
)
def test_lines_may_end_as_they_like(server: Process, body: bytes, ids: list[int]) -> None:
    """Blank lines, CRLF, a byte order mark and a last line without its newline are no elements and no errors."""
    answer = server.ask("POST", "/orders/bulk", body, Content_Type=NDJSON)
    assert [record["value"]["orderId"] for record in by_seq(answer)] == ids
    assert answer.end["received"] == len(ids)


def test_an_empty_array_is_an_empty_run(server: Process) -> None:
    """Nothing in, nothing but the end record out."""
    answer = server.ask("POST", "/orders/bulk", b"[]", Content_Type="application/json", Accept="application/json")
    assert (answer.status, answer.json()["results"], answer.json()["end"]["received"]) == (200, [], 0)


PACK = {
    "gzip": gzip.compress,
    "deflate": zlib.compress,
    "zstd": zstd.compress,
    "identity": bytes,
    "gzip of two members": lambda body: gzip.compress(body[:20]) + gzip.compress(body[20:]),
    "zstd of two frames": lambda body: zstd.compress(body[:20]) + zstd.compress(body[20:]),
}


@pytest.mark.parametrize("name", PACK)
@pytest.mark.parametrize("kind", [NDJSON, "application/json"])
def test_bodies_may_be_compressed(server: Process, name: str, kind: str) -> None:
    """Lines and arrays may come as gzip, deflate or zstd, in one piece or several."""
    plain = orders(100) if kind == NDJSON else json.dumps([{"orderId": id} for id in range(1, 101)]).encode()
    answer = server.ask("POST", "/orders/bulk", PACK[name](plain), Content_Type=kind, Content_Encoding=name.split()[0])
    assert counts(answer.end) == (100, 67, 33, 0, 0)


def bare(body: bytes) -> bytes:
    """Deflate without zlib's header, as some clients send it."""
    packer = zlib.compressobj(6, zlib.DEFLATED, -zlib.MAX_WBITS)
    return packer.compress(body) + packer.flush()


@pytest.mark.parametrize("pack", [bare, zlib.compress, gzip.compress], ids=["bare", "deflate", "gzip"])
def test_a_body_that_unpacks_to_a_little_more_than_a_piece_is_whole(server: Process, pack: Any) -> None:
    """All input may be taken while the last lines are still inside the decompressor."""
    encoding = "gzip" if pack is gzip.compress else "deflate"
    long, short = b'{"orderId":7}'.ljust(279) + b"\n", b'{"orderId":7}\n'
    for more in range(5, 25):  # the fifth is the first that ends beyond a piece of 256 KiB
        count = 936 + more
        body = pack(long * 936 + short * more)
        answer = server.ask("POST", "/orders/bulk", body, Content_Type=NDJSON, Content_Encoding=encoding)
        assert counts(answer.end) == (count, count, 0, 0, 0)


BROKEN = [
    (kind, encoding, damage)
    for kind in (NDJSON, "application/json")
    for encoding in ("gzip", "zstd", "deflate")
    for damage in ("cut off", "changed", "no such thing")
]


@pytest.mark.parametrize(
    ("kind", "encoding", "damage"),
    BROKEN,
)
def test_a_body_that_cannot_be_decompressed_is_said_to_be_broken(
    server: Process, encoding: str, damage: str, kind: str
) -> None:
    """Before the stream begins it is a 400 or 415; in the middle, an end record that says `failed` and what broke."""
    plain = orders(2000, padding=20) if kind == NDJSON else json.dumps([{"orderId": id} for id in range(3000)]).encode()
    packed = PACK[encoding](plain)
    half = len(packed) // 2
    body = {"cut off": packed[:half], "changed": packed[:half] + bytes(100) + packed[half + 100 :]}.get(damage, plain)
    answer = server.ask("POST", "/orders/bulk", body, Content_Type=kind, Content_Encoding=encoding)
    if answer.status in (400, 415):
        assert answer.headers["content-type"] == "application/problem+json"
    else:
        assert (answer.status, kind) == (200, NDJSON)
        assert answer.end["reason"] == "failed"
        assert answer.end["error"]
        assert counts(answer.end)[0] == sum(counts(answer.end)[1:]) == len(answer.results)


def test_zstd_may_refer_back_as_far_as_http_has_it_and_no_further(server: Process) -> None:
    """Eight megabytes: each decoder holds as much, and a small body may ask for sixteen times more."""
    for reach, reason in ((23, "completed"), (27, "failed")):
        packer = zstd.ZstdCompressor(options={zstd.CompressionParameter.window_log: reach})
        body = packer.compress(orders(3)) + packer.flush()
        answer = server.ask("POST", "/orders/bulk", body, Content_Type=NDJSON, Content_Encoding="zstd")
        assert answer.end["reason"] == reason


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "zstd"])
def test_an_empty_body_is_an_empty_run_in_every_encoding(server: Process, encoding: str) -> None:
    """Nothing, compressed or not, holds no items."""
    answer = server.ask("POST", "/orders/bulk", b"", Content_Type=NDJSON, Content_Encoding=encoding)
    assert (answer.status, answer.end["reason"], answer.end["received"]) == (200, "completed", 0)


@pytest.mark.parametrize("step", [1, 7, 10_000])
def test_zero_bytes_behind_gzip_members_are_padding(step: int) -> None:
    """As in files (gzip and Python skip them too), wherever the chunks of the body are cut."""
    padded = gzip.compress(b"a\n") + bytes(600) + gzip.compress(b"b\n") + bytes(600)

    async def main() -> bytes:
        chunks = (padded[start : start + step] for start in range(0, len(padded), step))

        async def body() -> AsyncIterator[bytes]:
            for chunk in chunks:
                yield chunk

        return b"".join([piece async for piece in decompressed(body(), "gzip")])

    assert asyncio.run(main()) == b"a\nb\n"


@pytest.mark.parametrize("encoding", ["gzip", "zstd"])
def test_parts_that_hold_nothing_leave_others_their_turn(encoding: str) -> None:
    """A body of many empty members or frames is passed over a few at a time."""
    empty = gzip.compress(b"") if encoding == "gzip" else zstd.compress(b"")

    async def body() -> AsyncIterator[bytes]:
        yield empty * 5000
        yield PACK[encoding](b"the end")

    async def main() -> tuple[bytes, int]:
        turns = 0

        async def count() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        counting = asyncio.create_task(count())
        content = b"".join([piece async for piece in decompressed(body(), encoding)])
        counting.cancel()
        return content, turns

    content, turns = asyncio.run(main())
    assert content == b"the end"
    assert turns > 100


def test_a_compressed_answer_can_be_read_while_it_grows(server: Process) -> None:
    """gzip is flushed with every batch of results, not at the end."""
    with server.connect() as client:
        client.upload(Accept_Encoding="gzip")
        client.chunk(orders(2))
        answer = client.answer()
        assert answer.headers["content-encoding"] == "gzip"
        assert [answer.next()["ok"], answer.next()["ok"]] == [True, True]
        client.chunk(b"")
        assert answer.complete().end["ok"] == 2


@pytest.mark.parametrize(
    ("wish", "packed"),
    [
        ("gzip;q=0", False),
        ("GZIP; Q=0.000", False),
        ("gzipx", False),
        ("identity", False),
        ("br, gzip;q=0.5", True),
        ("br\r\nAccept-Encoding: gzip", True),
    ],
)
def test_answers_are_compressed_for_whom_it_suits(server: Process, wish: str, packed: bool) -> None:
    """`Accept-Encoding` decides, and its q=0 is a no."""
    answer = server.ask("GET", "/orders/bulk?count=2", Accept_Encoding=wish)
    assert ("content-encoding" in answer.headers) is packed
    assert answer.end["ok"] == 2
