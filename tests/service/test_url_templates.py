"""URLs and headers of HTTP services: values of variables are literal, and invalid ones are reported before a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st
from yarl import URL

from penstock.errors import FlowFileError, InvalidItem
from penstock.flowfile import loads
from penstock.flowfile.placeholders import PlaceholderEnvironment
from penstock.services import NONE, Service
from penstock.services.http_client import HttpClient
from penstock.services.http_service import HttpCall
from penstock.services.template import HeaderTemplate
from penstock.services.url_template import UrlTemplate
from service.test_http_services import call, client, raw_server, server

__all__ = ["client"]

HEADER_TEXT = st.text(st.characters(codec="latin-1", exclude_categories=["Cc"]), min_size=1)


@given(HEADER_TEXT)
def test_the_value_of_a_variable_is_literal_in_a_header(token: str) -> None:
    """Braces in the value are neither fields nor escapes."""
    header = HeaderTemplate("Authorization", "Bearer ${TOKEN} {id} {{}}", {"TOKEN": token})
    assert header.render({"id": 7}) == f"Bearer {token} 7 {{}}"


@given(st.text(st.characters(codec="utf-8", exclude_categories=["Cc"]), min_size=1))
def test_the_value_of_a_variable_is_literal_in_a_query_and_a_password(secret: str) -> None:
    """A `#` or braces in the value start neither a fragment nor a field."""
    url = URL(UrlTemplate("http://h/x?key=${SECRET}&id={id}", {"SECRET": secret}).render({"id": 7}), encoded=True)
    assert (url.path, dict(url.query), url.fragment) == ("/x", {"key": secret, "id": "7"}, "")


@given(st.text(st.characters(codec="latin-1", exclude_categories=["Cc"], exclude_characters=":"), min_size=1))
def test_the_value_of_a_variable_is_literal_in_a_password(secret: str) -> None:
    """An `@`, a slash or a `#` in the value does not change the host."""
    url = URL(UrlTemplate("http://me:${SECRET}@h/x", {"SECRET": secret}).render({}), encoded=True)
    assert (url.user, url.password, url.host, url.path) == ("me", secret, "h", "/x")


@pytest.mark.parametrize(
    ("template", "variables", "url"),
    [
        ("${BASE}/x/{id}", {"BASE": "http://h:8080/base"}, "http://h:8080/base/x/7"),
        ("${BASE}/x/{id}", {"BASE": "http://me:p%40@[::1]:1/%20"}, "http://me:p%40@[::1]:1/%20/x/7"),
        ("${BASE}&x={id}", {"BASE": "https://h/?key=a"}, "https://h/?key=a&x=7"),
        ("${SCHEME}://${HOST}:${PORT}/{id}", {"SCHEME": "http", "HOST": "h_1.", "PORT": "81"}, "http://h_1.:81/7"),
        ("http://${HOST}/{id}", {"HOST": "h:81/base"}, "http://h:81/base/7"),
        ("http://größe.example/ä{{}}/{id}", {}, "http://xn--gre-6ka8i.example/%C3%A4%7B%7D/7"),
        ("http+unix://${SOCKET}/x/{id}", {"SOCKET": "%2frun%2Fa%20b.sock"}, "http+unix://%2Frun%2Fa%20b.sock/x/7"),
        ("http://h/${PATH}/{id}", {"PATH": "v1/a{id}?b#c"}, "http://h/v1/a%7Bid%7D%3Fb%23c/7"),
    ],
)
def test_a_variable_can_be_the_base_or_a_part_of_a_url(template: str, variables: dict[str, str], url: str) -> None:
    """The base of a URL is used as it is; a part of the path is percent-encoded."""
    assert UrlTemplate(template, variables).render({"id": 7}) == url


INVALID_ADDRESSES: list[tuple[str, dict[str, str], str]] = [
    ("${BASE}/{id}", {"BASE": "http://s3cret/#a"}, "the variable BASE contains '#'.* %23"),
    ("${BASE}/{id}", {"BASE": "http://s3cret/{id}"}, "the variable BASE contains '{'.* %7B"),
    ("${BASE}/{id}", {"BASE": "http://s3cret/a b"}, "the variable BASE contains a space.* %20"),
    ("${BASE}/{id}", {"BASE": "http://s3cret/?a=b"}, "the variable BASE contains a query"),
    ("${BASE}/{id}", {"BASE": "http://s3cret\n"}, r"the variable BASE contains .* U\+000A; it ends with a line break"),
    ("http://h/?key=${KEY}", {"KEY": "s3cret\n"}, r"the variable KEY contains .* U\+000A"),
    ("http://h/?key=${KEY}", {"KEY": "s3cret\udcff"}, "the variable KEY is not valid UTF-8"),
    ("${BASE}/{id}", {"BASE": ""}, "expected a URL like"),
    ("http://${HOST}/", {"HOST": "s3cret..a"}, "expected the name or the IP address"),
    ("http://${HOST}/", {"HOST": "s3cret{id}"}, "the variable HOST contains '{'"),
    ("http://h:${PORT}/", {"PORT": "s3cret"}, "expected a port from 1 to 65535"),
    ("http://h:${PORT}/", {"PORT": ""}, "expected a port from 1 to 65535"),
    ("http://h:${PORT}/", {"PORT": "0"}, "expected a port from 1 to 65535"),
    ("http://me:${PASSWORD}@h/", {"PASSWORD": "s3cret\u20ac"}, "expected a user and password in Latin-1"),
    ("http://h:80x/", {}, "expected a port from 1 to 65535"),
    ("http://h:65536/", {}, "expected a port from 1 to 65535"),
    ("http://h:1:2/", {}, "expected a port from 1 to 65535"),
    ("http://1.2.3.444/", {}, "expected the name or the IP address"),
    ("http://[::1::]/", {}, "expected the name or the IP address"),
    ("http://" + "x" * 64, {}, "expected the name or the IP address"),
    ("http://:80/", {}, "expected the name or the IP address"),
    ("http://h/x#{id}", {}, "expected no '#'"),
    ("http://me:s3cret@h:80x/", {}, "'http://…@h:80x/': expected a port"),
    ("http://h/a b", {}, "expected no spaces"),
    ("http://h/{a", {}, "for a literal brace"),
    ("http+unix://run/{id}", {}, "expected the path of a Unix socket, with its slashes percent-encoded"),
    ("http+unix://${SOCKET}/{id}", {"SOCKET": "/run/s3cret.sock"}, "expected the path of a Unix socket"),
    ("http+unix://%2Frun%2F{id}", {}, "a field of the value cannot be part of the host"),
    ("http://h/{${FIELD}}", {"FIELD": "id"}, "for a literal brace"),
]


@pytest.mark.parametrize(("template", "variables", "message"), INVALID_ADDRESSES)
def test_an_invalid_url_is_rejected_without_the_value_of_its_variable(
    template: str, variables: dict[str, str], message: str
) -> None:
    """It is rejected when the flow is loaded, also by `check`.

    The message leaves out the value, which may be a secret.
    """
    with pytest.raises(ValueError, match=message) as rejected:
        UrlTemplate(template, variables)
    assert "s3cret" not in str(rejected.value)


@pytest.mark.parametrize(
    ("name", "template", "token", "message"),
    [
        ("X-A", "Bearer ${TOKEN}", "s3cret\n", r"header X-A: the variable TOKEN .* U\+000A; it ends with a line b"),
        ("X-A", "Bearer ${TOKEN}", "s3\0cret", r"header X-A: the variable TOKEN contains .* U\+0000"),
        ("X-A", "Bearer ${TOKEN}", "s3cret\u20ac", "header X-A: the variable TOKEN contains .* Latin-1"),
        ("X-A", "Bearer ${TOKEN}", "s3cret\udcff", "header X-A: the variable TOKEN is not valid UTF-8"),
        ("X-A", "a\nb", "", "header X-A: it contains a line break"),
        ("X-A", "\u20ac", "", "header X-A: it contains .* Latin-1"),
        ("X-A", "s3cret{", "", "header X-A: .* for a literal brace"),
        ("X A", "a", "", "invalid header name 'X A'"),
        ("X-A:", "a", "", "invalid header name 'X-A:'"),
        ("", "a", "", "invalid header name ''"),
        ("Content-length", "5", "", "header Content-length is set automatically; remove it"),
    ],
)
def test_an_invalid_header_is_rejected_without_its_value(name: str, template: str, token: str, message: str) -> None:
    """It is rejected when the flow is loaded; the message names the header and the variable."""
    with pytest.raises(ValueError, match=message) as rejected:
        HeaderTemplate(name, template, {"TOKEN": token})
    assert "s3" not in str(rejected.value)


FLOW = """\
flow: f
services:
  s: {get: "http://h:${PORT}/{id}", headers: {Authorization: "Bearer ${TOKEN}"}}
