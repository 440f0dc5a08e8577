"""Flow files, served: loaded at the start, loaded again while streams go on, and taken over HTTP."""

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
    """A flow file whose flow marks what goes through it."""
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
    """Replace a file as editors do: at once."""
    draft = path.with_suffix(".draft")
    draft.write_text(text)
    draft.replace(path)


def hang_up(server: Process) -> dict[str, Any]:
    """Have everything loaded again; what came of it."""
    before = len(server.said("reload.completed"))
    server.signal(signal.SIGHUP)
    until(lambda: len(server.said("reload.completed")) > before)
    return server.said("reload.completed")[-1]["flows"]


def outcomes(receipts: dict[str, Any]) -> dict[str, str]:
    """What came of each flow."""
    return {name: receipt["outcome"] for name, receipt in receipts.items()}


def marks(answer: Any) -> set[str]:
    """The marks on the results of an answer."""
    return {record["value"]["mark"] for record in answer.results}


# Starting


def test_all_flows_of_files_and_folders_are_served(serve: Serve, folder: Path) -> None:
    """Of a folder its flow files, in every format; not its tests, nor what is no flow; each under its own name."""
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

    flows = {one["name"]: one for one in server.ask("GET", "/flows").json()["flows"]}
    assert {name: one["path"] for name, one in flows.items()} == {
        "alpha": "/alpha/bulk",
        "beta": "/second/bulk",
        "gamma": "/gamma/bulk",
        "delta": None,
    }
    assert flows["alpha"]["window"]["elements"] == 7
    assert flows["alpha"]["deadLetters"].endswith("letters.db")
    assert marks(server.ask("GET", "/alpha/bulk?count=3")) == {"1"}
    assert server.ask("GET", "/second/bulk").end["received"] == 3
    assert server.ask("GET", "/second/bulk?count=4").status == 400
    assert server.ask("GET", "/gamma/bulk").status == 405
    assert server.ask("POST", "/gamma/bulk", b"1\n2\n", **LINES).end["ok"] == 2
    assert [server.ask("GET", f"/{name}/bulk").status for name in ("orders", "beta", "delta")] == [404] * 3
    paths = server.ask("GET", "/openapi.json").json()["paths"]
    assert [path for path in paths if path.endswith("/bulk")] == [
        "/alpha/bulk",
        "/second/bulk",
        "/gamma/bulk",
        "/delta/bulk",
    ][:3]
    assert {"alpha", "beta", "gamma", "delta"} == {
        line.split('"')[1]
        for line in server.ask("GET", "/metrics").body.decode().splitlines()
        if line.startswith("penstock_flow_revision{")
    }


def test_all_mistakes_of_all_files_are_said_at_the_start(folder: Path) -> None:
    """Exit code 2, each with its place, and nothing was started."""
    write(folder / "a.yaml", flow("a", 1, "workers:\n  A: {source: {generate: 1}}\n"))
    write(folder / "b.yaml", "flow: b\nstepz: []\nwindow: none\n")
    write(folder / "c.yaml", "flow: [\n")
    done = run("serve", "--port", "0", "--dead-letters", "memory:", str(folder), str(folder / "gone.yaml"))
    assert done.returncode == 2
    said = [line for line in done.stderr.splitlines() if line.startswith("penstock serve: ")]
    assert [line.split(str(folder))[1].split(": ")[0] for line in said[:2]] == ["/b.yaml:2:1", "/b.yaml:3:9"]
    assert len(said) == 4
    assert "gone.yaml" in said[-1]
    assert "run.ended" not in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("text", "said"),
    [("services: {}\n", "there is no flow file there"), (flow("flows", 1), "that path is the service's own")],
)
def test_what_cannot_be_served_is_no_start(folder: Path, text: str, said: str) -> None:
    """A folder without flows; a flow whose path is the service's own."""
    write(folder / "a.yaml", text)
    done = run("serve", "--port", "0", "--dead-letters", "memory:", str(folder))
    assert (done.returncode, said in done.stderr) == (2, True)


# Reloading


