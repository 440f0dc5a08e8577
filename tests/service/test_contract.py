"""`/NAME/bulk`: formats of requests and responses, results and end records."""

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
from service.wire import NDJSON, Response, orders

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

FLAGS = ("--max-body", 100_000, "--max-count", 500)


def ok(seq: int, id: int) -> dict[str, Any]:
    """The record of an order that succeeded."""
    return {
        "ok": True,
        "seq": seq,
        "value": {"orderId": id, "pricing": {"price": 1000 + id}, "inventory": {"inStock": True}},
    }


def failed(seq: int, id: int) -> dict[str, Any]:
    """The record of an order that failed in the inventory, without its dead letter."""
    error = {
        "step": "inventory",
        "type": "InventoryUnavailable",
        "message": "Inventory unavailable",
        "attempts": 2,
    }
    return {"ok": False, "seq": seq, "key": id, "error": error}


def counts(end: dict[str, Any]) -> tuple[int, ...]:
    """The counts of an end record."""
    return tuple(end[name] for name in ("received", "ok", "failed", "filtered", "cancelled"))


def by_seq(response: Response) -> list[dict[str, Any]]:
    """The results in the order of the input."""
    return sorted(response.results, key=lambda record: record["seq"])


def events(body: bytes) -> list[dict[str, str]]:
    """The server-sent events of a body, each as a dict of its fields."""
    blocks = body.decode().split("\n\n")
    assert blocks.pop() == ""
    return [dict(line.split(": ", 1) for line in block.strip().splitlines()) for block in blocks]


def test_a_get_runs_sample_orders(server: Process) -> None:
    """`GET /orders/bulk?count=N` runs N sample orders with ids 1 to N; a third of them fail."""
    response = server.request("GET", "/orders/bulk?count=10")
    records = by_seq(response)
    letters = [record.pop("deadLetter") for record in records if not record["ok"]]
    assert (response.status, response.headers["content-type"]) == (200, NDJSON)
    assert records == [failed(id - 1, id) if id % 3 == 0 else ok(id - 1, id) for id in range(1, 11)]
    assert len(set(letters)) == 3
    assert response.end.pop("seconds") > 0
    assert (response.end["reason"], *counts(response.end)) == ("completed", 10, 7, 3, 0, 0)


def test_a_get_without_count_runs_ten_orders(server: Process) -> None:
    """The default of `count` is 10."""
    assert server.request("GET", "/orders/bulk").end["received"] == 10


def test_unknown_fields_are_returned_unchanged(server: Process) -> None:
    """Fields of an order that the flow does not know are part of the result."""
    order = {"orderId": 7, "who": "Zoë 🙂", "deep": {"list": [1, None, 1.5, True]}, "": "", "pricing": "mine"}
    response = server.post(order)
    assert response.results == [ok(0, 7) | {"value": order | ok(0, 7)["value"]}]


def test_an_array_gives_the_same_results_as_lines(server: Process) -> None:
    """`application/json` takes an array of orders; an invalid item fails alone."""
    body = json.dumps([{"orderId": 1}, {"orderId": 3}, {"orderId": "x"}, 5]).encode()
    response = server.request("POST", "/orders/bulk", body, Content_Type="application/json; charset=utf-8")
    assert by_seq(response)[0] == ok(0, 1)
    assert [record.get("error", {}).get("step") for record in by_seq(response)] == [
        None,
        "inventory",
        "decode",
        "decode",
    ]
    assert counts(response.end) == (4, 1, 3, 0, 0)


@pytest.mark.parametrize("kind", ["application/ndjson", "application/jsonl", "Application/X-NDJSON; charset=utf-8"])
def test_ndjson_has_several_media_types(server: Process, kind: str) -> None:
    """NDJSON has no registered media type, so the common ones are synonyms."""
    assert server.post({"orderId": 1}, Content_Type=kind).end["ok"] == 1


