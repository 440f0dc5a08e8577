"""Deployments: flow files that are loaded at the start and reloaded, and flows that are uploaded."""

from __future__ import annotations

import json
import os
import signal
import threading
from pathlib import Path
from typing import Any

import pytest

from service.conftest import Serve
from service.processes import ROOT, Process, until
from service.test_settings import run
from service.wire import NDJSON

YAML = {"Content_Type": "application/yaml"}
LINES = {"Content_Type": NDJSON}


def flow(name: str, mark: object, more: str = "") -> str:
    """A flow file whose flow adds a mark to its items."""
    head = f"flow: {name}\nkey: n\nitem: {{n: integer}}\nsamples: {{n: seq}}\n"
    return f"{head}steps:\n  - set: {{mark: '\"{mark}\"'}}\n{more}"


FAILS = "  - filter: value.n / 0 > 1\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder for flow files."""
    path = tmp_path / "flows"
    path.mkdir()
    return path


def write(path: Path, text: str) -> None:
    """Replace a file atomically, as editors do."""
    draft = path.with_suffix(".draft")
    draft.write_text(text)
    draft.replace(path)


def reload(server: Process) -> dict[str, Any]:
    """Send SIGHUP. Returns the results by flow."""
    before = len(server.logged("reload.completed"))
    server.signal(signal.SIGHUP)
    until(lambda: len(server.logged("reload.completed")) > before)
    return server.logged("reload.completed")[-1]["flows"]


def outcomes(receipts: dict[str, Any]) -> dict[str, str]:
    """The outcome of each flow."""
    return {name: receipt["outcome"] for name, receipt in receipts.items()}


def marks(response: Any) -> set[str]:
    """The marks of the results in a response."""
    return {record["value"]["mark"] for record in response.results}


# Start


def test_all_flows_of_files_and_folders_are_served(serve: Serve, folder: Path) -> None:
    """Of a folder all flow files in every format, but no test files and no other files."""
    write(folder / "a.yaml", flow("alpha", 1))
    write(
        folder / "b.json",
        json.dumps({"flow": "beta", "serve": {"name": "second", "max_count": 3}, "samples": {"n": "seq"}}),
    )
    write(folder / "c.yml", "flow: gamma\norder: input\n")
    write(folder / "a.test.yaml", "tests: []\n")
    write(folder / "shared.yaml", "services: {}\n")
    write(folder / "notes.txt", "flow: nor-me\n")
    alone = folder.parent / "alone.yaml"
    write(alone, "flow: delta\nserve: false\n")
    server = serve(folder, alone, "--window", 7)

    flows = {one["name"]: one for one in server.request("GET", "/flows").json()["flows"]}
    assert {name: one["path"] for name, one in flows.items()} == {
        "alpha": "/alpha/bulk",
        "beta": "/second/bulk",
        "gamma": "/gamma/bulk",
        "delta": None,
    }
    assert flows["alpha"]["window"]["elements"] == 7
    assert flows["alpha"]["deadLetters"].endswith("letters.db")
    assert marks(server.request("GET", "/alpha/bulk?count=3")) == {"1"}
    assert server.request("GET", "/second/bulk").end["received"] == 3
    assert server.request("GET", "/second/bulk?count=4").status == 400
    assert server.request("GET", "/gamma/bulk").status == 405
    assert server.request("POST", "/gamma/bulk", b"1\n2\n", **LINES).end["ok"] == 2
    assert [server.request("GET", f"/{name}/bulk").status for name in ("orders", "beta", "delta")] == [404] * 3
    paths = server.request("GET", "/openapi.json").json()["paths"]
    assert [path for path in paths if path.endswith("/bulk")] == [
        "/alpha/bulk",
        "/second/bulk",
        "/gamma/bulk",
        "/delta/bulk",
    ][:3]
    assert {"alpha", "beta", "gamma", "delta"} == {
        line.split('"')[1]
        for line in server.request("GET", "/metrics").body.decode().splitlines()
        if line.startswith("penstock_flow_revision{")
    }


