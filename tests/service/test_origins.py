"""Web pages and DNS rebinding: which hosts and origins are served, over real sockets."""

from __future__ import annotations

import pytest

from service.conftest import Serve
from service.processes import Process
from service.wire import Answer

BULK = "/orders/bulk?count=1"
FLAGS = ("--allowed-hosts", "penstock.example", "--allowed-origins", "https://app.example, http://localhost:3000")
EVIL = "http://evil.example"


def ask(server: Process, path: str, host: str = "127.0.0.1", method: str = "GET", **headers: str) -> Answer:
    """A request with these headers, such as `Sec_Fetch_Site`, without any others."""
    return server.ask(method, path, Host=host, **headers)


def code(answer: Answer) -> str:
    """The code of a refusal; its status if it is none."""
    if answer.headers["content-type"] != "application/problem+json":
        return str(answer.status)
    problem = answer.json()
    assert problem["status"] == answer.status
    return str(problem["code"])


PATHS = [BULK, "/flows", "/flows/orders", "/flows/orders/graph", "/metrics", "/openapi.json", "/dead-letters", "/x"]


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": EVIL},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:1"},
        {"Origin": "http://127.0.0.1.evil.example"},
        {"Origin": "ftp://127.0.0.1"},
        {"Sec_Fetch_Site": "cross-site"},
        {"Sec_Fetch_Site": "same-site"},
        {"Sec_Fetch_Site": "cross-site", "Sec_Fetch_Mode": "no-cors", "Sec_Fetch_Dest": "image"},
        {"Sec_Fetch_Site": "cross-site", "Sec_Fetch_Mode": "navigate", "Sec_Fetch_Dest": "iframe"},
    ],
    ids=str,
)
def test_pages_of_other_origins_are_refused(server: Process, path: str, headers: dict[str, str]) -> None:
    """On every route: they could start runs, or read what the service knows."""
    answer = ask(server, path, **headers)

    assert (answer.status, code(answer)) == (403, "cross_origin")


def test_no_run_is_started_for_a_page_of_another_origin(server: Process) -> None:
    """The refusal comes first, and is counted."""
    runs, refused = (server.metric("penstock_runs_total"), server.metric("penstock_http_rejected_total"))

    ask(server, "/orders/bulk?count=30000", Origin=EVIL, Sec_Fetch_Site="cross-site")

    assert server.metric("penstock_runs_total") == runs
    assert server.metric("penstock_http_rejected_total") == refused + 1


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Origin": "http://127.0.0.1"},
        {"Origin": "http://127.0.0.1:80", "Sec_Fetch_Site": "same-origin"},
        {"Sec_Fetch_Site": "same-origin"},
        {"Sec_Fetch_Site": "none", "Sec_Fetch_Mode": "navigate", "Sec_Fetch_Dest": "document"},
        {"Origin": "https://app.example", "Sec_Fetch_Site": "cross-site"},
        {"Origin": "http://localhost:3000", "Sec_Fetch_Site": "same-site"},
    ],
    ids=str,
)
def test_own_pages_users_and_allowed_origins_are_served(server: Process, headers: dict[str, str]) -> None:
    """And clients that are no browsers."""
    assert ask(server, BULK, **headers).end["ok"] == 1
    assert ask(server, "/flows", **headers).status == 200


def test_a_link_shows_something_but_starts_nothing(server: Process) -> None:
    """A page that links to the service cannot read the response; a run would be started all the same."""
    link = {"Sec_Fetch_Site": "cross-site", "Sec_Fetch_Mode": "navigate", "Sec_Fetch_Dest": "document"}

    assert [code(ask(server, path, **link)) for path in (BULK, "/flows/orders/graph", "/metrics")] == [
        "cross_origin",
        "200",
        "200",
    ]
    assert code(ask(server, "/flows", method="POST", **link)) == "cross_origin"


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("localhost", "200"),
        ("LOCALHOST.:8080", "200"),
        ("penstock.localhost", "200"),
        ("127.0.0.1:65535", "200"),
        ("127.1.2.3", "200"),
        ("[::1]:8080", "200"),
        ("penstock.example:8080", "200"),
        ("evil.example", "host_not_allowed"),
        ("evil.example:80", "host_not_allowed"),
        ("localhost.evil.example", "host_not_allowed"),
        ("penstock.example.evil.example", "host_not_allowed"),
        ("10.0.0.1", "host_not_allowed"),
        ("[::2]", "host_not_allowed"),
        ("x@localhost", "bad_request"),
        ("evil.example/localhost", "bad_request"),
        ("127.0.0.1:abc", "bad_request"),
        ("127.0.0.1:99999", "bad_request"),
        ("[::1]:5:5", "bad_request"),
        ("localhost, evil.example", "bad_request"),
        ("localhost\r\nHost: evil.example", "bad_request"),
        ("", "bad_request"),
    ],
)
def test_a_local_service_is_for_local_hosts(server: Process, host: str, expected: str) -> None:
    """Another name that leads to this machine is one that a page made up (DNS rebinding)."""
    assert code(ask(server, "/flows", host)) == expected


