"""Actions on dead letters over HTTP: groups, edits, parking, purging, export, import, and the failures of a run."""

from __future__ import annotations

import csv
import gzip
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from servers import NatsServer, new_name, running
from service.conftest import Serve
from service.processes import Process, serving, until
from service.test_redrives import FIXED, JSON, LETTERS, YAML, fail, send, states
from service.wire import NDJSON, orders

CSV = {"Accept": "text/csv"}
UNKNOWN = "01890000-0000-7000-8000-000000000000"


@pytest.fixture
def server(serve: Serve) -> Process:
    """A server for one test."""
    return serve()


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    """A server with ten dead letters of the inventory, and two of decode."""
    with serving(tmp_path_factory.mktemp("filled")) as process:
        fail(process, 10)
        process.request("POST", "/orders/bulk", b"rubbish \xff\n[1]\n", Content_Type=NDJSON)
        yield process


def first(server: Process, query: str = "") -> dict[str, Any]:
    """The first dead letter of a query."""
    letter: dict[str, Any] = server.request("GET", f"{LETTERS}?limit=1&{query}").json()["letters"][0]
    return letter


def test_groups_have_counts_and_a_total(filled: Process) -> None:
    """By page; each group with a sample that has it."""
    groups: list[dict[str, Any]] = []
    following: str | None = ""
    while following is not None:
        page = filled.request("GET", f"{LETTERS}/groups?limit=1" + (f"&after={following}" if following else "")).json()
        assert page["total"] == {"waiting": 12}
        groups += page["groups"]
        following = page["next"]
    assert {each["step"]: each["counts"] for each in groups if each["step"] == "inventory"} == {
        "inventory": {"waiting": 10}
    }
    assert sum(each["counts"]["waiting"] for each in groups) == 12
    for group in groups:
        sample = filled.request("GET", f"{LETTERS}/{group['sample']}").json()
        assert (sample["group"], sample["error"]["step"]) == (group["id"], group["step"])
    only = filled.request("GET", f"{LETTERS}/groups?step=inventory&state=parked").json()
    assert (only["groups"], only["total"]) == ([], {})


@pytest.mark.parametrize("query", ["key=3", "run=x", "since=2030-01-31", "until=2030-01-31", "id=" + UNKNOWN])
def test_groups_reject_filters_that_are_of_letters(filled: Process, query: str) -> None:
    """400: a group counts all its letters, so it would not have the counts of the filter."""
    response = filled.request("GET", f"{LETTERS}/groups?{query}")
    assert (response.status, response.json()["code"]) == (400, "bad_parameter")


def test_letters_are_counted_by_any_filter(filled: Process) -> None:
    """By state; without filters all."""
    assert filled.request("GET", f"{LETTERS}/count").json() == {"total": {"waiting": 12}}
    assert filled.request("GET", f"{LETTERS}/count?step=inventory&key=3").json() == {"total": {"waiting": 1}}
    assert filled.request("GET", f"{LETTERS}/count?state=parked").json() == {"total": {}}


@pytest.mark.parametrize(
    ("query", "count"),
    [("key=3", 1), ("key=%224%22", 0), ("key=nothing", 0), ("id={id}", 1), ("id={id}&id=" + UNKNOWN, 1)],
)
def test_letters_are_selected_by_key_group_and_ids(filled: Process, query: str, count: int) -> None:
    """A key is a number, or a text in quotes; ids may be repeated."""
    letter = first(filled, "step=inventory")
    query = query.replace("{id}", letter["id"])
    found = filled.request("GET", f"{LETTERS}?{query}&group={letter['group']}").json()["letters"]
    assert len(found) == count


