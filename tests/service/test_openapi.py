"""The service behaves as `/openapi.json` describes: routes, statuses, headers and bodies."""

from __future__ import annotations

import copy
import gzip
import json
import signal
from collections.abc import Iterator
from contextlib import ExitStack
from functools import reduce
from operator import getitem
from typing import Any, NamedTuple

import pytest
from jsonschema import Draft202012Validator
from openapi_spec_validator import validate

from penstock import Flow
from penstock.flowfile import loads
from penstock.observe import HttpCounters, MetricSources, PenstockCollector, ReloadCounters
from penstock.orders import orders_flow, sample_order
from penstock.runtime import Supervisor
from penstock.settings import Settings
from penstock.testing import run
from penstock_http.app import make_app
from penstock_http.deployments.file_watcher import WatchedFiles
from penstock_http.deployments.registry import FlowRegistry
from penstock_http.deployments.reload import Reloader
from penstock_http.deployments.revision import FlowCandidate
from penstock_http.openapi.document import document
from penstock_http.problems import NOT_FOUND_ROUTE
from penstock_http.server.bootstrap import make_loader
from penstock_http.server.dead_letters import DeadLetterWork
from penstock_http.state import AppState
from service.conftest import Serve
from service.processes import Process, serving, until
from service.wire import NDJSON, Response, orders

FLAGS = ("--max-body", 20_000, "--max-count", 500, "--max-runs", 2, "--max-header", 2000, "--stall-timeout", 3)

JSON = "application/json"
SSE = "text/event-stream"
BULK = "/orders/bulk"
GRAPH = "/flows/{name}/graph"
LETTERS = "/dead-letters"
LETTER = "/dead-letters/{id}"
REDRIVES = "/dead-letters/redrives"
REDRIVE = "/dead-letters/redrives/{id}"
FAILURES = "/runs/{id}/failures"

Spec = dict[str, Any]


@pytest.fixture(scope="module")
def spec(server: Process) -> Spec:
    """The description of the service."""
    return server.request("GET", "/openapi.json").json()


@pytest.fixture(scope="module")
def ids(server: Process) -> dict[str, str]:
    """The id of a dead letter, of its run, and of a redrive that has ended, by path."""
    failed = server.post({"orderId": 3}, "rubbish")
    letter = next(record["deadLetter"] for record in failed.results if record["seq"] == 0)
    document = json.dumps({"query": {"ids": [letter]}}).encode()
    job = server.request("POST", REDRIVES, document, Content_Type=JSON).json()["id"]
    until(lambda: server.request("GET", f"{REDRIVES}/{job}").json()["state"] == "completed")
    return {LETTER: letter, FAILURES: failed.headers["penstock-run"], REDRIVE: job}