def test_server_sent_events_have_the_same_records(server: Process) -> None:
    """Each result is an event whose id is its seq, and the end record is an event too."""
    response = server.request("GET", "/orders/bulk?count=4&order=input", Accept="text/event-stream")
    assert response.headers["content-type"] == "text/event-stream"
    opening, *found = events(response.body)
    assert opening == {"retry": "10000", "id": "start"}
    assert [(event["event"], event.get("id")) for event in found] == [
        *(("result", str(seq)) for seq in range(4)),
        ("end", None),
    ]
    assert json.loads(found[0]["data"]) == ok(0, 1)
    assert json.loads(found[-1]["data"])["end"]["received"] == 4


def test_an_event_stream_starts_with_an_id(serve: Serve) -> None:
    """So a client that reconnects before the first result sends `Last-Event-ID`."""
    process = serve("--latency-scale", 1000)
    for encoding in ("identity", "gzip"):
        with process.connect() as client:
            client.request("GET", "/orders/bulk?count=1", Accept="text/event-stream", Accept_Encoding=encoding)
            response = client.response()
            assert next(response.chunks()) == b"retry: 10000\nid: start\n\n"
            assert response.headers.get("content-encoding", "identity") == encoding


@pytest.mark.parametrize("id", ["start", "3", "3.1"])
@pytest.mark.parametrize("accept", ["text/event-stream", NDJSON, "application/json"])
def test_a_get_with_last_event_id_starts_no_run(server: Process, id: str, accept: str) -> None:
    """204 makes an EventSource stop reconnecting, and no service is called a second time."""
    received, rejected = (
        server.metric("penstock_received_total"),
        server.metric("penstock_http_rejected_total", reason="cannot_resume"),
    )
    response = server.request("GET", "/orders/bulk?count=3", Accept=accept, Last_Event_ID=id)
    assert (response.status, response.body, response.headers.get("penstock-run")) == (204, b"", None)
    assert response.headers["cache-control"] == "no-store"
    assert server.metric("penstock_received_total") == received
    assert server.metric("penstock_http_rejected_total", reason="cannot_resume") == rejected + 1


def test_a_post_with_last_event_id_is_rejected(server: Process) -> None:
    """A client that reconnects with its body must not run it twice."""
    response = server.post({"orderId": 1}, Accept="text/event-stream", Last_Event_ID="0")
    assert (response.status, response.json()["code"]) == (409, "cannot_resume")


def test_an_empty_last_event_id_is_ignored(server: Process) -> None:
    """A client that has no id yet may send the header empty."""
    assert server.request("GET", "/orders/bulk?count=2", Last_Event_ID="").end["received"] == 2


@pytest.mark.parametrize(("count", "status"), [(2, 200), (3, 207)])
def test_the_status_of_a_document_is_207_if_an_item_failed(server: Process, count: int, status: int) -> None:
    """`Accept: application/json` returns all results in one document: with 200, or 207 if an item failed."""
    response = server.request("GET", f"/orders/bulk?count={count}&order=input", Accept="application/json")
    document = response.json()
    assert (response.status, response.headers["content-type"]) == (status, "application/json")
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
def test_accept_selects_the_media_type(server: Process, accept: str, kind: str) -> None:
    """The highest quality wins; among equals the first of NDJSON, events, JSON."""
    assert server.request("GET", "/orders/bulk?count=1", Accept=accept).headers["content-type"] == kind


def test_order_input_returns_results_in_the_order_of_the_input(server: Process) -> None:
    """Failures keep their position."""
    response = server.post(*({"orderId": id} for id in range(1, 301)), query="?order=input")
    assert [record["seq"] for record in response.results] == list(range(300))


def test_order_key_returns_results_with_the_same_key_in_input_order(server: Process) -> None:
    """All results are there, failures included."""
    response = server.post(*({"orderId": id % 7} for id in range(1, 301)), query="?order=key")
    by_key: dict[int, list[int]] = {}
    for record in response.results:
        by_key.setdefault((record["seq"] + 1) % 7, []).append(record["seq"])
    assert len(response.results) == 300
    assert [seqs for seqs in by_key.values() if seqs != sorted(seqs)] == []