def test_all_errors_of_all_files_are_reported_at_the_start(folder: Path) -> None:
    """Exit code 2, each error with its location, and nothing starts."""
    write(folder / "a.yaml", flow("a", 1, "workers:\n  A: {source: {generate: 1}}\n"))
    write(folder / "b.yaml", "flow: b\nstepz: []\nwindow: none\n")
    write(folder / "c.yaml", "flow: [\n")
    done = run("serve", "--port", "0", "--dead-letters", "memory:", str(folder), str(folder / "gone.yaml"))
    assert done.returncode == 2
    message = [line for line in done.stderr.splitlines() if line.startswith("penstock serve: ")]
    assert [line.split(str(folder))[1].split(": ")[0] for line in message[:2]] == ["/b.yaml:2:1", "/b.yaml:3:9"]
    assert len(message) == 4
    assert "gone.yaml" in message[-1]
    assert "run.ended" not in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("services: {}\n", "there is no flow file in {folder}; a flow"),
        (flow("flows", 1), "the path 'flows' is reserved"),
    ],
)
def test_flows_that_cannot_be_served_prevent_the_start(folder: Path, text: str, message: str) -> None:
    """A folder without flows; a flow whose path is reserved."""
    write(folder / "a.yaml", text)
    done = run("serve", "--port", "0", "--dead-letters", "memory:", str(folder))
    assert (done.returncode, message.format(folder=folder) in done.stderr) == (2, True)


# Reload


def test_a_reload_under_load_loses_nothing(serve: Serve, folder: Path) -> None:
    """Each stream keeps its revision to its end, and no request is lost or rejected."""
    file = folder / "a.yaml"
    write(file, flow("a", 1))
    server = serve(folder)
    over = threading.Event()
    responses: list[Any] = []

    def come_and_go() -> None:
        while not over.is_set():
            responses.append(server.request("GET", "/a/bulk?count=50"))

    clients = [threading.Thread(target=come_and_go) for _ in range(3)]
    with server.connect() as stream:
        stream.upload("/a/bulk")
        response = stream.response()
        for client in clients:
            client.start()
        for number in range(2, 8):
            stream.chunk(b'{"n":%d}\n' % number)
            assert response.next()["value"] == {"n": number, "mark": "1"}
            write(file, flow("a", number))
            assert outcomes(reload(server)) == {"a": "accepted"}
        over.set()
        for client in clients:
            client.join()
        states = server.request("GET", "/flows/a").json()["revisions"]
        assert [(one["number"], one["state"], one["runs"]) for one in (states[0], states[-1])] == [
            (7, "active", 0),
            (1, "draining", 1),
        ]
        stream.chunk(b"")
        assert response.complete().end["received"] == 6
    assert len(responses) > 10
    for each in responses:
        assert (each.status, each.cut, each.end["ok"]) == (200, False, 50)
        assert marks(each) == {each.headers["penstock-revision"]}
    until(lambda: [one["state"] for one in server.request("GET", "/flows/a").json()["revisions"]] == ["active"])
    assert server.event("run.ended", run=response.headers["penstock-run"])["revision"] == 1
    assert server.event("revision.retired", revision=1)


def test_an_invalid_file_never_replaces_a_revision(serve: Serve, folder: Path) -> None:
    """Its errors are logged and shown with their locations. All flows are still served."""
    write(folder / "a.yaml", flow("a", 1))
    write(folder / "b.yaml", flow("b", 1))
    server = serve(folder)
    write(folder / "a.yaml", flow("a", 2, "stepz: []\n"))
    write(folder / "b.yaml", flow("b", 2))
    assert outcomes(reload(server)) == {"a": "rejected", "b": "accepted"}
    shown = server.request("GET", "/flows/a").json()
    mistake = {"file": str(folder / "a.yaml"), "line": 7, "column": 1, "message": 'unknown key "stepz"'}
    assert (shown["active"], shown["lastReload"]["outcome"]) == (1, "rejected")
    assert mistake.items() <= shown["lastReload"]["diagnostics"][0].items()
    assert server.event("flow.invalid", flow="a", line=7, column=1)["hint"] == 'did you mean "steps"?'
    assert [marks(server.request("GET", f"/{name}/bulk")) for name in "ab"] == [{"1"}, {"2"}]
    assert server.metric("penstock_flow_reloads_total", flow="a", outcome="rejected") == 1
    assert server.metric("penstock_flow_revision", flow="b") == 2