def test_a_reload_under_load_loses_nothing(serve: Serve, folder: Path) -> None:
    """A stream that is open keeps its revision to its end; each answer is of one revision; none is lost or refused."""
    file = folder / "a.yaml"
    write(file, flow("a", 1))
    server = serve(folder)
    over = threading.Event()
    answers: list[Any] = []

    def come_and_go() -> None:
        while not over.is_set():
            answers.append(server.ask("GET", "/a/bulk?count=50"))

    clients = [threading.Thread(target=come_and_go) for _ in range(3)]
    with server.connect() as stream:
        stream.upload("/a/bulk")
        answer = stream.answer()
        for client in clients:
            client.start()
        for number in range(2, 8):
            stream.chunk(b'{"n":%d}\n' % number)
            assert answer.next()["value"] == {"n": number, "mark": "1"}
            write(file, flow("a", number))
            assert outcomes(hang_up(server)) == {"a": "accepted"}
        over.set()
        for client in clients:
            client.join()
        states = server.ask("GET", "/flows/a").json()["revisions"]
        assert [(one["number"], one["state"], one["runs"]) for one in (states[0], states[-1])] == [
            (7, "active", 0),
            (1, "draining", 1),
        ]
        stream.chunk(b"")
        assert answer.complete().end["received"] == 6
    assert len(answers) > 10
    for each in answers:
        assert (each.status, each.cut, each.end["ok"]) == (200, False, 50)
        assert marks(each) == {each.headers["penstock-revision"]}
    until(lambda: [one["state"] for one in server.ask("GET", "/flows/a").json()["revisions"]] == ["active"])
    assert server.event("run.ended", run=answer.headers["penstock-run"])["revision"] == 1
    assert server.event("revision.retired", revision=1)


def test_a_bad_file_never_displaces_a_running_one(serve: Serve, folder: Path) -> None:
    """Its mistakes are logged and shown with their places, and what ran before runs on; so do the other flows."""
    write(folder / "a.yaml", flow("a", 1))
    write(folder / "b.yaml", flow("b", 1))
    server = serve(folder)
    write(folder / "a.yaml", flow("a", 2, "stepz: []\n"))
    write(folder / "b.yaml", flow("b", 2))
    assert outcomes(hang_up(server)) == {"a": "rejected", "b": "accepted"}
    shown = server.ask("GET", "/flows/a").json()
    mistake = {"file": str(folder / "a.yaml"), "line": 7, "column": 1, "message": 'unknown key "stepz"'}
    assert (shown["active"], shown["lastReload"]["outcome"]) == (1, "rejected")
    assert mistake.items() <= shown["lastReload"]["diagnostics"][0].items()
    assert server.event("flow.invalid", flow="a", line=7, column=1)["hint"] == 'did you mean "steps"?'
    assert [marks(server.ask("GET", f"/{name}/bulk")) for name in "ab"] == [{"1"}, {"2"}]
    assert server.metric("penstock_flow_reloads_total", flow="a", outcome="rejected") == 1
    assert server.metric("penstock_flow_revision", flow="b") == 2


def test_files_come_go_and_change_their_names(serve: Serve, folder: Path) -> None:
    """A new file is a new flow, a file that is gone ends its flow, and so does another name in it."""
    for name in "abc":
        write(folder / f"{name}.yaml", flow(name, 1))
    server = serve(folder)
    assert outcomes(hang_up(server)) == dict.fromkeys("abc", "unchanged")
    (folder / "a.yaml").unlink()
    write(folder / "b.yaml", flow("bee", 1))
    write(folder / "d.yaml", flow("d", 1))
    assert outcomes(hang_up(server)) == {
        "bee": "accepted",
        "c": "unchanged",
        "d": "accepted",
        "a": "removed",
        "b": "removed",
    }
    there = {name: server.ask("GET", f"/{name}/bulk?count=1").status for name in ("a", "b", "bee", "c", "d")}
    assert there == {"a": 404, "b": 404, "bee": 200, "c": 200, "d": 200}
    assert len(server.ask("GET", "/flows").json()["flows"]) == 3
    until(lambda: server.ask("GET", "/flows/a").status == 404)
    write(folder / "a.yaml", flow("a", 2))
    assert hang_up(server)["a"]["revision"] == 2