def test_the_header_penstock_run_identifies_the_run(server: Process) -> None:
    """The log and dead letters have the same id."""
    response = server.request("GET", "/orders/bulk?count=3")
    run = response.headers["penstock-run"]
    ended = server.event("run.ended", run=run)
    letters = server.request("GET", f"/dead-letters?run={run}").json()["letters"]
    assert (ended["reason"], ended["received"], ended["failed"]) == ("completed", 3, 1)
    assert [letter["id"] for letter in letters] == [
        record["deadLetter"] for record in response.results if not record["ok"]
    ]


INVALID_ITEMS = {
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


@pytest.mark.parametrize("name", INVALID_ITEMS)
def test_an_invalid_line_fails_alone(server: Process, name: str) -> None:
    """It fails in step `decode`, its bytes are stored, and the other lines are not affected."""
    line, kind = INVALID_ITEMS[name]
    body = b'{"orderId":1}\n' + line + b'\n{"orderId":2}\n'
    response = server.request("POST", "/orders/bulk", body, Content_Type=NDJSON)
    good, bad, last = by_seq(response)
    assert (good, last) == (ok(0, 1), ok(2, 2))
    assert bad["error"]["step"] == "decode"
    assert re.fullmatch(kind, bad["error"]["type"]), bad
    letter = server.request("GET", f"/dead-letters/{bad['deadLetter']}").json()
    assert letter["input"]["size"] == len(line)


@pytest.mark.parametrize("name", sorted(set(INVALID_ITEMS) - {"half a document"}))
def test_an_invalid_item_of_an_array_fails_alone(server: Process, name: str) -> None:
    """As long as it is clear where the item ends."""
    item, kind = INVALID_ITEMS[name]
    body = b'[{"orderId":1,"a":"]\\\\","b":"\\""},' + item + b' , {"orderId":2}]\n'
    response = server.request("POST", "/orders/bulk", body, Content_Type="application/json")
    good, bad, last = by_seq(response)
    assert (good["value"]["a"], good["value"]["b"], last) == ("]\\", '"', ok(2, 2))
    assert bad["error"]["step"] == "decode"
    assert re.fullmatch(kind, bad["error"]["type"]), bad
    letter = server.request("GET", f"/dead-letters/{bad['deadLetter']}").json()
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
def test_line_ends_and_blank_lines_are_flexible(server: Process, body: bytes, ids: list[int]) -> None:
    """Blank lines, CRLF, a byte order mark and a missing last newline are neither items nor errors."""
    response = server.request("POST", "/orders/bulk", body, Content_Type=NDJSON)
    assert [record["value"]["orderId"] for record in by_seq(response)] == ids
    assert response.end["received"] == len(ids)


def test_an_empty_array_is_an_empty_run(server: Process) -> None:
    """The response is only the end record."""
    response = server.request("POST", "/orders/bulk", b"[]", Content_Type="application/json", Accept="application/json")
    assert (response.status, response.json()["results"], response.json()["end"]["received"]) == (200, [], 0)


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
def test_bodies_can_be_compressed(server: Process, name: str, kind: str) -> None:
    """With gzip, deflate or zstd, in one member or several."""
    plain = orders(100) if kind == NDJSON else json.dumps([{"orderId": id} for id in range(1, 101)]).encode()
    response = server.request(
        "POST", "/orders/bulk", PACK[name](plain), Content_Type=kind, Content_Encoding=name.split()[0]
    )
    assert counts(response.end) == (100, 67, 33, 0, 0)


def bare(body: bytes) -> bytes:
    """Deflate without the zlib header, as some clients send it."""
    packer = zlib.compressobj(6, zlib.DEFLATED, -zlib.MAX_WBITS)
    return packer.compress(body) + packer.flush()


@pytest.mark.parametrize("pack", [bare, zlib.compress, gzip.compress], ids=["bare", "deflate", "gzip"])
def test_a_body_that_decompresses_to_little_more_than_a_chunk_is_complete(server: Process, pack: Any) -> None:
    """The decompressor may still hold the last lines when it has read all input."""
    encoding = "gzip" if pack is gzip.compress else "deflate"
    long, short = b'{"orderId":7}'.ljust(279) + b"\n", b'{"orderId":7}\n'
    for more in range(5, 25):  # the fifth is the first that ends beyond a piece of 256 KiB
        count = 936 + more
        body = pack(long * 936 + short * more)
        response = server.request("POST", "/orders/bulk", body, Content_Type=NDJSON, Content_Encoding=encoding)
        assert counts(response.end) == (count, count, 0, 0, 0)


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
def test_a_body_that_cannot_be_decompressed_is_an_error(server: Process, encoding: str, damage: str, kind: str) -> None:
    """Before the stream starts it is a 400 or 415; later the end record says `failed`, with the error."""
    plain = orders(2000, padding=20) if kind == NDJSON else json.dumps([{"orderId": id} for id in range(3000)]).encode()
    packed = PACK[encoding](plain)
    half = len(packed) // 2
    body = {"cut off": packed[:half], "changed": packed[:half] + bytes(100) + packed[half + 100 :]}.get(damage, plain)
    response = server.request("POST", "/orders/bulk", body, Content_Type=kind, Content_Encoding=encoding)
    if response.status in (400, 415):
        assert response.headers["content-type"] == "application/problem+json"
    else:
        assert (response.status, kind) == (200, NDJSON)
        assert response.end["reason"] == "failed"
        assert response.end["error"]
        assert counts(response.end)[0] == sum(counts(response.end)[1:]) == len(response.results)


def test_zstd_windows_are_limited_to_8_megabytes(server: Process) -> None:
    """RFC 9659. A decoder allocates its window, and a small body may ask for sixteen times as much."""
    for reach, reason in ((23, "completed"), (27, "failed")):
        packer = zstd.ZstdCompressor(options={zstd.CompressionParameter.window_log: reach})
        body = packer.compress(orders(3)) + packer.flush()
        response = server.request("POST", "/orders/bulk", body, Content_Type=NDJSON, Content_Encoding="zstd")
        assert response.end["reason"] == reason


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "zstd"])
def test_an_empty_body_is_an_empty_run_in_every_encoding(server: Process, encoding: str) -> None:
    """An empty body has no items, compressed or not."""
    response = server.request("POST", "/orders/bulk", b"", Content_Type=NDJSON, Content_Encoding=encoding)
    assert (response.status, response.end["reason"], response.end["received"]) == (200, "completed", 0)


