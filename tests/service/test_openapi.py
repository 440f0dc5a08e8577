"""`/openapi.json` describes the service: all its routes, and the status, headers and body of its responses."""

from __future__ import annotations

import copy
import gzip
import json
import signal
from collections.abc import Iterator
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
from penstock_http.state import AppState
from service.conftest import Serve
from service.processes import Process, serving, until
from service.wire import NDJSON, Answer, orders

FLAGS = ("--max-body", 20_000, "--max-count", 500, "--max-runs", 2, "--max-header", 2000, "--stall-timeout", 3)

JSON = "application/json"
SSE = "text/event-stream"
BULK = "/orders/bulk"
GRAPH = "/flows/{name}/graph"
LETTERS = "/dead-letters"
LETTER = "/dead-letters/{id}"

Spec = dict[str, Any]


@pytest.fixture(scope="module")
def spec(server: Process) -> Spec:
    """What the service says about itself."""
    return server.ask("GET", "/openapi.json").json()


@pytest.fixture(scope="module")
def id(server: Process) -> str:
    """The id of a letter."""
    return next(record["deadLetter"] for record in server.post({"orderId": 3}).results)


@pytest.fixture(scope="module")
def taking(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    """A server that may be given other flows."""
    with serving(tmp_path_factory.mktemp("taking"), *FLAGS) as process:
        yield process


class Case(NamedTuple):
    """A request, and what it is to provoke: a status with the code of its problem, or else with its media type; 204 has
    neither ("nothing")."""

    method: str
    path: str
    status: int
    said: str
    query: str = ""
    headers: dict[str, str] = {}  # noqa: RUF012 - read only
    body: bytes | None = None
    name: str = "orders"


def post(status: int, said: str, body: bytes, query: str = "", **headers: str) -> Case:
    """A POST of items."""
    return Case("POST", BULK, status, said, query, headers, body)


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


def put(status: int, said: str, body: bytes, name: str = "orders", query: str = "", **headers: str) -> Case:
    """A PUT of a flow."""
    return Case("PUT", PUT, status, said, query, YAML | headers, body, name)


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


def content(spec: Spec, answer: Answer, method: str, path: str) -> Any:
    """Return the described schema of a response. Its status, its type and its headers must be described."""
    described = spec["paths"][path][method.lower()]["responses"]
    assert str(answer.status) in described, f"{answer.status} is not among {list(described)}"
    response = resolve(spec, described[str(answer.status)])
    for name, header in response.get("headers", {}).items():
        assert name.lower() in answer.headers or not resolve(spec, header).get("required"), name
    if method == "HEAD" or answer.status == 204:
        assert (answer.body, "content" in response) == (b"", False)
        return None
    kind = answer.headers["content-type"].split(";")[0]
    assert kind in response["content"], kind
    return response["content"][kind]["schema"]


def documents(answer: Answer) -> list[Any]:
    """The JSON documents of a body, of whatever type it is."""
    match answer.headers["content-type"].split(";")[0]:
        case "application/x-ndjson":
            return answer.lines()
        case "text/event-stream":
            return [json.loads(line[6:]) for line in answer.body.splitlines() if line.startswith(b"data: ")]
        case kind if kind.endswith("json"):
            return [answer.json()]
        case _:
            return [answer.body.decode()]


def closed(part: Any) -> Any:
    """Schemas whose objects may have nothing that they do not name."""
    if isinstance(part, list):
        return [closed(each) for each in part]
    if not isinstance(part, dict):
        return part
    shut = {"additionalProperties": False} if part.get("type") == "object" and "properties" in part else {}
    return {name: closed(each) for name, each in part.items()} | shut


def validator(spec: Spec, schema: Any) -> Draft202012Validator:
    """Checks documents against a schema of the document."""
    ours = {name: part for name, part in spec["components"]["schemas"].items() if not name.startswith("item.")}
    schemas = spec["components"]["schemas"] | closed(copy.deepcopy(ours))
    checker = Draft202012Validator.FORMAT_CHECKER
    return Draft202012Validator(schema | {"components": {"schemas": schemas}}, format_checker=checker)


def faults(spec: Spec, schema: Any, found: Any) -> list[str]:
    """What is wrong with a document."""
    return [f"{error.json_path}: {error.message}" for error in validator(spec, schema).iter_errors(found)]


def check(spec: Spec, answer: Answer, method: str, path: str) -> list[Any]:
    """Assert that an answer is as the document says; returns its documents."""
    schema = content(spec, answer, method, path)
    if method == "HEAD" or answer.status == 204:
        return []
    found = documents(answer)
    assert found
    for one in found:
        assert faults(spec, schema, one) == []
    return found


def test_it_is_valid_openapi(spec: Spec) -> None:
    """By the schema of OpenAPI 3.1, with every reference resolved."""
    validate(spec)
    assert spec["openapi"].startswith("3.1")


ORDERS = orders_flow().samples(sample_order)


def app_of(*flows: Flow[Any]) -> tuple[Any, Spec]:
    """An application in this process, and what it says about itself."""

    async def make() -> tuple[Any, Spec]:
        supervisor, requests = Supervisor(), HttpCounters()
        registry = FlowRegistry(supervisor, ReloadCounters())
        static = [FlowCandidate(flow, flow.name, "built in") for flow in flows]
        reloader = Reloader(registry, make_loader(Settings()), WatchedFiles(), static)
        await reloader.start()
        state = AppState(Settings(), supervisor, registry, reloader, requests)
        app = make_app(state, PenstockCollector(MetricSources(supervisor, requests, "0")))
        return app, json.loads(json.dumps(document(state)))

    return run(make())


def test_it_has_every_route_and_nothing_else() -> None:
    """Each method of each path, HEAD too; a flow's path stands for the route of all flows."""
    app, spec = app_of(ORDERS)
    routes = [route for route in app.router.routes() if route.name != NOT_FOUND_ROUTE]
    there = {(route.method, route.resource.canonical) for route in routes if route.resource}
    said = {(method.upper(), path) for path, methods in spec["paths"].items() for method in methods}
    assert {(method, path.replace("/orders/", "/{name}/")) for method, path in said} == there


def test_each_flow_that_is_served_has_its_path() -> None:
    """With the type of its items; one without samples has no GET, one without a type takes any JSON."""
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


def name_of(case: Case) -> str:
    return f"{case.method} {case.path} {case.status} {case.said}"


@pytest.mark.parametrize("case", CASES, ids=name_of)
def test_the_service_answers_as_it_says(server: Process, taking: Process, spec: Spec, id: str, case: Case) -> None:
    """Status, headers, type and body: nothing is missing, and nothing is there that was not said."""
    if case.method == "PUT":
        server = taking
    there = case.status == 404
    path = case.path.replace("{id}", "nothing" if there else id).replace("{name}", "sales" if there else case.name)
    answer = server.ask(case.method, path + case.query, case.body, **case.headers)
    assert answer.status == case.status
    found = check(spec, answer, case.method, case.path)
    if case.method != "HEAD" and case.status != 204:
        kind = answer.headers["content-type"].split(";")[0]
        assert case.said == (found[0]["code"] if "problem" in kind else kind)


@pytest.mark.parametrize(("status", "code", "headers"), EVERYWHERE)
def test_some_rejections_belong_to_every_operation(
    server: Process, spec: Spec, status: int, code: str, headers: dict[str, str]
) -> None:
    """Invalid HTTP, large headers, unknown expectations, and, except for health checks, foreign hosts and origins."""
    for path, methods in spec["paths"].items():
        for method in map(str.upper, methods):
            if method != "HEAD" and not (status == 403 and path.startswith("/health/")):
                there = path.replace("{name}", "orders").replace("{id}", "any")
                answer = server.ask(method, there, **headers)
                assert (answer.status, answer.json()["code"]) == (status, code)
                check(spec, answer, method, path)


def test_a_token_is_asked_for_as_it_says(serve: Serve) -> None:
    """With a token set, the operations on dead letters need it, and the others do not."""
    server = serve(env={"PENSTOCK_TOKEN": "secret"})
    spec = server.ask("GET", "/openapi.json").json()
    validate(spec)
    for path in (LETTERS, LETTER):
        for method in ("GET", "HEAD"):
            answer = server.ask(method, path.replace("{id}", "x"))
            check(spec, answer, method, path)
            assert answer.status == 401
    answer = server.ask("PUT", "/flows/orders", FLOW, **YAML)
    assert check(spec, answer, "PUT", PUT)[0]["code"] == "unauthorized"
    assert answer.status == 401
    asked = {path: methods["get"].get("security") for path, methods in spec["paths"].items()}
    assert {path: how for path, how in asked.items() if how} == {LETTERS: [{"token": []}], LETTER: [{"token": []}]}
    assert spec["paths"][PUT]["put"]["security"] == [{"token": []}]


def test_a_body_that_does_not_arrive_is_answered_as_it_says(server: Process, spec: Spec) -> None:
    """408: a problem for an array, the accounts for a stream that was to be answered in one piece."""
    for headers, said in ((ARRAY, "stalled"), (LINES | ONE_PIECE, JSON)):
        with server.connect() as client:
            client.upload(**headers)
            client.chunk(orders(1))
            answer = client.answer().complete()
        (found,) = check(spec, answer, "POST", BULK)
        assert (answer.status, found.get("code", JSON)) == (408, said)


def test_a_flow_that_does_not_arrive_is_refused_as_it_says(taking: Process, spec: Spec) -> None:
    """408 when it stops, 400 when what comes is no chunk."""
    for rubbish, said in ((b"", (408, "stalled")), (b"rubbish\r\n", (400, "body_decode_failed"))):
        with taking.connect() as client:
            client.request("PUT", "/flows/orders", **YAML, Transfer_Encoding="chunked", Expect="100-continue")
            assert (client.line(), client.line()) == (b"HTTP/1.1 100 Continue", b"")  # by now it is in its handler
            client.chunk(b"flow: orders")
            client.send(rubbish)
            answer = client.answer().complete()
        assert (answer.status, check(spec, answer, "PUT", PUT)[0]["code"]) == said


BRANCHED = b"""flow: branched
steps:
  - route:
      big: {when: "true", steps: [{map: value}, {route: {odd: {steps: [{filter: "true"}]}}}]}
  - set: {a: "1"}
"""


def test_steps_on_branches_are_among_the_steps_of_a_flow(taking: Process) -> None:
    """Each behind the step that has the branch, with the name of the branch."""
    spec = taking.ask("GET", "/openapi.json").json()
    taking.ask("PUT", "/flows/branched", BRANCHED, **YAML)
    answer = taking.ask("GET", "/flows/branched")
    check(spec, answer, "GET", PUT)
    assert [(step["name"], step["branch"]) for step in answer.json()["steps"]] == [
        ("route", None),
        ("map", "route.big"),
        ("route-2", "route.big"),
        ("filter", "route-2.odd"),
        ("set", None),
    ]


def test_flows_are_taken_only_where_that_is_allowed(serve: Serve, spec: Spec) -> None:
    """`--allow-deployments no` switches it off, for this machine too."""
    server = serve("--allow-deployments", "no")
    for method, body in (("PUT", FLOW), ("DELETE", None)):
        answer = server.ask(method, "/flows/orders", body, **YAML)
        assert (answer.status, check(spec, answer, method, PUT)[0]["code"]) == (403, "deployments_disabled")


def test_flows_are_removed_as_it_says(serve: Serve, spec: Spec) -> None:
    """Those that were uploaded."""
    server = serve()
    answer = server.ask("DELETE", "/flows/orders")
    assert (answer.status, check(spec, answer, "DELETE", PUT)[0]["code"]) == (409, "not_uploaded")
    server.ask("PUT", "/flows/fresh", FLOW.replace(b"orders", b"fresh"), **YAML)
    answer = server.ask("DELETE", "/flows/fresh")
    assert (answer.status, check(spec, answer, "DELETE", PUT)[0]["outcome"]) == (200, "removed")


def test_too_many_streams_are_refused_as_it_says(server: Process, spec: Spec) -> None:
    """503, `too_many_runs`, with `Retry-After`."""
    with server.connect() as first, server.connect() as second:
        for client in (first, second):
            client.upload()
            assert client.answer().status == 200
        for method, body in (("GET", None), ("POST", orders(1))):
            answer = server.ask(method, BULK, body, **LINES)
            assert check(spec, answer, method, BULK)[0]["code"] == "too_many_runs"
        for client in (first, second):
            client.chunk(b"")


def test_a_stop_is_answered_as_it_says(serve: Serve) -> None:
    """503: not ready, no further streams, and what is under way in one piece ends with its accounts."""
    server = serve("--latency-scale", 40, "--window", 2, "--grace-period", 60)
    spec = server.ask("GET", "/openapi.json").json()
    with server.connect() as get, server.connect() as upload, server.connect() as late:
        get.request("GET", f"{BULK}?count=9", **ONE_PIECE)
        upload.upload(**ONE_PIECE)
        upload.chunk(orders(1))
        until(lambda: server.metric("penstock_in_flight") == 3)
        server.signal(signal.SIGTERM)
        server.event("shutdown.phase", phase="draining")
        for method, path in (("GET", "/health/ready"), ("HEAD", "/health/ready"), ("GET", BULK), ("POST", BULK)):
            late.request(method, path, b"" if method == "POST" else None, **LINES)
            answer = late.answer(method).complete()
            assert answer.status == 503
            said = check(spec, answer, method, path)
            assert path != BULK or said[0]["code"] == "shutting_down"
        late.request("PUT", "/flows/orders", FLOW, **YAML)
        assert check(spec, late.answer("PUT").complete(), "PUT", PUT)[0]["code"] == "shutting_down"
        for method, client in (("GET", get), ("POST", upload)):
            answer = client.answer().complete()
            assert check(spec, answer, method, BULK)[0]["end"]["reason"] == "draining"
            assert answer.status == 503
    assert server.wait() == 0


def test_a_page_and_its_letters_are_as_it_says(server: Process, spec: Spec) -> None:
    """Letters with and without a key, of text and of bytes, whole and cut, on more than one page."""
    server.ask("POST", BULK, orders(3) + b'\xff\n{"orderId":"x"}\n[]\n', **LINES)
    page = server.ask("GET", f"{LETTERS}?limit=2")
    assert check(spec, page, "GET", LETTERS)[0]["next"]
    for letter in server.ask("GET", LETTERS).json()["letters"]:
        assert faults(spec, {"$ref": "#/components/schemas/DeadLetter"}, letter) == []


@pytest.mark.parametrize(
    "line", ['{"orderId":1}', '{"orderId":7,"x":[null]}', '{"orderId":0}', '{"orderId":"1"}', "{}", "5", "[]", "null"]
)
def test_an_item_is_what_its_schema_says(server: Process, spec: Spec, line: str) -> None:
    """What the schema of the items takes is an item, and what it does not take fails at `decode`."""
    item = {"$ref": spec["paths"][BULK]["post"]["requestBody"]["content"][NDJSON]["schema"]["$ref"]}
    (record,) = server.ask("POST", BULK, line.encode(), **LINES).results
    assert validator(spec, item).is_valid(json.loads(line)) == record["ok"]


def test_bodies_come_in_every_way_that_it_says(server: Process, spec: Spec) -> None:
    """Each media type and each encoding."""
    said = spec["paths"][BULK]["post"]
    for kind in said["requestBody"]["content"]:
        body = b'[{"orderId":1}]' if kind == JSON else orders(1)
        assert server.ask("POST", BULK, body, Content_Type=kind).end["ok"] == 1
    (encodings,) = (each["schema"]["enum"] for each in said["parameters"] if each["name"] == "Content-Encoding")
    for encoding in encodings:
        assert server.ask("POST", BULK, b"", **LINES, Content_Encoding=encoding).status == 200


def test_parameters_have_the_bounds_that_it_says(server: Process, spec: Spec) -> None:
    """Numbers at their bounds and words of the list are taken, others refused; each parameter is known."""
    for path in (BULK, LETTERS):
        for parameter in spec["paths"][path]["get"]["parameters"]:
            if parameter["in"] != "query":
                continue
            name, schema = parameter["name"], parameter["schema"]
            taken, refused = ["2030-01-31T12:00:00Z"], []
            if "enum" in schema:
                taken, refused = schema["enum"], ["random"]
            elif schema["type"] == "integer":
                taken = [schema["minimum"], schema["maximum"], schema["default"]]
                refused = [schema["minimum"] - 1, schema["maximum"] + 1]
            elif schema.get("format") == "uuid":
                taken, refused = ["01890000-0000-7000-8000-000000000000"], ["zz", ""]
            elif "format" in schema:
                refused = ["yesterday"]
            assert [server.ask("GET", f"{path}?{name}={value}").status for value in taken] == [200] * len(taken)
            assert [server.ask("GET", f"{path}?{name}={value}").status for value in refused] == [400] * len(refused)


def test_flows_of_several_files_have_a_type_each() -> None:
    """Also those whose items are described in the file, and hold others."""
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