def test_two_files_with_one_name_are_not_both_served(serve: Serve, folder: Path) -> None:
    """The one that comes later is refused, and says where the other one is."""
    write(folder / "a.yaml", flow("a", 1))
    server = serve(folder)
    write(folder / "b.yaml", flow("a", 2))
    hang_up(server)
    mistake = server.event("flow.invalid", file=str(folder / "b.yaml"))
    assert f"there is a flow 'a' in {folder / 'a.yaml'} already" in mistake["message"]
    assert marks(server.ask("GET", "/a/bulk")) == {"1"}
    (folder / "a.yaml").unlink()
    hang_up(server)
    assert marks(server.ask("GET", "/a/bulk")) == {"2"}


def test_a_folder_that_cannot_be_read_ends_nothing(serve: Serve, folder: Path) -> None:
    """Only what is known to be gone is gone."""
    write(folder / "a.yaml", flow("a", 1))
    server = serve(folder)
    (folder / "a.yaml").rename(folder.parent / "kept.yaml")
    folder.rmdir()
    os.symlink(folder, folder)
    server.signal(signal.SIGHUP)
    until(lambda: len(server.said("reload.completed")) == 2)
    assert marks(server.ask("GET", "/a/bulk")) == {"1"}
    folder.unlink()


def test_watched_files_are_loaded_when_they_change(serve: Serve, folder: Path) -> None:
    """Those in the folder, those that come, those that go, and those that a flow uses; nothing else is loaded again."""
    shared = folder.parent / "shared.yaml"
    write(shared, "templates:\n  marking:\n    - set: {shared: '1'}\n")
    write(folder / "a.yaml", flow("a", 1, "  - apply: marking\ninclude: [../shared.yaml]\n"))
    server = serve(folder, "--watch")
    assert server.ask("GET", "/a/bulk?count=1").results[0]["value"]["shared"] == 1

    write(shared, "templates:\n  marking:\n    - set: {shared: '2'}\n")
    until(lambda: server.ask("GET", "/a/bulk?count=1").results[0]["value"]["shared"] == 2)
    write(shared, "templates: none\n")
    server.event("flow.invalid", file=str(shared.parent / "flows/../shared.yaml"))
    write(shared, "templates:\n  marking:\n    - set: {shared: '3'}\n")
    until(lambda: server.ask("GET", "/a/bulk?count=1").results[0]["value"]["shared"] == 3)
    write(folder / "b.yaml", flow("b", 1))
    until(lambda: server.ask("GET", "/b/bulk?count=1").status == 200)
    (folder / "b.yaml").unlink()
    until(lambda: server.ask("GET", "/b/bulk?count=1").status == 404)
    until(lambda: len(server.said("reload.completed")) >= 6)
    causes = [event["cause"] for event in server.said("reload.completed")]
    assert causes == ["start"] + ["watch"] * 5


def test_workers_change_over_with_their_flow(serve: Serve, folder: Path) -> None:
    """The old worker's run is drained, then the new one's begins; letters and lines say which."""
    more = FAILS + "workers:\n  A: {source: {generate: 2}, every: 100ms}\n"
    write(folder / "a.yaml", flow("a", 1, more))
    server = serve(folder, "--workers", 1)
    server.event("run.ended", kind="worker", revision=1, reason="completed")
    write(folder / "a.yaml", flow("a", 2, more))
    hang_up(server)
    server.event("run.ended", kind="worker", revision=2, reason="completed")
    assert server.stop() == 0
    revisions = [event["revision"] for event in server.said("run.ended", kind="worker")]
    assert revisions == sorted(revisions)


# Dead letters


def test_letters_of_all_stores_are_on_one_page(serve: Serve, folder: Path, tmp_path: Path) -> None:
    """In the order in which they were written, page by page; each with its revision, and found by its id."""
    for name in "abc":
        kept = "" if name == "c" else f"dead_letters: sqlite:///{tmp_path}/{name}.db\n"
        write(folder / f"{name}.yaml", flow(name, 1, FAILS + kept))
    server = serve(folder)
    for name in "abcabc":
        server.ask("GET", f"/{name}/bulk?count=2")
    ids: list[str] = []
    after = ""
    while after is not None:
        page = server.ask("GET", f"/dead-letters?limit=5{after and '&after='}{after}").json()
        assert len(page["letters"]) <= 5
        ids += [letter["id"] for letter in page["letters"]]
        assert {letter["revision"] for letter in page["letters"]} == {1}
        after = page["next"]
    assert (len(ids), ids) == (12, sorted(set(ids)))
    flows = [server.ask("GET", f"/dead-letters/{id}").json()["flow"] for id in ids]
    assert flows == [name for name in "abcabc" for _ in range(2)]
    assert len(server.ask("GET", "/dead-letters?flow=b").json()["letters"]) == 4
    assert server.metric("penstock_dead_letters_stored", state="waiting") == 12