@pytest.mark.parametrize("step", [1, 7, 10_000])
def test_zero_bytes_after_gzip_members_are_ignored(step: int) -> None:
    """As gzip and Python do for files, wherever the body is split into chunks."""
    padded = gzip.compress(b"a\n") + bytes(600) + gzip.compress(b"b\n") + bytes(600)

    async def main() -> bytes:
        chunks = (padded[start : start + step] for start in range(0, len(padded), step))

        async def body() -> AsyncIterator[bytes]:
            for chunk in chunks:
                yield chunk

        return b"".join([piece async for piece in decompressed(body(), "gzip")])

    assert asyncio.run(main()) == b"a\nb\n"


@pytest.mark.parametrize("encoding", ["gzip", "zstd"])
def test_empty_compressed_members_do_not_block_the_event_loop(encoding: str) -> None:
    """A body of many empty members or frames is skipped a few at a time."""
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


def test_a_compressed_response_can_be_read_while_it_is_sent(server: Process) -> None:
    """gzip is flushed with every batch of results."""
    with server.connect() as client:
        client.upload(Accept_Encoding="gzip")
        client.chunk(orders(2))
        response = client.response()
        assert response.headers["content-encoding"] == "gzip"
        assert [response.next()["ok"], response.next()["ok"]] == [True, True]
        client.chunk(b"")
        assert response.complete().end["ok"] == 2


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
def test_accept_encoding_selects_compression(server: Process, wish: str, packed: bool) -> None:
    """A quality of 0 disables it."""
    response = server.request("GET", "/orders/bulk?count=2", Accept_Encoding=wish)
    assert ("content-encoding" in response.headers) is packed
    assert response.end["ok"] == 2