@pytest.mark.parametrize(
    ("query", "name"),
    [
        ("id=x", "id"),
        ("key=1&key=2", "key"),
        ("state=ready", "state"),
        ("group=a&x=1", "'x'"),
        ("after=x", "after"),
        ("after=log:x", "after: expected the value of next from the previous page"),
        ("flow=%00", "flow"),
    ],
)
def test_an_invalid_filter_is_rejected(filled: Process, query: str, name: str) -> None:
    """400, with the name of the parameter."""
    response = filled.request("GET", f"{LETTERS}?{query}")
    assert (response.status, response.json()["code"]) == (400, "bad_parameter")
    assert name in response.json()["detail"]


def test_an_input_is_replaced_exactly(server: Process) -> None:
    """Numbers keep their digits; the old input stays in the history, with who changed it and why."""
    fail(server, 1)
    letter = first(server)
    path = f"{LETTERS}/{letter['id']}"
    text = '{"orderId": 12345678901234567890123, "amount": 0.10000000000000000001}'
    response = server.request("PATCH", path, b'{"reason": "typo", "input": %b}' % text.encode(), **JSON)
    assert response.status == 200
    edited = response.json()
    assert (edited["input"]["text"], edited["input"]["complete"]) == (text, True)
    (edit,) = edited["edits"]
    assert (edit["input"], edit["requester"], edit["reason"]) == ({"text": letter["input"]["text"]}, "local", "typo")
    assert server.request("GET", path).json() == edited
    assert send(server, "PATCH", path, {"inputText": '{"orderId": 4}'}).json()["input"]["text"] == '{"orderId": 4}'


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({}, 400, "invalid_body"),
        ({"input": 1, "inputText": "1"}, 400, "invalid_body"),
        ({"inputText": "{"}, 400, "invalid_body"),
        ({"inputText": 5}, 400, "invalid_body"),
        ({"inptu": 1}, 400, "invalid_body"),
    ],
)
def test_an_invalid_edit_is_rejected(filled: Process, body: Any, status: int, code: str) -> None:
    """And changes nothing."""
    letter = first(filled)
    response = send(filled, "PATCH", f"{LETTERS}/{letter['id']}", body)
    assert (response.status, response.json()["code"]) == (status, code)
    assert first(filled) == letter
    missing = send(filled, "PATCH", f"{LETTERS}/{UNKNOWN}", {"input": 1})
    assert (missing.status, missing.json()["code"]) == (404, "dead_letter_not_found")


def test_letters_are_parked_unparked_and_purged(server: Process) -> None:
    """Those that match; everything only if the body says so."""
    fail(server, 3)
    server.request("POST", "/orders/bulk", b"rubbish\n", Content_Type=NDJSON)
    query = {"query": {"step": "inventory"}, "reason": "later"}
    assert send(server, "POST", f"{LETTERS}/park", query).json() == {"count": 3}
    assert states(server) == {"waiting": 1, "parked": 3}
    assert send(
        server, "POST", f"{LETTERS}/unpark", {"query": {"ids": [first(server, "state=parked")["id"]]}}
    ).json() == {"count": 1}
    for action in ("park", "unpark", "purge"):
        refused = send(server, "POST", f"{LETTERS}/{action}", {"query": {}})
        assert (refused.status, refused.json()["code"]) == (400, "invalid_body")
        assert '{"all": true}' in refused.json()["detail"]
    assert send(server, "POST", f"{LETTERS}/purge", {"query": {"state": "parked"}}).json() == {"count": 2}
    assert send(server, "POST", f"{LETTERS}/purge", {"all": True}).json() == {"count": 2}
    assert states(server) == {}
    records = server.request("GET", f"{LETTERS}/audit").json()["records"]
    assert [(each["action"], each["count"]) for each in records] == [
        ("purge", 2),
        ("purge", 2),
        ("unpark", 1),
        ("park", 3),
    ]