# PUT


def bring(server: Process, name: str, text: str, query: str = "", **headers: str) -> Any:
    """Bring a flow."""
    return server.ask("PUT", f"/flows/{name}{query}", text.encode(), **YAML | headers)


def test_a_flow_that_is_brought_is_served_at_once(serve: Serve) -> None:
    """201, then 200; the same again changes nothing; a dry run changes nothing at all."""
    server = serve()
    assert bring(server, "a", flow("a", 1), "?dry-run=true").json()["revision"] == 1
    assert server.ask("GET", "/a/bulk").status == 404
    said = [(bring(server, "a", flow("a", mark))) for mark in (1, 2, 2)]
    assert [(answer.status, answer.json()["outcome"], answer.json()["revision"]) for answer in said] == [
        (201, "accepted", 1),
        (200, "accepted", 2),
        (200, "unchanged", 2),
    ]
    assert bring(server, "a", flow("a", 3), "?dry-run=true").json()["revision"] == 3
    assert marks(server.ask("GET", "/a/bulk")) == {"2"}
    assert server.ask("GET", "/orders/bulk?count=1").end["ok"] == 1
    assert server.ask("GET", "/flows/a").json()["revisions"][0]["source"] == "PUT"


def test_a_flow_with_mistakes_is_not_taken(serve: Serve) -> None:
    """422 with each of them, and what ran before runs on; so it is with a path that another flow has."""
    server = serve()
    bring(server, "a", flow("a", 1))
    answer = bring(server, "a", flow("a", 2, "stepz: []\nwindow: none\n"))
    found = [(mistake["file"], mistake["line"], mistake["column"]) for mistake in answer.json()["diagnostics"]]
    assert (answer.status, found) == (422, [("a.yaml", 7, 1), ("a.yaml", 8, 9)])
    taken = bring(server, "a", flow("a", 2, "serve: {name: orders}\n"))
    assert (taken.status, "the flow 'orders' is served as 'orders'" in taken.json()["detail"]) == (422, True)
    other = bring(server, "b", flow("a", 1))
    assert (other.status, "PUT it to /flows/a" in other.json()["detail"]) == (409, True)
    assert marks(server.ask("GET", "/a/bulk")) == {"1"}
    assert server.ask("GET", "/flows/a").json()["lastReload"]["outcome"] == "rejected"


def test_a_hundred_flows_may_be_uploaded(serve: Serve, folder: Path) -> None:
    """A further name is refused; a new revision is not. Deleting one frees its place; flows of files do not count."""
    write(folder / "a.yaml", flow("a", "file"))
    server = serve(folder)
    assert {bring(server, f"f{n}", f"flow: f{n}\n").status for n in range(100)} == {201}
    for query in ("", "?dry-run=true"):
        refused = bring(server, "one-more", "flow: one-more\n", query)
        assert (refused.status, refused.json()["code"]) == (409, "too_many_flows")
    assert bring(server, "f0", flow("f0", "again")).json()["revision"] == 2
    assert bring(server, "a", flow("a", "brought")).status == 200

    deleted = server.ask("DELETE", "/flows/f0").json()
    assert (deleted["outcome"], deleted["revision"]) == ("removed", 2)
    assert [server.ask("GET", "/f0/bulk?count=1").status, server.ask("DELETE", "/flows/f0").status] == [404, 404]
    assert bring(server, "one-more", "flow: one-more\n").status == 409  # what was brought in place of a file counts
    assert server.ask("DELETE", "/flows/f1").status == 200
    assert bring(server, "one-more", "flow: one-more\n").status == 201


def test_uploaded_flows_have_a_limit_of_steps_together(serve: Serve) -> None:
    """Each step has series in the metrics. A flow may take the room of its own earlier revision."""
    server = serve()
    steps = "steps:\n" + "- throttle: 1/s\n" * 1000
    assert [bring(server, name, f"flow: {name}\n{steps}").status for name in ("a", "b")] == [201, 201]
    refused = bring(server, "c", "flow: c\nsteps: [{throttle: 1/s}]\n")
    assert (refused.status, refused.json()["code"]) == (409, "too_many_flows")
    assert "2001 steps and services together, 2000 is the limit" in refused.json()["detail"]
    assert bring(server, "b", "flow: b\nsteps: [{throttle: 1/s}]\n").status == 200
    assert bring(server, "c", "flow: c\nsteps: [{throttle: 1/s}]\n").status == 201