def test_files_can_be_added_removed_and_renamed(serve: Serve, folder: Path) -> None:
    """A new file adds a flow; a missing file, or another name in a file, removes one."""
    for name in "abc":
        write(folder / f"{name}.yaml", flow(name, 1))
    server = serve(folder)
    assert outcomes(reload(server)) == dict.fromkeys("abc", "unchanged")
    (folder / "a.yaml").unlink()
    write(folder / "b.yaml", flow("bee", 1))
    write(folder / "d.yaml", flow("d", 1))
    assert outcomes(reload(server)) == {
        "bee": "accepted",
        "c": "unchanged",
        "d": "accepted",
        "a": "removed",
        "b": "removed",
    }
    there = {name: server.request("GET", f"/{name}/bulk?count=1").status for name in ("a", "b", "bee", "c", "d")}
    assert there == {"a": 404, "b": 404, "bee": 200, "c": 200, "d": 200}
    assert len(server.request("GET", "/flows").json()["flows"]) == 3
    until(lambda: server.request("GET", "/flows/a").status == 404)
    write(folder / "a.yaml", flow("a", 2))
    assert reload(server)["a"]["revision"] == 2


def test_two_files_with_one_name_are_not_both_served(serve: Serve, folder: Path) -> None:
    """The second one is rejected, and its error names the first one."""
    write(folder / "a.yaml", flow("a", 1))
    server = serve(folder)
    write(folder / "b.yaml", flow("a", 2))
    reload(server)
    mistake = server.event("flow.invalid", file=str(folder / "b.yaml"))
    assert f"flow 'a' is already defined in {folder / 'a.yaml'}" in mistake["message"]
    assert marks(server.request("GET", "/a/bulk")) == {"1"}
    (folder / "a.yaml").unlink()
    reload(server)
    assert marks(server.request("GET", "/a/bulk")) == {"2"}


def test_an_unreadable_folder_removes_no_flow(serve: Serve, folder: Path) -> None:
    """Only a file that is known to be missing removes its flow."""
    write(folder / "a.yaml", flow("a", 1))
    server = serve(folder)
    (folder / "a.yaml").rename(folder.parent / "kept.yaml")
    folder.rmdir()
    os.symlink(folder, folder)
    server.signal(signal.SIGHUP)
    until(lambda: len(server.logged("reload.completed")) == 2)
    assert marks(server.request("GET", "/a/bulk")) == {"1"}
    folder.unlink()


def test_watched_files_are_reloaded_when_they_change(serve: Serve, folder: Path) -> None:
    """Files in the folder, new files, removed files, and included files; nothing else causes a reload."""
    shared = folder.parent / "shared.yaml"
    write(shared, "templates:\n  marking:\n    - set: {shared: '1'}\n")
    write(folder / "a.yaml", flow("a", 1, "  - apply: marking\ninclude: [../shared.yaml]\n"))
    server = serve(folder, "--watch")
    assert server.request("GET", "/a/bulk?count=1").results[0]["value"]["shared"] == 1

    write(shared, "templates:\n  marking:\n    - set: {shared: '2'}\n")
    until(lambda: server.request("GET", "/a/bulk?count=1").results[0]["value"]["shared"] == 2)
    write(shared, "templates: none\n")
    server.event("flow.invalid", file=str(shared.parent / "flows/../shared.yaml"))
    write(shared, "templates:\n  marking:\n    - set: {shared: '3'}\n")
    until(lambda: server.request("GET", "/a/bulk?count=1").results[0]["value"]["shared"] == 3)
    write(folder / "b.yaml", flow("b", 1))
    until(lambda: server.request("GET", "/b/bulk?count=1").status == 200)
    (folder / "b.yaml").unlink()
    until(lambda: server.request("GET", "/b/bulk?count=1").status == 404)
    until(lambda: len(server.logged("reload.completed")) >= 6)
    causes = [event["cause"] for event in server.logged("reload.completed")]
    assert causes == ["start"] + ["watch"] * 5


