"""Redrives over HTTP: created, followed, changed and cancelled, beside bulk streams, with scopes and an audit."""

from __future__ import annotations

import json
import signal
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

import forking
from penstock.tokens import SCOPES
from service.conftest import Serve
from service.processes import Process, serving, until
from service.wire import NDJSON, Client, Response, orders
from stores.letters import expire_leases
from waiting import HANG_SECONDS

LETTERS = "/dead-letters"
REDRIVES = "/dead-letters/redrives"
JSON = {"Content_Type": "application/json"}
SSE = {"Accept": "text/event-stream"}
YAML = {"Content_Type": "application/yaml"}

FIXED = b"""flow: orders
key: orderId
item: {orderId: {type: integer, minimum: 1}}
"""
"""A revision of the flow in which nothing fails."""

BROKEN = FIXED + b"steps:\n  - fail: {when: orderId % 2 == 0, reason: even}\n"
"""A revision in which every second order fails again."""


def send(server: Process, method: str, path: str, body: Any, **headers: str) -> Response:
    """Send a JSON document."""
    return server.request(method, path, json.dumps(body).encode(), **JSON | headers)


def fail(server: Process, count: int, start: int = 1) -> str:
    """Send orders, of which every third fails in the inventory. Returns the id of the run."""
    response = server.request("POST", "/orders/bulk", orders(3 * count, start), Content_Type=NDJSON)
    assert response.end["failed"] == count
    return response.headers["penstock-run"]


def redrive(server: Process, **body: Any) -> dict[str, Any]:
    """Create a redrive, and return it."""
    response = send(server, "POST", REDRIVES, body)
    assert response.status == 201, response.body
    job: dict[str, Any] = response.json()
    assert response.headers["location"] == f"{REDRIVES}/{job['id']}"
    return job


def job_of(server: Process, id: str) -> dict[str, Any]:
    """A redrive as it is now."""
    job: dict[str, Any] = server.request("GET", f"{REDRIVES}/{id}").json()
    return job