def test_a_flow_of_a_file_cannot_be_deleted(serve: Serve, folder: Path) -> None:
    """It would be there again with the next reload."""
    write(folder / "a.yaml", flow("a", 1))
    server = serve(folder)
    answer = server.ask("DELETE", "/flows/a")
    assert (answer.status, answer.json()["code"], "a.yaml; remove it there" in answer.json()["detail"]) == (
        409,
        "not_uploaded",
        True,
    )
    assert marks(server.ask("GET", "/a/bulk")) == {"1"}


def test_of_many_mistakes_a_hundred_are_told(serve: Serve) -> None:
    """In the answer and in the log, which say how many more there are; so nobody can fill either."""
    server = serve()
    text = "flow: a\n" + "".join(f"k{number}: 1\n" for number in range(5000))
    problem = bring(server, "a", text).json()
    assert (len(problem["diagnostics"]), problem["moreDiagnostics"]) == (100, 4900)
    assert "(and 4999 more, see diagnostics)" in problem["detail"]
    server.event("reload.diagnostics_omitted", cause="put", count=4900)
    assert len(server.said("flow.invalid")) == 100


def test_a_flow_file_that_is_too_large_is_refused(server: Process) -> None:
    """Whatever an upload of items may have."""
    answer = bring(server, "a", "flow: a\n#" + "x" * (1 << 20))
    assert (answer.status, answer.json()["detail"]) == (413, "a flow file may have 1048576 bytes")


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("application/x-yaml", "flow: a"),
        ("text/yaml; charset=utf-8", "flow: a"),
        ("application/json", '{"flow": "a"}'),
    ],
)
def test_flows_come_in_every_format(server: Process, kind: str, text: str) -> None:
    """By their type."""
    answer = server.ask("PUT", "/flows/a?dry-run=true", text.encode(), Content_Type=kind)
    assert answer.json()["outcome"] == "accepted"


def test_a_file_wins_over_what_was_brought_when_it_is_loaded(serve: Serve, folder: Path) -> None:
    """What was brought lives until then."""
    write(folder / "a.yaml", flow("a", "file"))
    server = serve(folder)
    bring(server, "a", flow("a", "brought"))
    bring(server, "b", flow("b", "brought"))
    assert marks(server.ask("GET", "/a/bulk")) == {"brought"}
    assert outcomes(hang_up(server)) == {"a": "accepted"}
    assert marks(server.ask("GET", "/a/bulk")) == {"file"}
    assert marks(server.ask("GET", "/b/bulk")) == {"brought"}


def test_a_module_that_breaks_when_it_is_loaded_breaks_nothing(serve: Serve, folder: Path) -> None:
    """Not even by leaving."""
    (folder / "leaving.py").write_text("raise SystemExit(3)\n")
    write(folder / "a.yaml", flow("a", 1))
    server = serve(folder)
    text = flow("a", 2, "  - map: 'leaving:work'\n")
    write(folder / "a.yaml", text)
    assert outcomes(hang_up(server)) == {"a": "rejected"}
    roots = os.pathsep.join(str(path) for path in (folder, ROOT / "flows", ROOT / "http"))
    taking = serve("--dead-letters", "memory:", env={"PYTHONPATH": roots})
    assert bring(taking, "a", text).status == 422
    for one, path in ((server, "/a/bulk?count=1"), (taking, "/orders/bulk?count=1")):
        assert one.ask("GET", path).end["ok"] == 1


def test_without_files_there_is_nothing_to_watch(serve: Serve) -> None:
    """`--watch` is refused then; SIGHUP loads the flow that is built in, which has not changed."""
    done = run("serve", "--watch")
    assert (done.returncode, "name some" in done.stderr) == (2, True)
    assert hang_up(serve())["orders"]["outcome"] == "unchanged"


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
def test_without_a_token_flows_come_from_this_machine_only(server: Process, headers: dict[str, str]) -> None:
    """Neither through a proxy, nor from a page of elsewhere that a browser on this machine shows."""
    answer = bring(server, "a", flow("a", 1), "?dry-run=true", **headers)
    assert (answer.status, answer.headers["content-type"]) == (403, "application/problem+json")