def test_workers_are_replaced_with_their_flow(serve: Serve, folder: Path) -> None:
    """The run of the old worker is drained before the new worker starts; log lines have the revision."""
    more = FAILS + "workers:\n  A: {source: {generate: 2}, every: 100ms}\n"
    write(folder / "a.yaml", flow("a", 1, more))
    server = serve(folder, "--workers", 1)
    server.event("run.ended", kind="worker", revision=1, reason="completed")
    write(folder / "a.yaml", flow("a", 2, more))
    reload(server)
    server.event("run.ended", kind="worker", revision=2, reason="completed")
    assert server.stop() == 0
    revisions = [event["revision"] for event in server.logged("run.ended", kind="worker")]
    assert revisions == sorted(revisions)


# Dead letters


def test_one_page_has_the_dead_letters_of_all_stores(serve: Serve, folder: Path, tmp_path: Path) -> None:
    """Oldest first, page by page, each with its revision; each is found by its id."""
    for name in "abc":
        kept = "" if name == "c" else f"dead_letters: sqlite:///{tmp_path}/{name}.db\n"
        write(folder / f"{name}.yaml", flow(name, 1, FAILS + kept))
    server = serve(folder)
    for name in "abcabc":
        server.request("GET", f"/{name}/bulk?count=2")
    ids: list[str] = []
    after = ""
    while after is not None:
        page = server.request("GET", f"/dead-letters?limit=5{after and '&after='}{after}").json()
        assert len(page["letters"]) <= 5
        ids += [letter["id"] for letter in page["letters"]]
        assert {letter["revision"] for letter in page["letters"]} == {1}
        after = page["next"]
    assert (len(ids), ids) == (12, sorted(set(ids)))
    flows = [server.request("GET", f"/dead-letters/{id}").json()["flow"] for id in ids]
    assert flows == [name for name in "abcabc" for _ in range(2)]
    assert len(server.request("GET", "/dead-letters?flow=b").json()["letters"]) == 4
    assert server.metric("penstock_dead_letters_stored", state="waiting") == 12


# PUT


def upload(server: Process, name: str, text: str, query: str = "", **headers: str) -> Any:
    """PUT a flow."""
    return server.request("PUT", f"/flows/{name}{query}", text.encode(), **YAML | headers)


def test_an_uploaded_flow_is_served_at_once(serve: Serve) -> None:
    """201, then 200; the same flow again changes nothing, and neither does a dry run."""
    server = serve()
    assert upload(server, "a", flow("a", 1), "?dry-run=true").json()["revision"] == 1
    assert server.request("GET", "/a/bulk").status == 404
    message = [(upload(server, "a", flow("a", mark))) for mark in (1, 2, 2)]
    assert [(response.status, response.json()["outcome"], response.json()["revision"]) for response in message] == [
        (201, "accepted", 1),
        (200, "accepted", 2),
        (200, "unchanged", 2),
    ]
    assert upload(server, "a", flow("a", 3), "?dry-run=true").json()["revision"] == 3
    assert marks(server.request("GET", "/a/bulk")) == {"2"}
    assert server.request("GET", "/orders/bulk?count=1").end["ok"] == 1
    assert server.request("GET", "/flows/a").json()["revisions"][0]["source"] == "PUT"