def test_exported_letters_are_imported_again(server: Process) -> None:
    """Byte for byte, compressed or not; those that are stored already are skipped."""
    fail(server, 50)
    server.request("POST", "/orders/bulk", b"rubbish \xff\n", Content_Type=NDJSON)
    export = server.request("GET", f"{LETTERS}/export")
    assert (export.status, export.headers["content-type"], export.cut) == (200, NDJSON, False)
    assert [each["id"] for each in export.lines()] == sorted(each["id"] for each in export.lines())
    zipped = server.request("GET", f"{LETTERS}/export", Accept_Encoding="gzip")
    assert zipped.headers["content-encoding"] == "gzip"
    assert zipped.body == export.body
    assert len(server.request("GET", f"{LETTERS}/export?step=decode").lines()) == 1

    assert send(server, "POST", f"{LETTERS}/purge", {"all": True}).json() == {"count": 51}
    lines = export.body.splitlines(keepends=True)
    some = server.request("POST", f"{LETTERS}/import", b"".join(lines[:20]), Content_Type=NDJSON)
    assert some.json() == {"imported": 20, "skipped": 0}
    body = gzip.compress(export.body)
    all = server.request("POST", f"{LETTERS}/import?reason=back", body, Content_Type=NDJSON, Content_Encoding="gzip")
    assert all.json() == {"imported": 31, "skipped": 20}
    assert server.request("GET", f"{LETTERS}/export").body == export.body
    records = server.request("GET", f"{LETTERS}/audit").json()["records"]
    assert ("import", "back") in {(each["action"], each["reason"]) for each in records}


@pytest.mark.parametrize(
    ("line", "status", "message"),
    [
        (b"rubbish", 400, "line 2: not valid JSON"),
        (b"{}", 400, "line 2: not a dead letter: Object missing required field `id`"),
        (b"[]", 400, "line 2: not a dead letter"),
        (b'{"id": "\xff"}', 400, "line 2: not valid JSON: not UTF-8"),
        (b"[" * 100_000, 400, "line 2: not valid JSON"),
        (b'{"x": "' + b"x" * 9_000_000 + b'"}', 413, "line 2: has 9000009 bytes, the limit is"),
    ],
    ids=["no JSON", "fields", "array", "UTF-8", "nested", "large"],
)
def test_an_invalid_line_of_an_import_is_reported(filled: Process, line: bytes, status: int, message: str) -> None:
    """With its number. The lines before it may be imported; sending all of them again is safe."""
    good = filled.request("GET", f"{LETTERS}/export?step=decode").body.splitlines()[0]
    response = filled.request("POST", f"{LETTERS}/import", good + b"\n" + line + b"\n", Content_Type=NDJSON)
    assert (response.status, response.json()["line"]) == (status, 2)
    assert message in response.json()["detail"]
    assert states(filled) == {"waiting": 12}


def test_an_import_that_stalls_or_breaks_off_is_rejected(serve: Serve) -> None:
    """408 and 400. What was received may be stored; nothing is left open."""
    server = serve("--stall-timeout", 1)
    fail(server, 3)
    good = server.request("GET", f"{LETTERS}/export").body
    with server.connect() as client:
        client.upload(f"{LETTERS}/import")
        client.chunk(good)
        assert client.response().complete().json()["code"] == "stalled"
    broken = gzip.compress(good)[:-4]
    response = server.request("POST", f"{LETTERS}/import", broken, Content_Type=NDJSON, Content_Encoding="gzip")
    assert (response.status, response.json()["code"]) == (400, "body_decode_failed")


def test_an_export_that_is_not_read_is_cut(serve: Serve) -> None:
    """It waits for its reader in bounded memory; after the stall timeout the connection is cut, not ended."""
    server = serve("--stall-timeout", 2, "--max-line", 400_000)
    body = b"".join(b'{"orderId":%d,"note":"%b"}\n' % (3 * number, b"x" * 300_000) for number in range(1, 101))
    assert server.request("POST", "/orders/bulk", body, Content_Type=NDJSON).end["failed"] == 100
    before = server.rss()
    with server.connect(receive_buffer=4096) as client:
        client.request("GET", f"{LETTERS}/export")
        response = client.response()
        server.event("stream.cut")
        assert response.complete().cut
    assert server.rss() - before < 60
    assert server.request("GET", f"{LETTERS}/export").body.count(b"\n") == 100


