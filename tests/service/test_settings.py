"""Settings of `penstock serve`: their sources, precedence, and errors."""

from __future__ import annotations

import os
import socket
import subprocess
from pathlib import Path
from typing import Any

import pytest

import forking
from invoking import invoke
from penstock.settings import Settings, SettingsError, load_settings, origin_of
from service.conftest import Serve
from waiting import HANG_SECONDS


def test_settings_have_defaults() -> None:
    """No setting is required."""
    settings = load_settings({}, {})
    assert settings == Settings()
    assert (settings.host, settings.port, settings.window, settings.max_in_flight) == ("127.0.0.1", 8080, 256, 256)


@pytest.mark.parametrize(("text", "seconds"), [("5", 5), ("1.5s", 1.5), ("250ms", 0.25), ("2m", 120), ("1h", 3600)])
def test_times_may_have_a_unit(text: str, seconds: float) -> None:
    """They are seconds without one."""
    assert load_settings({"drain_delay": text}, {}).drain_delay == seconds


def test_settings_have_a_precedence(tmp_path: Path) -> None:
    """Defaults, then the file, then variables, then options."""
    file = tmp_path / "penstock.toml"
    file.write_text('window = 1\nmax-runs = 1\nstall-timeout = 1\ntoken = "secret"\n')
    environment = {"PENSTOCK_CONFIG": str(file), "PENSTOCK_MAX_RUNS": "2", "PENSTOCK_STALL_TIMEOUT": "2", "HOME": "/"}
    settings = load_settings({"stall_timeout": "3"}, environment)
    assert (settings.port, settings.window, settings.max_runs, settings.stall_timeout) == (8080, 1, 2, 3.0)
    assert settings.token == "secret"
    assert "secret" not in repr(settings)


def test_config_has_precedence_over_its_variable(tmp_path: Path) -> None:
    """`--config` before PENSTOCK_CONFIG."""
    (tmp_path / "a.toml").write_text("window = 1")
    (tmp_path / "b.toml").write_text("window = 2")
    environment = {"PENSTOCK_CONFIG": str(tmp_path / "a.toml")}
    assert load_settings({"config": str(tmp_path / "b.toml")}, environment).window == 2


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"port": "http"}, "--port: expected an integer, got 'http'"),
    ({"port": "-1"}, "--port"),
    ({"host": "127.0.0.1 "}, "--host: expected the name or the address of a host, without spaces"),
    ({"host": " "}, "--host: expected an address"),
    (
        {"pricing_url": "http://h:99999/{orderId}"},
        "--pricing-url: 'http://h:99999/{orderId}': expected a port from 1 to 65535",
    ),
    ({"window": "0"}, "--window: expected a value >= 1"),
    ({"window": "1.5"}, "--window: expected an integer"),
    ({"stall_timeout": "5 s"}, "--stall-timeout: expected a number of seconds, such as 5 or 5s, got '5 s'"),
    ({"min_rate": "fast"}, "--min-rate: expected a number, got 'fast'"),
    ({"window": ""}, "--window"),
    ({"stall_timeout": "0"}, "--stall-timeout"),
    ({"stall_timeout": "nan"}, "--stall-timeout"),
    ({"keep_alive": "0"}, "--keep-alive"),
    ({"latency_scale": "-1"}, "--latency-scale"),
    ({"max_line": "1"}, "--max-line"),
    ({"log_level": "loud"}, "'--log-level': 'loud' is not one of 'debug', 'info', 'warning', 'error'"),
    ({"log_format": "xml"}, "'--log-format': 'xml' is not one of"),
    ({"dead_letters": "postgres://x"}, "--dead-letters: unknown dead-letter store 'postgres://x'"),
    ({"pricing_url": "ftp://x"}, "--pricing-url: expected a URL like http://host/path/{field}"),
    (
        {"inventory_url": "http://h/{a[0]}"},
        "--inventory-url: 'http://h/{a[0]}': {a[0]} is not the name of a field",
    ),
    ({"allowed_origins": "app.example"}, "--allowed-origins: expected origins such as https://app.example.com"),
    ({"allowed_origins": "https://a.example/"}, "--allowed-origins: expected origins"),
    ({"allowed_origins": "*"}, "--allowed-origins: expected origins"),
    ({"allowed_hosts": "a.example:80"}, "--allowed-hosts: expected host names without ports"),
    ({"config": "/nowhere/penstock.toml"}, "/nowhere/penstock.toml cannot be read"),
]