def test_an_invalid_upload_is_rejected(serve: Serve) -> None:
    """422 with each error, and the previous revision is still served; the same for a path of another flow."""
    server = serve()
    upload(server, "a", flow("a", 1))
    response = upload(server, "a", flow("a", 2, "stepz: []\nwindow: none\n"))
    found = [(mistake["file"], mistake["line"], mistake["column"]) for mistake in response.json()["diagnostics"]]
    assert (response.status, found) == (422, [("a.yaml", 7, 1), ("a.yaml", 8, 9)])
    taken = upload(server, "a", flow("a", 2, "serve: {name: orders}\n"))
    assert (taken.status, "the path 'orders' is already used by flow 'orders'" in taken.json()["detail"]) == (422, True)
    other = upload(server, "b", flow("a", 1))
    assert (other.status, "PUT it to /flows/a" in other.json()["detail"]) == (409, True)
    assert marks(server.request("GET", "/a/bulk")) == {"1"}
    assert server.request("GET", "/flows/a").json()["lastReload"]["outcome"] == "rejected"


def test_at_most_a_hundred_flows_can_be_uploaded(serve: Serve, folder: Path) -> None:
    """A new revision does not count. Deleting a flow makes room for another one; flows of files do not count."""
    write(folder / "a.yaml", flow("a", "file"))
    server = serve(folder)
    assert {upload(server, f"f{n}", f"flow: f{n}\n").status for n in range(100)} == {201}
    for query in ("", "?dry-run=true"):
        rejected = upload(server, "one-more", "flow: one-more\n", query)
        assert (rejected.status, rejected.json()["code"]) == (409, "too_many_flows")
    assert upload(server, "f0", flow("f0", "again")).json()["revision"] == 2
    assert upload(server, "a", flow("a", "brought")).status == 200

    deleted = server.request("DELETE", "/flows/f0").json()
    assert (deleted["outcome"], deleted["revision"]) == ("removed", 2)
    assert [server.request("GET", "/f0/bulk?count=1").status, server.request("DELETE", "/flows/f0").status] == [
        404,
        404,
    ]
    assert upload(server, "one-more", "flow: one-more\n").status == 409  # the upload that replaced a file counts
    assert server.request("DELETE", "/flows/f1").status == 200
    assert upload(server, "one-more", "flow: one-more\n").status == 201


def test_uploaded_flows_share_a_limit_of_steps(serve: Serve) -> None:
    """Each step has series in the metrics. A new revision replaces the steps of the previous one."""
    server = serve()
    steps = "steps:\n" + "- throttle: 1/s\n" * 1000
    assert [upload(server, name, f"flow: {name}\n{steps}").status for name in ("a", "b")] == [201, 201]
    rejected = upload(server, "c", "flow: c\nsteps: [{throttle: 1/s}]\n")
    assert (rejected.status, rejected.json()["code"]) == (409, "too_many_flows")
    assert "2001 steps and services, the limit is 2000" in rejected.json()["detail"]
    assert upload(server, "b", "flow: b\nsteps: [{throttle: 1/s}]\n").status == 200
    assert upload(server, "c", "flow: c\nsteps: [{throttle: 1/s}]\n").status == 201


def test_a_flow_of_a_file_cannot_be_deleted(serve: Serve, folder: Path) -> None:
    """The next reload would add it again."""
    write(folder / "a.yaml", flow("a", 1))
    server = serve(folder)
    response = server.request("DELETE", "/flows/a")
    assert (response.status, response.json()["code"], "a.yaml; remove it there" in response.json()["detail"]) == (
        409,
        "not_uploaded",
        True,
    )
    assert marks(server.request("GET", "/a/bulk")) == {"1"}


def test_at_most_a_hundred_errors_are_reported(serve: Serve) -> None:
    """In the response and in the log, which have the number of further errors."""
    server = serve()
    text = "flow: a\n" + "".join(f"k{number}: 1\n" for number in range(5000))
    problem = upload(server, "a", text).json()
    assert (len(problem["diagnostics"]), problem["moreDiagnostics"]) == (100, 4900)
    assert "(and 4999 more, see diagnostics)" in problem["detail"]
    server.event("reload.diagnostics_omitted", cause="put", count=4900)
    assert len(server.logged("flow.invalid")) == 100