@pytest.fixture(scope="module")
def deploying(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    """A server whose flows can be replaced."""
    with serving(tmp_path_factory.mktemp("taking"), *FLAGS) as process:
        yield process


class Case(NamedTuple):
    """A request, and the status it must get, with the code of the problem or else the media type. 204 has neither."""

    method: str
    path: str
    status: int
    expected: str
    query: str = ""
    headers: dict[str, str] = {}  # noqa: RUF012 - read only
    body: bytes | None = None
    name: str = "orders"


def post(status: int, expected: str, body: bytes, query: str = "", **headers: str) -> Case:
    """A POST of items."""
    return Case("POST", BULK, status, expected, query, headers, body)


LINES = {"Content_Type": NDJSON}
ARRAY = {"Content_Type": JSON}
ONE_PIECE = {"Accept": JSON}
GZIP = {"Content_Encoding": "gzip"}
HALF = gzip.compress(orders(100))[:-10]
MANY = json.dumps([{"orderId": number} for number in range(1, 3000)]).encode()
PUT = "/flows/{name}"
YAML = {"Content_Type": "application/yaml"}
FLOW = b"""flow: orders
key: orderId
item: {orderId: {type: integer, minimum: 1}}
samples: {orderId: seq}
"""


def put(status: int, expected: str, body: bytes, name: str = "orders", query: str = "", **headers: str) -> Case:
    """A PUT of a flow."""
    return Case("PUT", PUT, status, expected, query, YAML | headers, body, name)


READINGS = [
    Case("GET", "/flows", 200, JSON),
    Case("GET", "/flows/{name}", 200, JSON),
    Case("GET", "/flows/{name}", 404, "flow_not_found", headers={}),
    Case("GET", GRAPH, 200, "text/plain"),
    Case("GET", GRAPH, 200, JSON, "?format=json", {"Accept": "text/html"}),
    Case("GET", GRAPH, 200, "text/plain", headers={"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"}),
    Case("GET", GRAPH, 200, JSON, headers={"Accept": "application/json, */*;q=0.5"}),
    Case("GET", GRAPH, 200, "text/vnd.graphviz", headers={"Accept": "text/vnd.graphviz"}),
    Case("GET", GRAPH, 200, "text/plain", "?format=mermaid"),
    Case("GET", GRAPH, 200, "text/vnd.graphviz", "?format=dot"),
    Case("GET", GRAPH, 400, "bad_parameter", "?format=png"),
    Case("GET", GRAPH, 400, "bad_parameter", "?form=dot"),
    Case("GET", GRAPH, 404, "flow_not_found"),
    Case("GET", GRAPH, 406, "not_acceptable", headers={"Accept": "image/svg+xml"}),
    Case("GET", "/health/live", 200, JSON),
    Case("GET", "/health/ready", 200, JSON),
    Case("GET", "/metrics", 200, "text/plain"),
    Case("GET", "/metrics", 200, "application/openmetrics-text", headers={"Accept": "application/openmetrics-text"}),
    Case("GET", "/openapi.json", 200, JSON),
    Case("GET", LETTERS, 200, JSON),
    Case("GET", LETTERS, 400, "bad_parameter", "?limit=0"),
    Case("GET", LETTERS, 403, "unauthorized", headers={"Forwarded": "for=203.0.113.7"}),
    Case("GET", LETTER, 200, JSON),
    Case("GET", LETTER, 400, "bad_parameter", "?x=1"),
    Case("GET", LETTER, 403, "unauthorized", headers={"Forwarded": "for=203.0.113.7"}),
    Case("GET", LETTER, 404, "dead_letter_not_found"),
    Case("GET", "/dead-letters/groups", 200, JSON),
    Case("GET", "/dead-letters/groups", 400, "bad_parameter", "?limit=0"),
    Case("GET", "/dead-letters/groups", 400, "bad_parameter", "?key=1"),
    Case("GET", "/dead-letters/count", 200, JSON, "?state=waiting"),
    Case("GET", "/dead-letters/count", 400, "bad_parameter", "?limit=1"),
    Case("GET", "/dead-letters/audit", 200, JSON),
    Case("GET", "/dead-letters/audit", 400, "bad_parameter", "?requester=x"),
    Case("GET", "/dead-letters/export", 200, NDJSON),
    Case("GET", "/dead-letters/export", 400, "bad_parameter", "?limit=1"),
    Case("GET", REDRIVES, 200, JSON),
    Case("GET", REDRIVES, 400, "bad_parameter", "?state=ready"),
    Case("GET", REDRIVE, 200, JSON),
    Case("GET", REDRIVE, 200, SSE, headers={"Accept": SSE}),
    Case("GET", REDRIVE, 404, "job_not_found"),
    Case("GET", REDRIVE, 406, "not_acceptable", headers={"Accept": "text/csv"}),
    Case("GET", FAILURES, 200, NDJSON),
    Case("GET", FAILURES, 200, "text/csv", headers={"Accept": "text/csv"}),
    Case("GET", FAILURES, 404, "run_not_found"),
    Case("GET", FAILURES, 406, "not_acceptable", headers={"Accept": "text/html"}),
]


def body(method: str, path: str, status: int, expected: str, document: Any, **headers: str) -> Case:
    """A request with a JSON document."""
    return Case(method, path, status, expected, "", ARRAY | headers, json.dumps(document).encode())


SELECTED = {"query": {"step": "inventory"}}
SET = {"set": ['note="x"']}
CHANGES = [
    body("PATCH", LETTER, 200, JSON, {"input": {"orderId": 3}, "reason": "test"}),
    body("PATCH", LETTER, 400, "invalid_body", {}),
    body("PATCH", LETTER, 404, "dead_letter_not_found", {"input": 1}),
    body("POST", "/dead-letters/park", 200, JSON, {"query": {"step": "nothing"}}),
    body("POST", "/dead-letters/park", 400, "invalid_body", {}),
    body("POST", "/dead-letters/park", 403, "unauthorized", {}, Forwarded="for=203.0.113.7"),
    body("POST", "/dead-letters/park", 403, "cross_origin", {}, Origin="http://evil.example"),
    body("POST", "/dead-letters/park", 413, "body_too_large", {"reason": "x" * 30_000}),
    body("POST", "/dead-letters/park", 415, "unsupported_type", {}, Content_Type="text/plain"),
    body("POST", "/dead-letters/unpark", 200, JSON, {"query": {"step": "nothing"}}),
    body("POST", "/dead-letters/purge", 200, JSON, {"query": {"step": "nothing"}}),
    body("POST", "/dead-letters/edits", 200, JSON, SELECTED | SET | {"preview": True}),
    body("POST", "/dead-letters/edits", 200, JSON, SELECTED | SET),
    body("POST", "/dead-letters/edits", 400, "invalid_body", SELECTED | {"set": ["note=("]}),
    body("POST", REDRIVES, 200, JSON, SELECTED | {"plan": True}),
    body("POST", REDRIVES, 200, JSON, SELECTED | {"try": 1}),
    body("POST", REDRIVES, 201, JSON, {"query": {"step": "decode"}}),
    body("POST", REDRIVES, 400, "invalid_body", {"canary": [0]}),
    body("POST", REDRIVES, 404, "no_letters", {"query": {"step": "nothing"}}),
    body("PATCH", REDRIVE, 400, "invalid_body", {}),
    body("PATCH", REDRIVE, 404, "job_not_found", {"state": "paused"}),
    body("PATCH", REDRIVE, 409, "job_ended", {"state": "paused"}),
    Case("POST", "/dead-letters/import", 200, JSON, headers={"Content_Type": NDJSON}, body=b""),
    Case("POST", "/dead-letters/import", 400, "malformed_body", headers={"Content_Type": NDJSON}, body=b"x"),
    Case("POST", "/dead-letters/import", 415, "unsupported_type", headers={"Content_Type": JSON}, body=b"[]"),
]
PUTS = [
    put(200, JSON, FLOW),
    put(201, JSON, FLOW.replace(b"orders", b"fresh"), name="fresh"),
    put(200, JSON, FLOW, query="?dry-run=true"),
    put(400, "bad_parameter", FLOW, query="?dry-run=maybe"),
    put(400, "malformed_body", b"flow: \xff"),
    put(403, "unauthorized", FLOW, Forwarded="for=203.0.113.7"),
    put(403, "cross_origin", FLOW, Origin="http://evil.example"),
    put(409, "name_mismatch", FLOW.replace(b"orders", b"sales")),
    put(413, "body_too_large", b"#" * 30_000),
    put(415, "unsupported_type", FLOW, Content_Type="text/csv"),
    put(415, "unsupported_encoding", FLOW, Content_Encoding="gzip"),
    put(422, "invalid_flow", b"flow: orders\nstep: []\n"),
    Case("DELETE", PUT, 404, "flow_not_found", name="nothing"),
    Case("DELETE", PUT, 400, "bad_parameter", query="?force=true"),
    Case("DELETE", PUT, 403, "unauthorized", headers={"Forwarded": "for=203.0.113.7"}),
    Case("DELETE", PUT, 403, "cross_origin", headers={"Origin": "http://evil.example"}),
]
CASES = [
    *READINGS,
    *PUTS,
    *CHANGES,
    *(case._replace(method="HEAD") for case in READINGS if not case.query),
    Case("GET", BULK, 200, NDJSON, "?count=4"),
    Case("GET", BULK, 200, SSE, "?count=4", {"Accept": SSE}),
    Case("GET", BULK, 200, JSON, "?count=2", ONE_PIECE),
    Case("GET", BULK, 207, JSON, "?count=4", ONE_PIECE),
    Case("GET", BULK, 204, "nothing", headers={"Last_Event_ID": "3"}),
    Case("GET", BULK, 400, "bad_parameter", "?count=0"),
    Case("GET", BULK, 406, "not_acceptable", headers={"Accept": "text/html"}),
    Case("GET", BULK, 413, "response_too_large", "?count=500", ONE_PIECE),
    post(200, NDJSON, orders(3) + b"rubbish\n[1]\n", **LINES),
    post(200, SSE, orders(3), **LINES, Accept=SSE),
    post(200, JSON, orders(2), **LINES, **ONE_PIECE),
    post(207, JSON, orders(3), **LINES, **ONE_PIECE),
    post(400, JSON, HALF, **LINES, **GZIP, **ONE_PIECE),
    post(400, "bad_parameter", orders(1), "?count=3", **LINES),
    post(400, "malformed_body", b"[", **ARRAY),
    post(400, "not_an_array", b"{}", **ARRAY),
    post(400, "body_decode_failed", HALF, **ARRAY, **GZIP),
    post(406, "not_acceptable", orders(1), **LINES, Accept="text/html"),
    post(409, "cannot_resume", orders(1), **LINES, Last_Event_ID="3"),
    post(413, "body_too_large", MANY, **ARRAY),
    post(413, "response_too_large", orders(500), **LINES, **ONE_PIECE),
    post(415, "unsupported_type", b"", Content_Type="text/csv"),
    post(415, "unsupported_encoding", b"", **LINES, Content_Encoding="br"),
    post(501, "unsupported_transfer", b"0\r\n\r\n", **LINES, Transfer_Encoding="gzip, chunked"),
]
EVERYWHERE = [
    (400, "bad_request", {"X_Bad ": "x"}),
    (431, "headers_too_large", {"X_Long": "x" * 3000}),
    (403, "cross_origin", {"Origin": "http://evil.example"}),
    (403, "host_not_allowed", {"Host": "evil.example"}),
]
"""Rejections of every operation, health checks excepted for the 403s."""


def resolve(spec: Spec, part: Spec) -> Spec:
    """Return the part that a reference points to, or the part itself."""
    if "$ref" not in part:
        return part
    _, *names = part["$ref"].split("/")
    return reduce(getitem, names, spec)


def content(spec: Spec, response: Response, method: str, path: str) -> Any:
    """Return the described schema of a response. Its status, media type and headers must be described."""
    described = spec["paths"][path][method.lower()]["responses"]
    assert str(response.status) in described, f"{response.status} is not among {list(described)}"
    description = resolve(spec, described[str(response.status)])
    for name, header in description.get("headers", {}).items():
        assert name.lower() in response.headers or not resolve(spec, header).get("required"), name
    if method == "HEAD" or response.status == 204:
        assert (response.body, "content" in description) == (b"", False)
        return None
    kind = response.headers["content-type"].split(";")[0]
    assert kind in description["content"], kind
    return description["content"][kind]["schema"]


def documents(response: Response) -> list[Any]:
    """The JSON documents of a body of any media type."""
    match response.headers["content-type"].split(";")[0]:
        case "application/x-ndjson":
            return response.lines()
        case "text/event-stream":
            return [json.loads(line[6:]) for line in response.body.splitlines() if line.startswith(b"data: ")]
        case kind if kind.endswith("json"):
            return [response.json()]
        case _:
            return [response.body.decode()]


def closed(part: Any) -> Any:
    """Return a schema whose objects have no additional properties."""
    if isinstance(part, list):
        return [closed(each) for each in part]
    if not isinstance(part, dict):
        return part
    shut = {"additionalProperties": False} if part.get("type") == "object" and "properties" in part else {}
    return {name: closed(each) for name, each in part.items()} | shut


def validator(spec: Spec, schema: Any) -> Draft202012Validator:
    """A validator of documents against a schema of the description."""
    ours = {name: part for name, part in spec["components"]["schemas"].items() if not name.startswith("item.")}
    schemas = spec["components"]["schemas"] | closed(copy.deepcopy(ours))
    checker = Draft202012Validator.FORMAT_CHECKER
    return Draft202012Validator(schema | {"components": {"schemas": schemas}}, format_checker=checker)


def errors(spec: Spec, schema: Any, found: Any) -> list[str]:
    """The errors of a document."""
    return [f"{error.json_path}: {error.message}" for error in validator(spec, schema).iter_errors(found)]


def check(spec: Spec, response: Response, method: str, path: str) -> list[Any]:
    """Assert that a response is as described. Returns its documents."""
    schema = content(spec, response, method, path)
    if method == "HEAD" or response.status == 204:
        return []
    found = documents(response)
    assert found
    for one in found:
        assert errors(spec, schema, one) == []
    return found


def test_the_description_is_valid_openapi_3_1(spec: Spec) -> None:
    """All references resolve."""
    validate(spec)
    assert spec["openapi"].startswith("3.1")


ORDERS = orders_flow().samples(sample_order)


def app_of(*flows: Flow[Any]) -> tuple[Any, Spec]:
    """An application in this process, and its description."""

    async def make() -> tuple[Any, Spec]:
        supervisor, requests = Supervisor(), HttpCounters()
        registry = FlowRegistry(supervisor, ReloadCounters())
        static = [FlowCandidate(flow, flow.name, "built in") for flow in flows]
        reloader = Reloader(registry, make_loader(Settings()), WatchedFiles(), static)
        await reloader.start()
        state = AppState(
            Settings(), supervisor, registry, reloader, requests, DeadLetterWork(supervisor, registry).desk
        )
        app = make_app(state, PenstockCollector(MetricSources(supervisor, requests, "0")))
        return app, json.loads(json.dumps(document(state)))

    return run(make())


def test_the_description_has_exactly_the_routes_of_the_service() -> None:
    """Each method of each path; the path of a flow stands for the route of all flows."""
    app, spec = app_of(ORDERS)
    routes = [route for route in app.router.routes() if route.name != NOT_FOUND_ROUTE]
    there = {(route.method, route.resource.canonical) for route in routes if route.resource}
    expected = {(method.upper(), path) for path, methods in spec["paths"].items() for method in methods}
    assert {(method, path.replace("/orders/", "/{name}/")) for method, path in expected} == there


def test_the_description_has_the_path_of_each_flow() -> None:
    """With the type of its items. A flow without samples has no GET, one without a type accepts any JSON."""
    sales = Flow[Any]("sales").serve("shop", max_body=100).order()
    _, spec = app_of(ORDERS, sales, Flow("odd", object), Flow("numbers", int), Flow[Any]("hidden").serve(http=False))
    validate(spec)
    bulk = {path: list(methods) for path, methods in spec["paths"].items() if path.endswith("/bulk")}
    items = {path: spec["paths"][path]["post"]["requestBody"]["content"][JSON]["schema"]["items"] for path in bulk}
    assert bulk == {
        "/orders/bulk": ["get", "post"],
        "/shop/bulk": ["post"],
        "/odd/bulk": ["post"],
        "/numbers/bulk": ["post"],
    }
    assert items["/orders/bulk"] == {"$ref": "#/components/schemas/item.Order"}
    assert (items["/shop/bulk"], items["/numbers/bulk"]) == ({}, {"type": "integer"})
    assert spec["components"]["schemas"]["item.Order"]["required"] == ["orderId"]
    order = spec["paths"]["/shop/bulk"]["post"]["parameters"][0]
    assert (order["name"], order["schema"]["default"]) == ("order", "input")
    assert order["schema"]["enum"] == ["completion", "input", "key"]


def name_of(case: Case) -> str:
    return f"{case.method} {case.path} {case.status} {case.expected}"


@pytest.mark.parametrize("case", CASES, ids=name_of)
def test_responses_are_as_described(
    server: Process, deploying: Process, spec: Spec, ids: dict[str, str], case: Case
) -> None:
    """The status, required headers, media type, and the body without additional properties."""
    if case.method == "PUT":
        server = deploying
    there = case.status == 404
    path = case.path.replace("{id}", "nothing" if there else ids.get(case.path, "")).replace(
        "{name}", "sales" if there else case.name
    )
    response = server.request(case.method, path + case.query, case.body, **case.headers)
    assert response.status == case.status
    found = check(spec, response, case.method, case.path)
    if case.method != "HEAD" and case.status != 204:
        kind = response.headers["content-type"].split(";")[0]
        assert case.expected == (found[0]["code"] if "problem" in kind else kind)


@pytest.mark.parametrize(("status", "code", "headers"), EVERYWHERE)
def test_every_operation_has_the_common_rejections(
    server: Process, spec: Spec, status: int, code: str, headers: dict[str, str]
) -> None:
    """Invalid HTTP, large headers, and, except for health checks, other hosts and origins."""
    for path, methods in spec["paths"].items():
        for method in map(str.upper, methods):
            if method != "HEAD" and not (status == 403 and path.startswith("/health/")):
                there = path.replace("{name}", "orders").replace("{id}", "any")
                response = server.request(method, there, **headers)
                assert (response.status, response.json()["code"]) == (status, code)
                check(spec, response, method, path)


def test_operations_need_a_token_as_described(serve: Serve) -> None:
    """With a token set, exactly the operations with that security requirement respond with 401."""
    server = serve(env={"PENSTOCK_TOKEN": "secret"})
    spec = server.request("GET", "/openapi.json").json()
    validate(spec)
    for path, methods in spec["paths"].items():
        for method, operation in methods.items():
            response = server.request(method.upper(), path.replace("{id}", "x").replace("{name}", "orders"), **YAML)
            assert (response.status == 401) == ("security" in operation)
            assert all(set(need) == {"token"} for need in operation.get("security", []))
            check(spec, response, method.upper(), path)


def test_a_stalled_body_is_a_408_as_described(server: Process, spec: Spec) -> None:
    """A problem document for an array, the results in one document for a stream."""
    for headers, expected in ((ARRAY, "stalled"), (LINES | ONE_PIECE, JSON)):
        with server.connect() as client:
            client.upload(**headers)
            client.chunk(orders(1))
            response = client.response().complete()
        (found,) = check(spec, response, "POST", BULK)
        assert (response.status, found.get("code", JSON)) == (408, expected)


def test_an_incomplete_upload_of_a_flow_is_rejected_as_described(deploying: Process, spec: Spec) -> None:
    """408 if it stalls, 400 if it is not a valid chunk."""
    for rubbish, expected in ((b"", (408, "stalled")), (b"rubbish\r\n", (400, "body_decode_failed"))):
        with deploying.connect() as client:
            client.request("PUT", "/flows/orders", **YAML, Transfer_Encoding="chunked", Expect="100-continue")
            assert (client.line(), client.line()) == (b"HTTP/1.1 100 Continue", b"")  # now the handler runs
            client.chunk(b"flow: orders")
            client.send(rubbish)
            response = client.response().complete()
        assert (response.status, check(spec, response, "PUT", PUT)[0]["code"]) == expected


BRANCHED = b"""flow: branched
steps:
  - route:
      big: {when: "true", steps: [{map: value}, {route: {odd: {steps: [{filter: "true"}]}}}]}
  - set: {a: "1"}
"""


def test_the_steps_of_a_flow_include_those_of_branches(deploying: Process) -> None:
    """After the step that has the branch, with the name of the branch."""
    spec = deploying.request("GET", "/openapi.json").json()
    deploying.request("PUT", "/flows/branched", BRANCHED, **YAML)
    response = deploying.request("GET", "/flows/branched")
    check(spec, response, "GET", PUT)
    assert [(step["name"], step["branch"]) for step in response.json()["steps"]] == [
        ("route", None),
        ("map", "route.big"),
        ("route-2", "route.big"),
        ("filter", "route-2.odd"),
        ("set", None),
    ]


def test_deployments_can_be_disabled(serve: Serve, spec: Spec) -> None:
    """`--allow-deployments no` also rejects requests from this machine."""
    server = serve("--allow-deployments", "no")
    for method, body in (("PUT", FLOW), ("DELETE", None)):
        response = server.request(method, "/flows/orders", body, **YAML)
        assert (response.status, check(spec, response, method, PUT)[0]["code"]) == (403, "deployments_disabled")


def test_flows_are_deleted_as_described(serve: Serve, spec: Spec) -> None:
    """Only uploaded flows."""
    server = serve()
    response = server.request("DELETE", "/flows/orders")
    assert (response.status, check(spec, response, "DELETE", PUT)[0]["code"]) == (409, "not_uploaded")
    server.request("PUT", "/flows/fresh", FLOW.replace(b"orders", b"fresh"), **YAML)
    response = server.request("DELETE", "/flows/fresh")
    assert (response.status, check(spec, response, "DELETE", PUT)[0]["outcome"]) == (200, "removed")


def test_a_second_redrive_of_a_group_is_rejected_as_described(server: Process, spec: Spec) -> None:
    """409, as long as the first one has not ended. A change of the first is as described too."""
    server.post({"orderId": 3}, {"orderId": 6})
    document = json.dumps({"query": {"type": "InventoryUnavailable"}, "rate": 0.01}).encode()
    first = server.request("POST", REDRIVES, document, **ARRAY)
    second = server.request("POST", REDRIVES, document, **ARRAY)
    assert (second.status, check(spec, second, "POST", REDRIVES)[0]["code"]) == (409, "job_conflict")
    for change in ({"state": "paused"}, {"rate": None}, {"state": "cancelled", "reason": "test"}):
        changed = server.request("PATCH", first.headers["location"], json.dumps(change).encode(), **ARRAY)
        assert (changed.status, len(check(spec, changed, "PATCH", REDRIVE))) == (200, 1)


def test_too_many_streams_are_rejected_as_described(server: Process, spec: Spec) -> None:
    """503, `too_many_runs`, with `Retry-After`."""
    with server.connect() as first, server.connect() as second:
        for client in (first, second):
            client.upload()
            assert client.response().status == 200
        for method, body in (("GET", None), ("POST", orders(1))):
            response = server.request(method, BULK, body, **LINES)
            assert check(spec, response, method, BULK)[0]["code"] == "too_many_runs"
        for client in (first, second):
            client.chunk(b"")


def test_responses_during_shutdown_are_as_described(serve: Serve) -> None:
    """503: not ready, no further streams, and documents of open runs have the reason `draining`."""
    server = serve("--latency-scale", 40, "--window", 2, "--grace-period", 60)
    spec = server.request("GET", "/openapi.json").json()
    requests = (("GET", "/health/ready"), ("HEAD", "/health/ready"), ("GET", BULK), ("POST", BULK))
    with ExitStack() as stack:
        # Connections of their own, made before: each response closes its connection, and new ones are refused.
        get, upload, put, *late = (stack.enter_context(server.connect()) for _ in range(3 + len(requests)))
        get.request("GET", f"{BULK}?count=9", **ONE_PIECE)
        upload.upload(**ONE_PIECE)
        upload.chunk(orders(1))
        until(lambda: server.metric("penstock_in_flight") == 3, period=0.1)
        server.signal(signal.SIGTERM)
        server.event("shutdown.phase", phase="draining")
        for client, (method, path) in zip(late, requests, strict=True):
            client.request(method, path, b"" if method == "POST" else None, **LINES)
            response = client.response(method).complete()
            assert response.status == 503
            expected = check(spec, response, method, path)
            assert path != BULK or expected[0]["code"] == "shutting_down"
        put.request("PUT", "/flows/orders", FLOW, **YAML)
        assert check(spec, put.response("PUT").complete(), "PUT", PUT)[0]["code"] == "shutting_down"
        for method, client in (("GET", get), ("POST", upload)):
            response = client.response().complete()
            assert check(spec, response, method, BULK)[0]["end"]["reason"] == "draining"
            assert response.status == 503
    assert server.wait() == 0


def test_pages_of_dead_letters_are_as_described(server: Process, spec: Spec) -> None:
    """Dead letters with and without a key, of text and of bytes, complete and truncated, on more than one page."""
    server.request("POST", BULK, orders(3) + b'\xff\n{"orderId":"x"}\n[]\n', **LINES)
    page = server.request("GET", f"{LETTERS}?limit=2")
    assert check(spec, page, "GET", LETTERS)[0]["next"]
    for letter in server.request("GET", LETTERS).json()["letters"]:
        assert errors(spec, {"$ref": "#/components/schemas/DeadLetter"}, letter) == []


@pytest.mark.parametrize(
    "line", ['{"orderId":1}', '{"orderId":7,"x":[null]}', '{"orderId":0}', '{"orderId":"1"}', "{}", "5", "[]", "null"]
)
def test_items_are_valid_exactly_if_their_schema_accepts_them(server: Process, spec: Spec, line: str) -> None:
    """Other items fail in `decode`."""
    item = {"$ref": spec["paths"][BULK]["post"]["requestBody"]["content"][NDJSON]["schema"]["$ref"]}
    (record,) = server.request("POST", BULK, line.encode(), **LINES).results
    assert validator(spec, item).is_valid(json.loads(line)) == record["ok"]


def test_every_described_body_type_and_encoding_is_accepted(server: Process, spec: Spec) -> None:
    """Each media type and each encoding."""
    expected = spec["paths"][BULK]["post"]
    for kind in expected["requestBody"]["content"]:
        body = b'[{"orderId":1}]' if kind == JSON else orders(1)
        assert server.request("POST", BULK, body, Content_Type=kind).end["ok"] == 1
    (encodings,) = (each["schema"]["enum"] for each in expected["parameters"] if each["name"] == "Content-Encoding")
    for encoding in encodings:
        assert server.request("POST", BULK, b"", **LINES, Content_Encoding=encoding).status == 200


def test_parameters_have_the_described_bounds(server: Process, spec: Spec) -> None:
    """Values at the bounds and of an enumeration are accepted, others are rejected."""
    for path in (BULK, LETTERS):
        for parameter in spec["paths"][path]["get"]["parameters"]:
            if parameter["in"] != "query":
                continue
            name, schema = parameter["name"], parameter["schema"].get("items", parameter["schema"])
            taken, rejected = ["2030-01-31T12:00:00Z"], []
            if "enum" in schema:
                taken, rejected = schema["enum"], ["random"]
            elif schema["type"] == "integer":
                taken = [schema["minimum"], schema["maximum"], schema["default"]]
                rejected = [schema["minimum"] - 1, schema["maximum"] + 1]
            elif schema.get("format") == "uuid" or name == "after":
                taken, rejected = ["01890000-0000-7000-8000-000000000000"], ["zz", ""]
            elif "format" in schema:
                rejected = ["yesterday"]
            assert [server.request("GET", f"{path}?{name}={value}").status for value in taken] == [200] * len(taken)
            assert [server.request("GET", f"{path}?{name}={value}").status for value in rejected] == [400] * len(
                rejected
            )


def test_item_types_of_several_flow_files_are_distinct() -> None:
    """Also if they have nested types."""
    one = loads("flow: a\nitem: {id: integer, to: {fields: {zip: string}}}\n", "a.yaml").flow
    other = loads("flow: b\nitem: {id: string}\n", "b.yaml").flow
    _, spec = app_of(one, other)
    validate(spec)
    items = [
        spec["paths"][f"/{name}/bulk"]["post"]["requestBody"]["content"][JSON]["schema"]["items"]["$ref"]
        for name in ("a", "b")
    ]
    found = [spec["components"]["schemas"][ref.rpartition("/")[2]]["properties"]["id"]["type"] for ref in items]
    assert found == ["integer", "string"]