MIXED = b"""{"orderId":3,"name":"a,\\"b\\"","price":1.50,"tags":["x"],"none":null}
{"orderId":6,"extra":12345678901234567890123}
{"orderId":7}
rubbish
"""


def test_the_failures_of_a_run_are_listed(server: Process) -> None:
    """As NDJSON with what the results had, and as CSV with all fields of the items as columns."""
    response = server.request("POST", "/orders/bulk", MIXED, Content_Type=NDJSON)
    run = response.headers["penstock-run"]
    failed = {each["seq"]: each for each in response.results if not each["ok"]}
    fail(server, 3)
    found = server.request("GET", f"/runs/{run}/failures")
    assert (found.status, found.headers["content-type"]) == (200, NDJSON)
    items = {each["seq"]: each for each in found.lines()}
    assert items.keys() == failed.keys() == {0, 1, 3}
    for seq, item in items.items():
        assert item["deadLetter"] == failed[seq]["deadLetter"]
        assert item["error"] == failed[seq]["error"] | {"cause": item["error"]["cause"]}
        assert item["input"]["text"] == MIXED.decode().splitlines()[seq]

    table = server.request("GET", f"/runs/{run.upper()}/failures", **CSV)
    assert table.headers["content-type"] == "text/csv; charset=utf-8; header=present"
    rows = {row["orderId"] or row["value"]: row for row in csv.DictReader(io.StringIO(table.body.decode()))}
    empty = dict.fromkeys(("orderId", "name", "price", "tags", "none", "extra", "value"), "")
    assert rows == {
        "3": empty | {"orderId": "3", "name": 'a,"b"', "price": "1.50", "tags": '["x"]'},
        "6": empty | {"orderId": "6", "extra": "12345678901234567890123"},
        "rubbish": empty | {"value": "rubbish"},
    }
    assert server.request("HEAD", f"/runs/{run}/failures", **CSV).status == 200


@pytest.mark.parametrize(("header", "row"), [("id,note", 'x,"a,b",1'), ("sep=;\nid;note", 'x;"a,b";1')])
def test_rows_that_could_not_be_read_have_the_columns_of_their_file(server: Process, header: str, row: str) -> None:
    """Whatever its delimiter. A cell beyond the columns stands at the end."""
    run = fail(server, 1)
    letter = server.request("GET", f"{LETTERS}/export").lines()[0]
    assert send(server, "POST", f"{LETTERS}/purge", {"all": True}).json() == {"count": 1}
    letter |= {"header": header, "input": {"text": row, "size": len(row), "complete": True}}
    sent = server.request("POST", f"{LETTERS}/import", json.dumps(letter).encode(), Content_Type=NDJSON)
    assert sent.json() == {"imported": 1, "skipped": 0}
    table = server.request("GET", f"/runs/{run}/failures", **CSV).body.decode()
    assert table.splitlines() == ["id,note", 'x,"a,b",1']


def test_failures_of_an_earlier_process_are_listed(tmp_path: Path) -> None:
    """Dead letters have the run."""
    with serving(tmp_path) as server:
        run = fail(server, 5)
    with serving(tmp_path) as server:
        table = server.request("GET", f"/runs/{run}/failures", **CSV).body.decode()
    assert table.splitlines() == ["orderId", "3", "6", "9", "12", "15"]


def test_a_run_without_dead_letters_is_a_404_unless_it_is_open(server: Process) -> None:
    """The ids of runs that have ended are not kept."""
    for run in (UNKNOWN, "nothing", "%00", server.post({"orderId": 1}).headers["penstock-run"]):
        response = server.request("GET", f"/runs/{run}/failures")
        assert (response.status, response.json()["code"]) == (404, "run_not_found")
    assert server.request("GET", f"/runs/{UNKNOWN}/failures", Accept="text/html").status == 406
    with server.connect() as client:
        client.upload()
        run = client.response().headers["penstock-run"]
        opened = server.request("GET", f"/runs/{run}/failures")
        assert (opened.status, opened.body) == (200, b"")
        client.chunk(orders(3))
        until(lambda: len(server.request("GET", f"/runs/{run}/failures").lines()) == 1)
        client.chunk(b"")