def events(client: Client, id: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Follow a redrive. Yields the events, and ends with the stream."""
    client.request("GET", f"{REDRIVES}/{id}", **SSE)
    response = client.response()
    assert (response.status, response.headers["content-type"]) == (200, "text/event-stream")
    name = ""
    for line in response.raw_lines():
        field, _, value = line.partition(b": ")
        if field == b"event":
            name = value.decode()
        elif field == b"data":
            yield name, json.loads(value)


def follow(server: Process, id: str) -> list[tuple[str, dict[str, Any]]]:
    """All events of a redrive."""
    with server.connect() as client:
        return list(events(client, id))


def states(server: Process, **filters: str) -> dict[str, int]:
    """The number of dead letters by state."""
    query = "&".join(f"{name}={value}" for name, value in filters.items())
    total: dict[str, int] = server.request("GET", f"{LETTERS}/count?{query}").json()["total"]
    return total


@pytest.fixture
def server(serve: Serve) -> Process:
    """A server for one test."""
    return serve()


def test_a_redrive_resolves_letters_with_the_current_revision(server: Process) -> None:
    """Its progress is followed to the end; each letter has the attempt, and the audit who created it and why."""
    run = fail(server, 40)
    assert server.request("PUT", "/flows/orders", FIXED, **YAML).status == 200
    job = redrive(server, query={"run": run}, canary=[1, 5], stopAt=0.2, reason="inventory is back")
    seen = follow(server, job["id"])
    assert [name for name, _ in seen] == ["progress"] * (len(seen) - 1) + ["end"]
    ended = seen[-1][1]
    assert (ended["state"], ended["requester"], ended["reason"]) == ("completed", "local", "inventory is back")
    assert ended["counts"] == {"total": 40, "resolved": 40, "failed": 0, "skipped": 0, "open": 0}
    assert [batch["total"] for batch in ended["batches"]] == [1, 5, 34]
    assert ended == job_of(server, job["id"])
    assert states(server, run=run) == {"resolved": 40}
    letter = server.request("GET", f"{LETTERS}?run={run}&limit=1").json()["letters"][0]
    (attempt,) = server.request("GET", f"{LETTERS}/{letter['id']}").json()["attempts"]
    assert (attempt["job"], attempt["outcome"], attempt["requester"]) == (job["id"], "resolved", "local")
    *_, record = server.request("GET", f"{LETTERS}/audit?job={job['id']}").json()["records"]
    assert (record["action"], record["reason"], record["count"]) == ("redrive", "inventory is back", 40)
    assert server.metric("penstock_dead_letters_redriven_total", flow="orders", result="resolved") == 40
    assert server.metric("penstock_redrives_total", state="completed") == 1


@pytest.mark.long
def test_a_canary_batch_stops_a_redrive_that_fails_again(server: Process) -> None:
    """It says why, and can be resumed. No letter is written twice."""
    run = fail(server, 40)
    job = redrive(server, query={"run": run}, canary=[4], stopAt=0.5)
    ended = follow(server, job["id"])[-1][1]
    assert (ended["state"], ended["counts"]["failed"], ended["counts"]["open"]) == ("stopped", 4, 36)
    assert "4 of 4 letters of batch 1 failed again" in ended["message"]
    until(lambda: server.metric("penstock_redrives_open", state="stopped") == 1, timeout=30, period=0.1)
    server.request("PUT", "/flows/orders", FIXED, **YAML)
    assert send(server, "PATCH", f"{REDRIVES}/{job['id']}", {"state": "running"}).status == 200
    ended = follow(server, job["id"])[-1][1]
    assert (ended["state"], ended["counts"]["resolved"]) == ("completed", 36)
    assert states(server, run=run) == {"resolved": 36, "waiting": 4}


def test_a_redrive_is_paused_resumed_accelerated_and_cancelled(server: Process) -> None:
    """What is in flight is finished; nothing is left claimed."""
    run = fail(server, 60)
    job = redrive(server, query={"run": run}, rate=20)
    path = f"{REDRIVES}/{job['id']}"
    with server.connect() as client:
        stream = events(client, job["id"])
        next(each for _, each in stream if each["counts"]["failed"])
        assert send(server, "PATCH", path, {"state": "paused", "reason": "lunch"}).json()["state"] == "paused"
        assert list(stream)[-1][0] == "end"
    until(lambda: "claimed" not in states(server, run=run))
    paused = job_of(server, job["id"])
    assert (paused["state"], paused["counts"]["total"]) == ("paused", 60)
    assert 0 < paused["counts"]["open"] < 60
    resumed = send(server, "PATCH", path, {"state": "running", "rate": 1}).json()
    assert (resumed["state"], resumed["options"]["rate"]) == ("running", 1)
    assert send(server, "PATCH", path, {"rate": None}).json()["options"]["rate"] is None
    assert follow(server, job["id"])[-1][1]["counts"]["failed"] == 60

    job = redrive(server, query={"run": run}, rate=1)
    cancelled = send(server, "PATCH", f"{REDRIVES}/{job['id']}", {"state": "cancelled"}).json()
    assert cancelled["state"] == "cancelled"
    until(lambda: states(server, run=run) == {"waiting": 60})
    records = server.request("GET", f"{LETTERS}/audit").json()["records"]
    assert {each["action"] for each in records} == {"cancel", "redrive", "rate", "resume", "pause"}
    assert [each["reason"] for each in records if each["action"] == "pause"] == ["lunch"]


def test_redrives_are_listed_by_page_and_state(server: Process) -> None:
    """Newest first."""
    for start in (1, 301, 601):
        redrive(server, query={"run": fail(server, 2, start)})
        until(lambda: not server.request("GET", f"{REDRIVES}?state=running").json()["redrives"])
    ids: list[str] = []
    following: str | None = ""
    while following is not None:
        page = server.request("GET", f"{REDRIVES}?limit=2" + (f"&after={following}" if following else "")).json()
        ids += [each["id"] for each in page["redrives"]]
        following = page["next"]
    assert (len(ids), ids) == (3, sorted(ids, reverse=True))
    assert server.request("GET", f"{REDRIVES}?state=ready").json()["code"] == "bad_parameter"


def test_a_redrive_that_cannot_be_created_or_changed_is_rejected(server: Process) -> None:
    """Each reason has a status, a code, and a detail that says what to do."""
    run = fail(server, 5)
    other = "01890000-0000-7000-8000-000000000000"
    first = redrive(server, query={"run": run}, rate=0.1)
    found = [
        send(server, "POST", REDRIVES, {"query": {"run": run}}),
        send(server, "POST", REDRIVES, {"query": {"run": other}}),
        send(server, "PATCH", f"{REDRIVES}/{other}", {"state": "paused"}),
        server.request("GET", f"{REDRIVES}/{other}"),
        server.request("GET", f"{REDRIVES}/{other}", **SSE),
        server.request("GET", f"{REDRIVES}/{first['id']}", Accept="text/html"),
    ]
    expected = [
        (409, "job_conflict"),
        (404, "no_letters"),
        (404, "job_not_found"),
        (404, "job_not_found"),
        (404, "job_not_found"),
        (406, "not_acceptable"),
    ]
    assert [(each.status, each.json()["code"]) for each in found] == expected
    assert first["id"] in found[0].json()["detail"]
    send(server, "PATCH", f"{REDRIVES}/{first['id']}", {"state": "cancelled"})
    ended = send(server, "PATCH", f"{REDRIVES}/{first['id']}", {"state": "running"})
    assert (ended.status, ended.json()["code"]) == (409, "job_ended")


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        ('{"query": {"flow": "a\\u0000"}}', 400, "query: contains the character NUL"),
        ('{"reason": "\\u0000"}', 400, "reason: contains the character NUL"),
        ('{"query": {}, "canery": [1]}', 400, "unknown field 'canery'; did you mean 'canary'?"),
        ('{"query": {"flo": "orders"}}', 400, "did you mean 'flow'?"),
        ('{"query": {"state": "ready"}}', 400, "expected one of waiting"),
        ('{"query": {"since": "yesterday"}}', 400, "since: expected a time"),
        ('{"query": []}', 400, "query: expected an object"),
        (json.dumps({"query": {"ids": ["x"] * 10_001}}), 400, "ids: expected at most 10000 ids, got 10001"),
        ('{"canary": [0]}', 400, "canary: expected numbers of letters >= 1"),
        ('{"canary": "1,5"}', 400, "canary"),
        ('{"stopAt": 20}', 400, "stopAt: expected a fraction from 0 to 1"),
        ('{"rate": 0}', 400, "rate: expected"),
        ('{"rate": 1e400}', 400, "rate: number out of range"),
        ('{"limit": 0}', 400, "limit: expected"),
        ('{"try": 1000}', 400, "try: expected a number of dead letters from 1 to 20"),
        ('{"try": 0}', 400, "try: expected"),
        ('{"plan": true, "try": 1}', 400, "expected only one of them"),
        ('{"plan": "yes"}', 400, "plan: expected true or false"),
        ('{"reason": 5}', 400, "reason: expected a text"),
        ('{"reason": "' + "x" * 2000 + '"}', 400, "reason: expected at most 1000 characters"),
        ("{}", 400, 'query: expected at least one condition; for all dead letters: {"all": true}'),
        ('{"query": {}, "all": false}', 400, "query: expected at least one condition"),
        ('{"all": "yes"}', 400, "all: expected true or false"),
        ("[]", 400, "the body: expected an object"),
        ("{", 400, "not valid JSON"),
        ('{"query": ' + "[" * 20_000 + "]" * 20_000 + "}", 400, ""),
        ('{"query": {"flow": "\xff"}}', 400, "not UTF-8"),
        ('{"reason": "' + "x" * 3_000_000 + '"}', 413, "at most 2097152 bytes"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_an_invalid_body_is_rejected(shared: Process, body: str, status: int, message: str) -> None:
    """With the name of the field. Nothing is created."""
    response = shared.request("POST", REDRIVES, body.encode("latin-1"), **JSON)
    assert (response.status, response.headers["content-type"]) == (status, "application/problem+json")
    assert message in response.json()["detail"]
    assert shared.request("GET", REDRIVES).json()["redrives"] == []


def test_a_body_of_another_type_is_rejected(shared: Process) -> None:
    """A form of a web page cannot send JSON."""
    for headers in ({}, {"Content_Type": "text/plain"}, {"Content_Type": NDJSON}, JSON | {"Content_Encoding": "gzip"}):
        response = shared.request("POST", REDRIVES, b'{"query": {}}', **headers)
        assert response.status == 415


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    """A server without dead letters."""
    with serving(tmp_path_factory.mktemp("shared")) as process:
        yield process


OPERATIONS = {
    ("GET", LETTERS): "read",
    ("GET", f"{LETTERS}/groups"): "read",
    ("GET", f"{LETTERS}/count"): "read",
    ("GET", f"{LETTERS}/export"): "read",
    ("GET", f"{LETTERS}/audit"): "read",
    ("GET", f"{LETTERS}/x"): "read",
    ("GET", REDRIVES): "read",
    ("GET", f"{REDRIVES}/x"): "read",
    ("GET", "/runs/x/failures"): "read",
    ("POST", REDRIVES): "redrive",
    ("PATCH", f"{REDRIVES}/x"): "redrive",
    ("POST", f"{LETTERS}/park"): "edit",
    ("POST", f"{LETTERS}/unpark"): "edit",
    ("POST", f"{LETTERS}/import"): "edit",
    ("POST", f"{LETTERS}/purge"): "purge",
    ("PUT", "/flows/x"): "flows",
    ("DELETE", "/flows/x"): "flows",
}


def test_each_operation_needs_its_scope(serve: Serve, tmp_path: Path) -> None:
    """A token with only this scope may do it; a token with all others gets a 403 that names it."""
    tokens = {f"only-{scope}-0123456789ab": [scope] for scope in SCOPES}
    tokens |= {f"without-{scope}-0123456789ab": [other for other in SCOPES if other != scope] for scope in SCOPES}
    text = "".join(
        f'[tokens.{token[:-13]}]\ntoken = "{token}"\nscopes = {json.dumps(scopes)}\n'
        for token, scopes in tokens.items()
    )
    (tmp_path / "penstock.toml").write_text(text)
    server = serve("--config", tmp_path / "penstock.toml")
    for (method, path), scope in OPERATIONS.items():
        refused = server.request(method, path, b"{}", Authorization=f"Bearer without-{scope}-0123456789ab", **JSON)
        assert (refused.status, refused.json()["code"], refused.json()["scope"]) == (403, "insufficient_scope", scope)
        accepted = server.request(method, path, b"{}", Authorization=f"Bearer only-{scope}-0123456789ab", **JSON)
        assert accepted.status not in (401, 403), (method, path)
        assert server.request(method, path, b"{}", **JSON).status == 401


def test_inputs_and_results_need_the_scope_read(serve: Serve, tmp_path: Path) -> None:
    """Also in the responses to actions. So a token without it never sees the data of a customer."""
    scopes = {"acting": ["redrive", "edit"], "reading": ["read", "redrive", "edit"]}
    (tmp_path / "penstock.toml").write_text(
        "".join(f'[tokens.{name}]\ntoken = "0123456789ab-{name}"\nscopes = {each}\n' for name, each in scopes.items())
    )
    server = serve("--config", tmp_path / "penstock.toml")
    run = fail(server, 2)
    by_run, set = {"query": {"run": run}}, ["orderId=5"]

    def as_token(name: str, method: str, path: str, body: Any) -> Response:
        return send(server, method, path, body, Authorization=f"Bearer 0123456789ab-{name}")

    reading = {"Authorization": "Bearer 0123456789ab-reading"}
    id = server.request("GET", f"{LETTERS}?run={run}", **reading).json()["letters"][0]["id"]
    for method, path, body in [
        ("POST", REDRIVES, by_run | {"try": 1}),
        ("POST", f"{LETTERS}/edits", by_run | {"set": set, "preview": True}),
        ("POST", f"{LETTERS}/edits", by_run | {"set": ["orderId=nosuch"]}),
        ("PATCH", f"{LETTERS}/{id}", {"input": {"orderId": 7}}),
    ]:
        refused = as_token("acting", method, path, body)
        assert (refused.status, refused.json().get("scope")) == (403, "read"), path
        assert as_token("reading", method, path, body).status == 200
    assert as_token("acting", "POST", REDRIVES, by_run).status == 201


def test_a_redrive_of_all_letters_says_so(server: Process) -> None:
    """Plans and tries change nothing, so they need not."""
    fail(server, 2)
    assert send(server, "POST", REDRIVES, {"plan": True}).json()["letters"] == 2
    assert send(server, "POST", REDRIVES, {}).json()["code"] == "invalid_body"
    job = redrive(server, query={}, all=True)
    assert follow(server, job["id"])[-1][1]["counts"]["total"] == 2


def test_the_audit_names_the_token(serve: Serve, tmp_path: Path) -> None:
    """Never its secret."""
    secret = "b1946ac92492d2347c6235b4d2611184"
    (tmp_path / "penstock.toml").write_text(f'[tokens.on-call]\ntoken = "{secret}"\nscopes = ["read", "edit"]\n')
    server = serve("--config", tmp_path / "penstock.toml", env={"PENSTOCK_TOKEN": "s3cret"})
    fail(server, 2)
    for token in (secret, "s3cret"):
        send(server, "POST", f"{LETTERS}/park", {"all": True}, Authorization=f"Bearer {token}")
    records = server.request("GET", f"{LETTERS}/audit", Authorization=f"Bearer {secret}")
    assert [each["requester"] for each in records.json()["records"]] == ["token", "on-call"]
    assert secret not in records.body.decode() + json.dumps(server.events)


def test_a_redrive_runs_beside_a_bulk_stream(server: Process) -> None:
    """Neither waits for the other, and all elements are accounted for."""
    run = fail(server, 200)
    with server.connect() as client:
        client.upload()
        response = client.response()
        client.chunk(orders(10))
        assert response.next()["ok"]
        ended = follow(server, redrive(server, query={"run": run})["id"])[-1][1]
        assert ended["counts"] == {"total": 200, "resolved": 0, "failed": 200, "skipped": 0, "open": 0}
        client.chunk(orders(5000, start=11))
        client.chunk(b"")
        end = response.complete().end
    assert (end["reason"], end["received"], end["failed"]) == ("completed", 5010, 1670)
    until(lambda: server.metric("penstock_in_flight") == 0, period=0.1)
    assert server.metric("penstock_received_total") == server.metric("penstock_settled_total") == 600 + 200 + 5010
    assert states(server) == {"waiting": 200 + 1670}


def test_a_progress_stream_ends_when_the_service_stops(server: Process) -> None:
    """Without `end`, so that clients ask again; a redrive does not delay the stop, and nothing stays claimed."""
    run = fail(server, 30)
    job = redrive(server, query={"run": run}, rate=1)
    with server.connect() as client:
        stream = events(client, job["id"])
        next(stream)
        until(lambda: server.logged("redrive.started", job=job["id"]))
        server.signal(signal.SIGTERM)
        assert {name for name, _ in stream} <= {"progress"}
    assert server.wait(20) == 0
    assert server.logged("redrive.ended", job=job["id"])


def test_a_client_that_leaves_its_progress_stream_leaves_nothing_behind(serve: Serve) -> None:
    """Fifty streams are the limit; when their clients have left, there is room again."""
    server = serve()
    job = redrive(server, query={"run": fail(server, 5)}, rate=0.1)
    clients = [server.connect() for _ in range(50)]
    for client in clients:
        next(events(client, job["id"]))
    full = server.request("GET", f"{REDRIVES}/{job['id']}", **SSE)
    assert (full.status, full.json()["code"], "retry-after" in full.headers) == (503, "too_many_streams", True)
    for number, client in enumerate(clients):
        client.reset() if number % 2 else client.close()
    until(lambda: server.request("HEAD", f"{REDRIVES}/{job['id']}", **SSE).status == 200)
    with server.connect() as client:
        assert next(events(client, job["id"]))[1]["id"] == job["id"]


def test_tries_at_the_same_time_are_limited(tmp_path: Path) -> None:
    """Each calls services as long as its request is open. When the clients have left, there is room again."""
    with serving(tmp_path) as server:
        run = fail(server, 5)
    document = json.dumps({"query": {"run": run}, "try": 5}).encode()
    with serving(tmp_path, "--latency-scale", 400) as server:
        clients = [server.connect() for _ in range(10)]
        for client in clients:
            client.request("POST", REDRIVES, document, **JSON)
        until(lambda: server.request("POST", REDRIVES, document, **JSON).status == 503)
        full = send(server, "POST", REDRIVES, {"query": {"run": run}})
        assert (full.status, full.json()["code"], "retry-after" in full.headers) == (503, "too_many_streams", True)
        for client in clients:
            client.reset()
        until(lambda: send(server, "POST", REDRIVES, {"query": {"run": run}}).status in (201, 409))


def test_a_reload_changes_the_revision_that_following_letters_use(server: Process) -> None:
    """A redrive that runs goes on with the new revision."""
    run = fail(server, 60)
    job = redrive(server, query={"run": run}, rate=20)
    with server.connect() as client:
        stream = events(client, job["id"])
        next(each for _, each in stream if each["counts"]["failed"])
        server.request("PUT", "/flows/orders", FIXED, **YAML)
        counts = [each["counts"] for _, each in stream]
    assert counts[-1]["open"] == 0
    assert counts[-1]["resolved"] > 0
    assert all(one["failed"] <= two["failed"] for one, two in pairwise(counts))
    until(lambda: [each["number"] for each in server.request("GET", "/flows/orders").json()["revisions"]] == [2])


def claimed_letters(database: Path) -> int:
    """The number of claimed letters, read while no service runs: the next one claims at once."""
    with closing(sqlite3.connect(database)) as connection:
        (count,) = connection.execute("SELECT count(*) FROM letters WHERE state = 'claimed'").fetchone()
    return int(count)


@pytest.mark.parametrize("kill", [False, True], ids=["SIGTERM", "SIGKILL"])
def test_a_redrive_goes_on_after_a_restart(tmp_path: Path, kill: bool) -> None:
    """After a stop at once, after a kill as soon as its claims have expired. No letter is lost.

    The half minute until then is not waited for: its end is set in the store.
    """
    with serving(tmp_path) as server:
        run = fail(server, 60)
        job = redrive(server, query={"run": run}, rate=20)
        until(lambda: job_of(server, job["id"])["counts"]["failed"] > 5)
        server.kill() if kill else server.stop()
    if kill:
        expire_leases(tmp_path / "letters.db")
    else:
        assert claimed_letters(tmp_path / "letters.db") == 0
    with serving(tmp_path) as server:
        send(server, "PATCH", f"{REDRIVES}/{job['id']}", {"rate": None})
        until(lambda: job_of(server, job["id"])["state"] == "completed", timeout=60, period=0.5)
        assert job_of(server, job["id"])["counts"]["failed"] == 60
        assert states(server, run=run) == {"waiting": 60}


def test_a_stop_that_cuts_a_redrive_returns_its_letters(tmp_path: Path) -> None:
    """Letters that cannot finish within the grace period wait again at once, and their attempts do not count."""
    with serving(tmp_path) as server:
        run = fail(server, 20)
    with serving(tmp_path, "--latency-scale", 400, "--grace-period", 1) as server:
        job = redrive(server, query={"run": run})
        until(lambda: states(server, run=run) == {"claimed": 20})
        until(lambda: server.metric("penstock_runs_active", kind="redrive") == 1, period=0.1)
        server.signal(signal.SIGTERM)
        assert server.wait(20) == 1
        assert server.event("shutdown.completed")["cancelled"] == 20
    listed = forking.run(
        "dead-letters", "list", "--run", run, "--dead-letters", f"sqlite:///{tmp_path}/letters.db", "--json",
        capture_output=True, text=True, timeout=HANG_SECONDS,
    )  # fmt: skip
    letters = [json.loads(line) for line in listed.stdout.splitlines()]
    assert {(each["state"], each["redrives"]) for each in letters} == {("waiting", 0)}
    assert len(letters) == 20
    with serving(tmp_path) as server:
        until(lambda: job_of(server, job["id"])["state"] == "completed", period=0.2)
        assert job_of(server, job["id"])["counts"]["failed"] == 20