@pytest.mark.parametrize("target", ["http://localhost/flows", "http://localhost/dead-letters", "http://127.0.0.1"])
@pytest.mark.parametrize("host", ["localhost", "evil.example"])
def test_a_request_target_is_a_path(server: Process, target: str, host: str) -> None:
    """Of an absolute URL the host would count, and not the header that was checked."""
    assert ask(server, target, host).status == 400


@pytest.mark.parametrize("path", ["/health/live", "/health/ready"])
def test_health_is_for_everybody(server: Process, path: str) -> None:
    """Probes come with any name."""
    assert ask(server, path, "10.1.2.3:8080", Origin=EVIL, Sec_Fetch_Site="cross-site").status == 200


def test_a_preflight_request_of_an_allowed_origin_is_answered(server: Process) -> None:
    """With the methods that the path has; for others it is refused."""
    asks = {"Access_Control_Request_Method": "POST", "Access_Control_Request_Headers": "content-type"}

    answer = ask(server, "/orders/bulk", method="OPTIONS", Origin="https://app.example", **asks)
    assert answer.status == 204
    assert answer.headers["access-control-allow-origin"] == "https://app.example"
    assert answer.headers["access-control-allow-methods"] == "GET, POST"
    assert "Content-Type" in answer.headers["access-control-allow-headers"]
    assert answer.headers["vary"] == "Origin"
    assert code(ask(server, "/orders/bulk", method="OPTIONS", Origin=EVIL, **asks)) == "cross_origin"


@pytest.mark.parametrize("path", [BULK, "/flows", "/x"])
def test_an_allowed_origin_may_read_the_response(server: Process, path: str) -> None:
    """Also a stream, and a refusal; caches keep responses to different origins apart."""
    answer = ask(server, path, Origin="https://app.example")

    assert answer.headers["access-control-allow-origin"] == "https://app.example"
    assert "Penstock-Run" in answer.headers["access-control-expose-headers"]
    assert "Origin" in answer.headers["vary"]
    plain = ask(server, path)
    assert "access-control-allow-origin" not in plain.headers
    assert "Origin" in plain.headers["vary"]


def test_an_allowed_origin_brings_no_flows_without_a_token(server: Process) -> None:
    """A flow runs code in the service."""
    answer = server.ask(
        "PUT", "/flows/a?dry-run=true", b"flow: a\n", Content_Type="application/yaml", Origin="https://app.example"
    )

    assert code(answer) == "cross_origin"


def test_a_service_on_all_addresses_is_for_all_hosts(serve: Serve) -> None:
    """Containers and scrapers know it by any name; pages of other origins are refused there too."""
    server = serve("--host", "0.0.0.0")
    server.host = "127.0.0.1"

    assert [code(ask(server, "/flows", host)) for host in ("penstock", "10.0.0.1:8080")] == ["200", "200"]
    assert code(ask(server, "/flows", "penstock:80", Origin="https://penstock:80")) == "200"
    assert code(ask(server, "/flows", "penstock", Origin=EVIL)) == "cross_origin"
    assert "vary" not in ask(server, "/flows", "penstock").headers


def test_with_allowed_hosts_it_is_for_these_only(serve: Serve) -> None:
    """Save health checks."""
    server = serve("--host", "0.0.0.0", "--allowed-hosts", "penstock.example,10.0.0.1")
    server.host = "127.0.0.1"

    hosts = ("penstock.example:443", "10.0.0.1", "localhost", "evil.example")
    assert [code(ask(server, "/flows", host)) for host in hosts] == [
        "200",
        "200",
        "host_not_allowed",
        "host_not_allowed",
    ]
    assert ask(server, "/health/live", "localhost").status == 200