UNSEEN = [{"port": "65536"}, {"stall_timeout": "inf"}, {"grace_period": "inf"}, {"exit_timeout": "1e300"}]


@pytest.mark.parametrize(
    ("flags", "message"),
    [*WRONG, *((flags, "expected a value <=") for flags in UNSEEN)],
    ids=[f"{name}={value}" for flags in [*(flags for flags, _ in WRONG), *UNSEEN] for name, value in flags.items()],
)
def test_an_invalid_value_is_rejected(flags: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Exit code 2, before anything is opened; the message names the setting and the value."""
    monkeypatch.setattr(os, "environ", {})
    monkeypatch.setattr("asyncio.run", lambda work: work.close() or pytest.fail("it was started"))
    arguments = [word for name, value in flags.items() for word in (f"--{name.replace('_', '-')}", value)]
    result = invoke("serve", *arguments)
    assert result.exit_code == 2
    assert message in result.stderr
    if result.stderr.startswith("penstock serve: "):  # otherwise click rejected the option and printed the usage
        assert result.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"PENSTOCK_WINDWO": "1"}, "unknown variable PENSTOCK_WINDWO; did you mean window?"),
        ({"PENSTOCK_COLOUR": "red"}, "`penstock serve --help` lists all settings"),
        ({"PENSTOCK_WINDOW": "many"}, "PENSTOCK_WINDOW: expected an integer, got 'many'"),
        ({"PENSTOCK_PORT": ""}, "PENSTOCK_PORT"),
    ],
)
def test_an_unknown_variable_is_rejected(environment: dict[str, str], message: str) -> None:
    """It may be a typing error."""
    with pytest.raises(SettingsError) as rejected:
        load_settings({}, environment)
    assert message in str(rejected.value)


@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [
        (
            "PENSTOCK_TOKEN",
            "s3cret\n",
            "PENSTOCK_TOKEN contains the control character U+000A; it ends with a line break",
        ),
        ("PENSTOCK_TOKEN", "s3c\0ret", "PENSTOCK_TOKEN contains the control character U+0000"),
        ("PENSTOCK_TOKEN", " s3cret", "PENSTOCK_TOKEN: expected a token without spaces"),
        ("PENSTOCK_TOKEN", "s3cret\udcff", "PENSTOCK_TOKEN is not valid UTF-8"),
        ("PENSTOCK_HOST", "s3cret\n", "PENSTOCK_HOST contains the control character U+000A"),
        ("PENSTOCK_DEAD_LETTERS", "sqlite:///s3cret\n", "PENSTOCK_DEAD_LETTERS contains the control character U+000A"),
        ("PENSTOCK_PRICING_URL", "http://s3cret/\r\n", "PENSTOCK_PRICING_URL contains the control character U+000D"),
    ],
)
def test_an_invalid_token_is_rejected_without_its_value(variable: str, value: str, message: str) -> None:
    """A token with a line break would give every client a 401. The message only names the variable."""
    with pytest.raises(SettingsError) as rejected:
        load_settings({}, {variable: value})
    assert message in str(rejected.value)
    assert "s3c" not in str(rejected.value)


def test_a_token_that_is_not_a_string_is_rejected_without_its_value(tmp_path: Path) -> None:
    """A number in the settings file is a secret too."""
    file = tmp_path / "penstock.toml"
    file.write_text("token = 4711")
    with pytest.raises(SettingsError, match=r"token in .*: expected a text, got int") as rejected:
        load_settings({"config": str(file)}, {})
    assert "4711" not in str(rejected.value).removeprefix(str(file))


def test_a_settings_file_can_start_with_a_byte_order_mark(tmp_path: Path) -> None:
    """Editors on Windows write one."""
    file = tmp_path / "penstock.toml"
    file.write_bytes(b"\xef\xbb\xbfwindow = 7\n")
    assert load_settings({"config": str(file)}, {}).window == 7


def test_variables_that_kubernetes_sets_are_ignored() -> None:
    """It sets them for a Service with the name penstock; a real PENSTOCK_PORT is still read."""
    links = {
        "PENSTOCK_SERVICE_HOST": "10.0.0.11",
        "PENSTOCK_SERVICE_PORT": "8080",
        "PENSTOCK_SERVICE_PORT_HTTP": "8080",
        "PENSTOCK_PORT": "tcp://10.0.0.11:8080",
        "PENSTOCK_PORT_8080_TCP": "tcp://10.0.0.11:8080",
        "PENSTOCK_PORT_8080_TCP_PROTO": "tcp",
        "PENSTOCK_PORT_8080_TCP_PORT": "8080",
        "PENSTOCK_PORT_8080_TCP_ADDR": "10.0.0.11",
    }
    assert load_settings({}, links) == Settings()
    assert load_settings({}, links | {"PENSTOCK_PORT": "9090"}).port == 9090
    for wrong in ("PENSTOCK_PORTS", "PENSTOCK_PORT_8080", "PENSTOCK_SERVICE_HOSTS"):
        with pytest.raises(SettingsError):
            load_settings({}, {wrong: "1"})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("windwo = 1", "unknown setting windwo in "),
        ("[serve]\nwindow = 1", "unknown setting serve in"),
        ("window = ", "is not valid TOML"),
        ('window = "many"', "expected an integer"),
        ("window = [1]", "expected an integer"),
        ("window = 1.5", "expected an integer"),
        ("window = true", "expected an integer"),
        ("host = 5", "expected a text"),
    ],
)
def test_an_invalid_settings_file_is_rejected(tmp_path: Path, text: str, message: str) -> None:
    """The message has the file and the key."""
    file = tmp_path / "penstock.toml"
    file.write_text(text)
    with pytest.raises(SettingsError) as rejected:
        load_settings({"config": str(file)}, {})
    assert message in str(rejected.value)
    assert str(file) in str(rejected.value)


def test_a_settings_file_that_is_not_utf_8_is_rejected(tmp_path: Path) -> None:
    """TOML is UTF-8."""
    file = tmp_path / "penstock.toml"
    file.write_bytes(b"window = 1 # \xff")
    with pytest.raises(SettingsError):
        load_settings({"config": str(file)}, {})


def test_the_token_is_not_an_option() -> None:
    """All users of a machine can read the options of a process."""
    assert invoke("serve", "--token", "secret").exit_code == 2


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a command that ends by itself."""
    return forking.run(*arguments, capture_output=True, text=True, timeout=HANG_SECONDS)


def test_a_port_in_use_is_exit_code_1(tmp_path: Path) -> None:
    """The usage is valid, but the process cannot listen. The message tells what to do."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        done = run("serve", "--port", port, "--dead-letters", f"sqlite:///{tmp_path}/x.db")
    assert done.returncode == 1
    reason = f"cannot listen on 127.0.0.1:{port}: Address already in use"
    assert f"penstock serve: {reason}; choose another port with --port, or 0 for a free one\n" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("host", ["no.such.host.invalid", "x" * 300, "203.0.113.7"])
def test_an_address_of_another_machine_is_exit_code_1(tmp_path: Path, host: str) -> None:
    """The message has the reason."""
    done = run("serve", "--host", host, "--port", "0", "--dead-letters", f"sqlite:///{tmp_path}/x.db")
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert f"penstock serve: cannot listen on {host}:0: " in done.stderr


@pytest.mark.parametrize(("url", "code"), [("postgres://x", 2), ("sqlite:////nowhere/x.db", 1), ("x", 2)])
def test_an_unusable_store_prevents_the_start(url: str, code: int) -> None:
    """With one line as the message."""
    done = run("serve", "--port", "0", "--dead-letters", url)
    assert done.returncode == code
    assert done.stderr.startswith("penstock serve: ")
    assert "Traceback" not in done.stderr


def test_a_very_long_stall_timeout_is_accepted(serve: Serve) -> None:
    """The kernel stores TCP_USER_TIMEOUT as milliseconds in 31 bits; larger values are capped."""
    assert serve("--stall-timeout", 3_000_000).request("GET", "/orders/bulk?count=1").end["ok"] == 1


def test_options_and_variables_reach_the_service(serve: Serve) -> None:
    """Each changes its behaviour."""
    server = serve("--window", 7, env={"PENSTOCK_WINDOW": "9", "PENSTOCK_MAX_COUNT": "5"})
    assert server.request("GET", "/flows/orders").json()["window"]["elements"] == 7
    assert server.metric("penstock_runs_total", kind="worker") == 0  # --workers 0
    assert "from 1 to 5" in server.request("GET", "/orders/bulk?count=6").json()["detail"]


@pytest.mark.parametrize(
    ("given", "origin"),
    [
        ("https://app.example:443", "https://app.example"),
        ("http://app.example:80", "http://app.example"),
        ("http://app.example:443", "http://app.example:443"),
        ("http://[::1]:3000", "http://[::1]:3000"),
    ],
)
def test_origins_are_normalized(given: str, origin: str) -> None:
    """Without the default port of their scheme, as browsers send them."""
    assert origin_of(given) == origin