def test_with_a_token_flows_come_from_whoever_has_it(serve: Serve) -> None:
    """From everywhere; nobody else, and not when it is switched off."""
    server = serve("--host", "0.0.0.0", env={"PENSTOCK_TOKEN": "secret"})
    server.host = "127.0.0.1"
    right = {"Authorization": "Bearer secret"}
    assert bring(server, "a", flow("a", 1)).status == 401
    assert bring(server, "a", flow("a", 1), Authorization="Bearer wrong").status == 401
    assert bring(server, "a", flow("a", 1), **right, X_Forwarded_For="203.0.113.7").status == 201
    assert server.ask("GET", "/a/bulk").end["ok"] == 10
    assert bring(server, "a", "flow: a\nwindow: hidden\n", **right).status == 422
    told = [server.ask("GET", path, **who).body for who in ({}, right) for path in ("/flows", "/flows/a")]
    assert [b"hidden" in body for body in told] == [False, False, True, True]


# Limits of a flow


def test_a_flow_has_limits_of_its_own(serve: Serve, folder: Path) -> None:
    """In the place of the service's; those for streams beside it."""
    write(folder / "a.yaml", flow("a", 1, "serve: {max_runs: 1, max_line: 20, max_body: 100}\n"))
    write(folder / "b.yaml", flow("b", 1))
    server = serve(folder)
    long = b'{"n":1,"x":"%s"}' % (b"x" * 100)
    assert server.ask("POST", "/a/bulk", long + b"\n", **LINES).results[0]["error"]["type"] == "ElementTooLarge"
    assert server.ask("POST", "/b/bulk", long + b"\n", **LINES).results[0]["ok"]
    array = {"Content_Type": "application/json"}
    assert [server.ask("POST", f"/{name}/bulk", b"[%s]" % long, **array).status for name in "ab"] == [413, 200]
    with server.connect() as first:
        first.upload("/a/bulk")
        assert first.answer().status == 200
        refused = server.ask("GET", "/a/bulk")
        assert (refused.status, refused.json()["code"]) == (503, "too_many_runs")
        assert server.ask("GET", "/b/bulk").status == 200
        first.chunk(b"")
    until(lambda: server.ask("GET", "/a/bulk?count=1").status == 200)


def test_the_order_of_a_flow_is_the_default(serve: Serve, folder: Path) -> None:
    """`?order=` has the last word."""
    write(folder / "a.yaml", flow("a", 1, "order: input\n"))
    server = serve(folder)
    seqs = [record["seq"] for record in server.ask("GET", "/a/bulk?count=500").results]
    assert seqs == list(range(500))
    assert server.ask("GET", "/a/bulk?count=5&order=completion").end["ok"] == 5


def test_a_module_that_hangs_keeps_no_stop_from_its_end(serve: Serve, folder: Path) -> None:
    """The stop was not forced: all was settled, and a thread that loads is nobody's work."""
    hanging = "import pathlib, time\npathlib.Path(__file__ + '.begun').touch()\ntime.sleep(3600)\n"
    (folder / "hanging.py").write_text(hanging)  # longer than any test: the process has to end without it
    write(folder / "a.yaml", flow("a", 1))
    server = serve(folder)
    write(folder / "a.yaml", flow("a", 2, "  - map: 'hanging:work'\n"))
    server.signal(signal.SIGHUP)
    until((folder / "hanging.py.begun").exists)
    assert server.ask("GET", "/a/bulk?count=1").end["ok"] == 1
    assert server.stop() == 0


def test_a_flow_that_breaks_is_no_fault_of_its_client(serve: Serve, folder: Path) -> None:
    """500, in one piece: nothing was wrong with the request."""
    (folder / "samples.py").write_text("def make(number):\n    raise KeyError('a bug')\n")
    write(folder / "a.yaml", "flow: a\nsamples: 'samples:make'\n")
    answer = serve(folder).ask("GET", "/a/bulk?count=1", Accept="application/json")
    assert (answer.status, answer.json()["end"]["reason"]) == (500, "failed")