steps: [{enrich: [s]}]
"""


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"PORT": "80x", "TOKEN": "t"}, "f.yaml:3:12: 'http://h:${PORT}/{id}': expected a port"),
        ({"PORT": "80", "TOKEN": "t\n"}, "f.yaml:3:12: header Authorization: the variable TOKEN contains"),
    ],
)
def test_an_invalid_variable_is_an_error_of_the_flow_file(variables: dict[str, str], message: str) -> None:
    """`check` reports it, and nothing starts with it."""
    with pytest.raises(FlowFileError) as rejected:
        loads(FLOW, Path("f.yaml"), environment=variables)
    assert message in str(rejected.value)


@pytest.mark.parametrize(
    "template", ["http://${A}:${B}/{id}", "${A}://${B}", "http://u:${A}@h/", "${A}", "http://h:${A}", "http://h?x=${A}"]
)
def test_variables_can_be_unset_if_nothing_runs(template: str) -> None:
    """`penstock test` and `dump` need no variables."""
    assert UrlTemplate(template, PlaceholderEnvironment({})).template == template


def test_a_password_in_the_url_excludes_the_header_authorization() -> None:
    """The HTTP client would reject each request with both."""
    with pytest.raises(ValueError, match="remove one"):
        Service.http("s", "http://me:p@h/", headers={"authorization": "Bearer x"})


@pytest.mark.parametrize("text", ["a\nb", "a\0", "\u20ac", "\ud800"])
async def test_an_invalid_header_value_fails_its_element_without_a_retry(client: HttpClient, text: str) -> None:
    """Another attempt would fail in the same way."""
    service = Service.http(
        "s", "http://127.0.0.1:1/", client=client, headers={"X-Name": "{name}"}, attempts=5, backoff=NONE
    )
    (failed,) = await call(service, {"name": text})
    assert (type(failed.error), failed.attempts) == (InvalidItem, 1)
    assert "the field name cannot be sent in a header" in str(failed.error)


async def test_a_request_that_the_client_rejects_fails_its_element_without_a_retry(client: HttpClient) -> None:
    """For example a request with an invalid method."""
    service = Service.http("s", "http://127.0.0.1:1/", client=client, method="G\nT", attempts=5, backoff=NONE)
    (failed,) = await call(service, {})
    assert (type(failed.error), failed.attempts) == (InvalidItem, 1)


@pytest.mark.parametrize("token", ["a{id}b", "s3cr{et", "a{{b}}c", "ä"])
async def test_a_service_receives_a_token_unchanged(client: HttpClient, token: str) -> None:
    """Over a real connection."""

    async def reply(request: web.Request) -> web.StreamResponse:
        return web.json_response(request.headers["X-Token"])

    async with server(reply) as url:
        http_call = HttpCall("s", url, headers={"X-Token": "${TOKEN}"}, client=client, environment={"TOKEN": token})
        service = Service("s", http_call)
        assert await call(service, {"id": 7}) == [token]


@pytest.mark.parametrize("status", [200, 503])
async def test_a_response_can_start_with_a_byte_order_mark(client: HttpClient, status: int) -> None:
    """Its JSON is read as without one, in error responses too."""
    body = b'\xef\xbb\xbf{"message": "none left"}'
    answer = b"HTTP/1.1 %d X\r\nContent-Length: %d\r\n\r\n%b" % (status, len(body), body)
    async with raw_server(answer) as url:
        (found,) = await call(Service.http("s", url, client=client, backoff=NONE), {})
    message: Any = found if status == 200 else found.error.reason
    assert message in ({"message": "none left"}, "none left")


async def test_a_response_of_only_a_byte_order_mark_is_empty(client: HttpClient) -> None:
    """It counts as a response without content."""

    async def reply(_: web.Request) -> web.StreamResponse:
        return web.Response(body=b"\xef\xbb\xbf")

    async with server(reply) as url:
        assert await call(Service.http("s", url, client=client), {}) == [None]