def test_a_large_flow_file_is_rejected(server: Process) -> None:
    """Its limit is independent of `--max-body`."""
    response = upload(server, "a", "flow: a\n#" + "x" * (1 << 20))
    assert (response.status, response.json()["detail"]) == (413, "a flow file can have at most 1048576 bytes")


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("application/x-yaml", "flow: a"),
        ("text/yaml; charset=utf-8", "flow: a"),
        ("application/json", '{"flow": "a"}'),
    ],
)
def test_flows_can_be_uploaded_in_every_format(server: Process, kind: str, text: str) -> None:
    """The media type selects the format."""
    response = server.request("PUT", "/flows/a?dry-run=true", text.encode(), Content_Type=kind)
    assert response.json()["outcome"] == "accepted"


def test_a_reload_replaces_an_uploaded_flow_by_its_file(serve: Serve, folder: Path) -> None:
    """Until then the uploaded flow is served."""
    write(folder / "a.yaml", flow("a", "file"))
    server = serve(folder)
    upload(server, "a", flow("a", "brought"))
    upload(server, "b", flow("b", "brought"))
    assert marks(server.request("GET", "/a/bulk")) == {"brought"}
    assert outcomes(reload(server)) == {"a": "accepted"}
    assert marks(server.request("GET", "/a/bulk")) == {"file"}
    assert marks(server.request("GET", "/b/bulk")) == {"brought"}


def test_a_module_that_fails_on_import_is_an_error_of_its_flow(serve: Serve, folder: Path) -> None:
    """Even with SystemExit."""
    (folder / "leaving.py").write_text("raise SystemExit(3)\n")
    write(folder / "a.yaml", flow("a", 1))
    server = serve(folder)
    text = flow("a", 2, "  - map: 'leaving:work'\n")
    write(folder / "a.yaml", text)
    assert outcomes(reload(server)) == {"a": "rejected"}
    roots = os.pathsep.join(str(path) for path in (folder, ROOT / "flows", ROOT / "http"))
    taking = serve("--dead-letters", "memory:", env={"PYTHONPATH": roots})
    assert upload(taking, "a", text).status == 422
    for one, path in ((server, "/a/bulk?count=1"), (taking, "/orders/bulk?count=1")):
        assert one.request("GET", path).end["ok"] == 1


def test_watch_needs_files(serve: Serve) -> None:
    """`--watch` without files is invalid usage. SIGHUP reloads the built-in flow, which is unchanged."""
    done = run("serve", "--watch")
    assert (done.returncode, "needs at least one flow file" in done.stderr) == (2, True)
    assert reload(serve())["orders"]["outcome"] == "unchanged"


@pytest.mark.parametrize(
    "headers",
    [
        {"X_Forwarded_For": "203.0.113.7"},
        {"Forwarded": "for=203.0.113.7"},
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:1"},
    ],
    ids=str,
)
def test_without_a_token_only_this_machine_can_upload(server: Process, headers: dict[str, str]) -> None:
    """Neither a proxy nor a web page of another origin can."""
    response = upload(server, "a", flow("a", 1), "?dry-run=true", **headers)
    assert (response.status, response.headers["content-type"]) == (403, "application/problem+json")