def test_failures_with_too_many_fields_are_not_sent_as_csv(server: Process) -> None:
    """The number of columns is bounded; NDJSON is not affected."""
    wide = json.dumps({"orderId": 3} | {f"f{number}": number for number in range(1200)}).encode()
    run = server.request("POST", "/orders/bulk", wide + b"\n", Content_Type=NDJSON).headers["penstock-run"]
    response = server.request("GET", f"/runs/{run}/failures", **CSV)
    assert (response.status, response.json()["code"]) == (406, "not_acceptable")
    assert len(server.request("GET", f"/runs/{run}/failures").lines()) == 1


def test_a_redrive_of_a_missing_flow_is_rejected(server: Process) -> None:
    """With the flows that are known. No job reserves the letters; they can be run through another flow."""
    server.request(
        "PUT", "/flows/extra", b"flow: extra\nkey: id\nsteps: [{fail: {when: 'true', reason: no}}]\n", **YAML
    )
    server.request("POST", "/extra/bulk", b'{"id":1}\n', Content_Type=NDJSON)
    server.request("DELETE", "/flows/extra")
    for options in ({}, {"flow": "nope"}):
        refused = send(server, "POST", f"{LETTERS}/redrives", {"query": {"flow": "extra"}, **options})
        assert (refused.status, refused.json()["code"]) == (409, "redrive_rejected")
        assert "is not loaded (loaded: orders)" in refused.json()["detail"]
    assert server.request("GET", f"{LETTERS}/redrives").json()["redrives"] == []
    assert send(server, "POST", f"{LETTERS}/redrives", {"query": {"flow": "extra"}, "flow": "orders"}).status == 201


def test_a_log_is_listed_exported_and_redriven(serve: Serve) -> None:
    """Everything else is a 501 that says what a log can do. The password in its URL is never shown."""
    nats = running(NatsServer)
    server = serve("--dead-letters", f"nats://me:s3cret@127.0.0.1:{nats.port}/{new_name()}")
    run = fail(server, 3)
    letters = server.request("GET", LETTERS).json()["letters"]
    assert len(letters) == 3
    assert len(server.request("GET", f"{LETTERS}/export").lines()) == 3
    assert len(server.request("GET", f"/runs/{run}/failures").lines()) == 3
    refused = [
        server.request("GET", f"{LETTERS}/groups"),
        server.request("GET", f"{LETTERS}/audit"),
        server.request("GET", f"{LETTERS}/redrives"),
        server.request("GET", f"{LETTERS}/{letters[0]['id']}"),
        send(server, "PATCH", f"{LETTERS}/{letters[0]['id']}", {"input": 1}),
        send(server, "POST", f"{LETTERS}/park", {"all": True}),
        send(server, "POST", f"{LETTERS}/purge", {"all": True}),
        send(server, "POST", f"{LETTERS}/redrives", {"all": True, "plan": True}),
    ]
    assert {(each.status, each.json()["code"]) for each in refused} == {(501, "not_supported_by_store")}
    assert all("because it is a log" in each.json()["detail"] for each in refused)
    server.request("PUT", "/flows/orders", FIXED, **YAML)
    redriven = send(server, "POST", f"{LETTERS}/redrives", {"all": True})
    assert (redriven.status, redriven.json()["resolved"]) == (200, 3)
    shown = [
        server.request("GET", path).body for path in ("/flows", "/flows/orders/graph", "/metrics", "/health/ready")
    ]
    assert not any(b"s3cret" in body for body in [*shown, *(each.body for each in refused)])
    assert "s3cret" not in json.dumps(server.events)
