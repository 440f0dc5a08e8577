"""Host and origin checks against web pages (CSRF) and DNS rebinding, over real sockets."""

from __future__ import annotations

import pytest

from service.conftest import Serve
from service.processes import Process
from service.wire import Response

BULK = "/orders/bulk?count=1"
FLAGS = ("--allowed-hosts", "penstock.example", "--allowed-origins", "https://app.example, http://localhost:3000")
EVIL = "http://evil.example"


def request(server: Process, path: str, host: str = "127.0.0.1", method: str = "GET", **headers: str) -> Response:
    """A request with only these headers, such as `Sec_Fetch_Site`."""
    return server.request(method, path, Host=host, **headers)


def code(response: Response) -> str:
    """The code of a rejection, or else the status."""
    if response.headers["content-type"] != "application/problem+json":
        return str(response.status)
    problem = response.json()
    assert problem["status"] == response.status
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
def test_pages_of_other_origins_are_rejected(server: Process, path: str, headers: dict[str, str]) -> None:
    """On every route, because they could start runs or read data of the service."""
    response = request(server, path, **headers)

    assert (response.status, code(response)) == (403, "cross_origin")


def test_no_run_is_started_for_a_page_of_another_origin(server: Process) -> None:
    """The request is rejected before, and counted."""
    runs, rejected = (server.metric("penstock_runs_total"), server.metric("penstock_http_rejected_total"))

    request(server, "/orders/bulk?count=30000", Origin=EVIL, Sec_Fetch_Site="cross-site")

    assert server.metric("penstock_runs_total") == runs
    assert server.metric("penstock_http_rejected_total") == rejected + 1


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
def test_same_origin_pages_users_and_allowed_origins_are_served(server: Process, headers: dict[str, str]) -> None:
    """And clients that are not browsers."""
    assert request(server, BULK, **headers).end["ok"] == 1
    assert request(server, "/flows", **headers).status == 200


def test_a_link_can_open_pages_but_not_start_runs(server: Process) -> None:
    """A linking page cannot read the response, but it could start a run."""
    link = {"Sec_Fetch_Site": "cross-site", "Sec_Fetch_Mode": "navigate", "Sec_Fetch_Dest": "document"}

    assert [code(request(server, path, **link)) for path in (BULK, "/flows/orders/graph", "/metrics")] == [
        "cross_origin",
        "200",
        "200",
    ]
    assert code(request(server, "/flows", method="POST", **link)) == "cross_origin"


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
def test_a_service_on_loopback_accepts_only_local_hosts(server: Process, host: str, expected: str) -> None:
    """Another name for this machine may come from a web page (DNS rebinding)."""
    assert code(request(server, "/flows", host)) == expected


@pytest.mark.parametrize("target", ["http://localhost/flows", "http://localhost/dead-letters", "http://127.0.0.1"])
@pytest.mark.parametrize("host", ["localhost", "evil.example"])
def test_an_absolute_url_as_request_target_is_rejected(server: Process, target: str, host: str) -> None:
    """Its host would count instead of the header that was checked."""
    assert request(server, target, host).status == 400


@pytest.mark.parametrize("path", ["/health/live", "/health/ready"])
def test_health_checks_accept_any_host_and_origin(server: Process, path: str) -> None:
    """Probes use any host name."""
    assert request(server, path, "10.1.2.3:8080", Origin=EVIL, Sec_Fetch_Site="cross-site").status == 200


def test_a_preflight_request_gets_the_methods_of_the_path(server: Process) -> None:
    """Preflight requests of other origins are rejected."""
    asks = {"Access_Control_Request_Method": "POST", "Access_Control_Request_Headers": "content-type"}

    response = request(server, "/orders/bulk", method="OPTIONS", Origin="https://app.example", **asks)
    assert response.status == 204
    assert response.headers["access-control-allow-origin"] == "https://app.example"
    assert response.headers["access-control-allow-methods"] == "GET, POST"
    assert "Content-Type" in response.headers["access-control-allow-headers"]
    assert response.headers["vary"] == "Origin"
    assert code(request(server, "/orders/bulk", method="OPTIONS", Origin=EVIL, **asks)) == "cross_origin"


@pytest.mark.parametrize("path", [BULK, "/flows", "/x"])
def test_an_allowed_origin_can_read_the_response(server: Process, path: str) -> None:
    """Also a stream and a rejection. `Vary` keeps caches from mixing origins."""
    response = request(server, path, Origin="https://app.example")

    assert response.headers["access-control-allow-origin"] == "https://app.example"
    assert "Penstock-Run" in response.headers["access-control-expose-headers"]
    assert "Origin" in response.headers["vary"]
    plain = request(server, path)
    assert "access-control-allow-origin" not in plain.headers
    assert "Origin" in plain.headers["vary"]


def test_an_allowed_origin_cannot_deploy_without_a_token(server: Process) -> None:
    """A flow runs code in the service."""
    response = server.request(
        "PUT", "/flows/a?dry-run=true", b"flow: a\n", Content_Type="application/yaml", Origin="https://app.example"
    )

    assert code(response) == "cross_origin"


def test_a_service_on_all_addresses_accepts_any_host(serve: Serve) -> None:
    """Containers and scrapers use any host name; pages of other origins are rejected there too."""
    server = serve("--host", "0.0.0.0")
    server.host = "127.0.0.1"

    assert [code(request(server, "/flows", host)) for host in ("penstock", "10.0.0.1:8080")] == ["200", "200"]
    assert code(request(server, "/flows", "penstock:80", Origin="https://penstock:80")) == "200"
    assert code(request(server, "/flows", "penstock", Origin=EVIL)) == "cross_origin"
    assert "vary" not in request(server, "/flows", "penstock").headers


def test_allowed_hosts_excludes_all_others(serve: Serve) -> None:
    """Except for health checks."""
    server = serve("--host", "0.0.0.0", "--allowed-hosts", "penstock.example,10.0.0.1")
    server.host = "127.0.0.1"

    hosts = ("penstock.example:443", "10.0.0.1", "localhost", "evil.example")
    assert [code(request(server, "/flows", host)) for host in hosts] == [
        "200",
        "200",
        "host_not_allowed",
        "host_not_allowed",
    ]
    assert request(server, "/health/live", "localhost").status == 200