def test_with_a_token_uploads_need_it(serve: Serve) -> None:
    """From every machine. Diagnostics are only shown with the token."""
    server = serve("--host", "0.0.0.0", env={"PENSTOCK_TOKEN": "secret"})
    server.host = "127.0.0.1"
    right = {"Authorization": "Bearer secret"}
    assert upload(server, "a", flow("a", 1)).status == 401
    assert upload(server, "a", flow("a", 1), Authorization="Bearer wrong").status == 401
    assert upload(server, "a", flow("a", 1), **right, X_Forwarded_For="203.0.113.7").status == 201
    assert server.request("GET", "/a/bulk").end["ok"] == 10
    assert upload(server, "a", "flow: a\nwindow: hidden\n", **right).status == 422
    bodies = [server.request("GET", path, **who).body for who in ({}, right) for path in ("/flows", "/flows/a")]
    assert [b"hidden" in body for body in bodies] == [False, False, True, True]


# Limits


def test_a_flow_can_have_its_own_limits(serve: Serve, folder: Path) -> None:
    """Instead of those of the service, and `max_runs` in addition."""
    write(folder / "a.yaml", flow("a", 1, "serve: {max_runs: 1, max_line: 20, max_body: 100}\n"))
    write(folder / "b.yaml", flow("b", 1))
    server = serve(folder)
    long = b'{"n":1,"x":"%s"}' % (b"x" * 100)
    assert server.request("POST", "/a/bulk", long + b"\n", **LINES).results[0]["error"]["type"] == "ElementTooLarge"
    assert server.request("POST", "/b/bulk", long + b"\n", **LINES).results[0]["ok"]
    array = {"Content_Type": "application/json"}
    assert [server.request("POST", f"/{name}/bulk", b"[%s]" % long, **array).status for name in "ab"] == [413, 200]
    with server.connect() as first:
        first.upload("/a/bulk")
        assert first.response().status == 200
        rejected = server.request("GET", "/a/bulk")
        assert (rejected.status, rejected.json()["code"]) == (503, "too_many_runs")
        assert server.request("GET", "/b/bulk").status == 200
        first.chunk(b"")
    until(lambda: server.request("GET", "/a/bulk?count=1").status == 200)


def test_the_order_of_a_flow_is_the_default_of_its_requests(serve: Serve, folder: Path) -> None:
    """`?order=` overrides it."""
    write(folder / "a.yaml", flow("a", 1, "order: input\n"))
    server = serve(folder)
    seqs = [record["seq"] for record in server.request("GET", "/a/bulk?count=500").results]
    assert seqs == list(range(500))
    assert server.request("GET", "/a/bulk?count=5&order=completion").end["ok"] == 5


def test_order_key_needs_a_flow_with_a_key(serve: Serve, folder: Path) -> None:
    """Where the request names it, that is an invalid parameter."""
    write(folder / "a.yaml", "flow: a\nsamples: {n: seq}\n")
    rejected = serve(folder).request("GET", "/a/bulk?order=key")
    assert (rejected.status, rejected.json()["detail"]) == (400, "order: key: the items of flow a have no key")


def test_a_module_that_hangs_on_import_does_not_delay_the_shutdown(serve: Serve, folder: Path) -> None:
    """The shutdown is not forced, because no element waits for the thread that loads."""
    hanging = "import pathlib, time\npathlib.Path(__file__ + '.begun').touch()\ntime.sleep(3600)\n"
    (folder / "hanging.py").write_text(hanging)  # longer than any test: the process must exit before it returns
    write(folder / "a.yaml", flow("a", 1))
    server = serve(folder)
    write(folder / "a.yaml", flow("a", 2, "  - map: 'hanging:work'\n"))
    server.signal(signal.SIGHUP)
    until((folder / "hanging.py.begun").exists)
    assert server.request("GET", "/a/bulk?count=1").end["ok"] == 1
    assert server.stop() == 0


def test_a_failed_run_is_a_500(serve: Serve, folder: Path) -> None:
    """The request was valid, so it is not a 4xx."""
    (folder / "samples.py").write_text("def make(number):\n    raise KeyError('a bug')\n")
    write(folder / "a.yaml", "flow: a\nsamples: 'samples:make'\n")
    response = serve(folder).request("GET", "/a/bulk?count=1", Accept="application/json")
    assert (response.status, response.json()["end"]["reason"]) == (500, "failed")
