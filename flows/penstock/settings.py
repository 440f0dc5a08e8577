"""The settings of `penstock serve` and `work`: defaults, a file, `PENSTOCK_*` variables, options; later ones win."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

import click

from penstock.errors import PenstockError
from penstock.support.event_loop import EVENT_LOOPS, check_event_loop
from penstock.support.text import suggest
from penstock.tokens import InvalidToken, Token, default_token, digest_of, parse_tokens


class SettingsError(PenstockError):
    """A setting has an invalid value, or no such setting exists."""


F = TypeVar("F", bound=Callable[..., Any])


MAX_NUMBER = 10**9
"""The maximum of all settings that have no lower one, so that nothing is unlimited."""

_LINK = re.compile(r"(tcp|udp|sctp)://")
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_DURATION = re.compile(f"([0-9]+(?:\\.[0-9]+)?)({'|'.join(_UNITS)})")
_OF_SERVICE = re.compile(r"PENSTOCK_(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)")


def setting(
    default: Any,
    help: str,
    *,
    min: float = 0,
    max: float = MAX_NUMBER,
    choices: tuple[str, ...] = (),
    flag: bool = True,
    check: Callable[[str], object] | None = None,
) -> Any:
    """Make a field of `Settings`. `flag`: it may be given as an option.

    `check` raises `ValueError` or `PenstockError` for an invalid text.
    """
    metadata = {"help": help, "min": min, "max": max, "choices": choices, "flag": flag, "check": check}
    return field(default=default, metadata=metadata)


def _check_host(host: str) -> None:
    if not host.strip():
        raise ValueError("expected an address; 0.0.0.0 means all addresses of this machine")
    if re.search(r"\s", host):
        raise ValueError("expected the name or the address of a host, without spaces")


def _check_token(token: str) -> None:
    if re.search(r"\s", token):
        raise ValueError("expected a token without spaces, because no header Authorization could match it")


def _check_store(url: str) -> None:
    from penstock.deadletters import validate_store_url

    validate_store_url(url)


def _check_address(url: str) -> None:
    from penstock.services.url_template import UrlTemplate

    if url:
        UrlTemplate(url)


_HOST_NAME = re.compile(r"[a-z0-9._~-]+|[0-9a-f:.]+")
_ORIGIN = re.compile(r"(https?)://([a-z0-9._~-]+|\[[0-9a-f:.]+\])(?::([0-9]{1,5}))?")


def words_of(text: str) -> list[str]:
    """Split a setting that is a list at commas and spaces, in lower case."""
    return text.lower().replace(",", " ").split()


def origin_of(text: str) -> str:
    """Return an origin as browsers send it, without the default port of its scheme. Raises `ValueError`."""
    found = _ORIGIN.fullmatch(text)
    if found is None or int(found[3] or 0) > 65535:
        raise ValueError(f"expected origins such as https://app.example.com, separated by commas, got {text!r}")
    scheme, host, port = found.groups()
    default = {"http": "80", "https": "443"}[scheme]
    return f"{scheme}://{host}" if port is None or port == default else f"{scheme}://{host}:{int(port)}"


def _check_origins(text: str) -> None:
    for word in words_of(text):
        origin_of(word)


def _check_hosts(text: str) -> None:
    for word in words_of(text):
        if not _HOST_NAME.fullmatch(word):
            raise ValueError(f"expected host names without ports, separated by commas, got {word!r}")


@dataclass(frozen=True, slots=True)
class Settings:
    """The settings of `penstock serve` and `penstock work`. Times are in seconds, sizes in bytes."""

    host: str = setting("127.0.0.1", "Address to listen on", check=_check_host)
    port: int = setting(8080, "Port to listen on; 0 takes a free one", max=65535)
    dead_letters: str = setting(
        "sqlite:///penstock.db",
        "Dead-letter store: sqlite:///FILE, postgresql, s3, kafka or nats URL, or memory:",
        check=_check_store,
    )
    window: int = setting(256, "Maximum elements in flight per run", min=1)
    window_bytes: int = setting(16 * 1024 * 1024, "Maximum bytes of input in flight per run", min=1)
    max_in_flight: int = setting(256, "Maximum calls in flight per service of the orders flow", min=1)
    max_runs: int = setting(100, "Maximum open bulk streams; more requests get 503", min=1)
    workers: int = setting(2, "Background workers of the orders flow (A, B, ...); 0 starts no workers of any flow")
    worker_orders: int = setting(20, "Orders that each worker generates", min=1)
    worker_every: float = setting(0.0, "Seconds between two runs of a worker; 0 runs it once")
    latency_scale: float = setting(1.0, "Factor of the latency of the simulated services; 0 for none")
    pricing_url: str = setting(
        "", "URL of the pricing service, such as http://127.0.0.1:8081/prices/{orderId}", check=_check_address
    )
    inventory_url: str = setting(
        "", "URL of the inventory service, such as http://127.0.0.1:8081/stock/{orderId}", check=_check_address
    )
    service_timeout: float = setting(10.0, "Timeout of one service call, in seconds", min=0.001)
    stall_timeout: float = setting(30.0, "Seconds without progress after which a stream is ended", min=0.1)
    min_rate: float = setting(16.0, "Bytes per second that count as progress; 0: any byte counts")
    grace_period: float = setting(10.0, "Seconds that open runs have to finish after SIGTERM")
    exit_timeout: float = setting(5.0, "Seconds after the grace period until the process exits, stuck or not")
    drain_delay: float = setting(
        0.0, "Seconds after SIGTERM in which requests are still served, while /health/ready responds with 503"
    )
    tls_cert: str = setting("", "PEM file of the certificate, then of those that sign it; serves HTTPS")
    tls_key: str = setting("", "PEM file of its private key, unless that is in the file of the certificate")
    processes: int = setting(1, "Processes that share the port and the work, one per core", min=1, max=64)
    process_timeout: float = setting(
        10.0, "Seconds without an answer after which one of several processes is killed and replaced", min=0.1
    )
    reload_timeout: float = setting(
        300.0, "Seconds that open streams have when SIGHUP replaces one of several processes", min=0
    )
    max_line: int = setting(1024 * 1024, "Maximum bytes of a line", min=16)
    max_body: int = setting(2 * 1024 * 1024, "Maximum bytes of a JSON request or response body", min=16)
    max_count: int = setting(1_000_000, "Maximum samples of a GET request", min=1)
    max_header: int = setting(8190, "Maximum bytes of a request line or a header", min=256)
    keep_alive: float = setting(75.0, "Timeout of idle connections and of slow headers, in seconds", min=1)
    send_buffer: int = setting(64 * 1024, "Bytes that the kernel may buffer for a slow reader", min=4096)
    log_level: str = setting("info", "Lowest level that is logged", choices=("debug", "info", "warning", "error"))
    log_format: str = setting(
        "auto", "Log format; auto: console on a terminal, else JSON", choices=("auto", "json", "console")
    )
    event_loop: str = setting(
        "auto",
        "Event loop; auto: uvloop if the extra penstock[uvloop] is installed",
        choices=EVENT_LOOPS,
        check=check_event_loop,
    )
    allow_deployments: str = setting(
        "yes", "Whether PUT /flows/NAME is accepted; its flows can run code here", choices=("yes", "no")
    )
    allowed_hosts: str = setting(
        "",
        "Host names that requests may have, comma-separated; if empty: local names when listening locally, else any",
        check=_check_hosts,
    )
    allowed_origins: str = setting(
        "", "Other origins whose web pages may send requests (CORS), comma-separated", check=_check_origins
    )
    token: str = setting(
        "",
        "Bearer token with all scopes; only by PENSTOCK_TOKEN or file",
        flag=False,
        check=_check_token,
    )
    tokens: tuple[Token, ...] = setting((), "Named tokens with scopes; only by file: [tokens.NAME]", flag=False)

    @property
    def all_tokens(self) -> tuple[Token, ...]:
        """All tokens that are accepted: the named ones, and the one that has all scopes."""
        return (*self.tokens, *([default_token(self.token)] if self.token else []))

    def __repr__(self) -> str:
        shown = ", ".join(
            f"{f.name}={_shown(f.name, getattr(self, f.name))}" for f in fields(self) if f.metadata["flag"]
        )
        return f"Settings({shown})"


def _shown(name: str, value: Any) -> str:
    """Return a setting as text without passwords."""
    if name != "dead_letters":
        return repr(value)
    from penstock.backends.server_url import hide_password

    return repr(hide_password(value))


WORK_OPTIONS = (
    "host",
    "port",
    "dead_letters",
    "window",
    "window_bytes",
    "grace_period",
    "exit_timeout",
    "tls_cert",
    "tls_key",
    "processes",
    "process_timeout",
    "reload_timeout",
    "max_header",
    "keep_alive",
    "send_buffer",
    "log_level",
    "log_format",
    "event_loop",
    "allowed_hosts",
)
"""The settings that are options of `penstock work`. The others are about clients or about the built-in flow."""


def settings_options(command: F, only: tuple[str, ...] = ()) -> F:
    """Add the option `--config` and an option for every setting to a command, or for some of them.

    Options that are not given are None.
    """
    types = get_type_hints(Settings)
    for f in reversed(fields(Settings)):
        if f.metadata["flag"] and (not only or f.name in only):
            choices = f.metadata["choices"]
            default = "" if f.default == "" else f"default {f.default}; "
            command = click.option(
                f"--{f.name.replace('_', '-')}",
                type=click.Choice(choices) if choices else str,  # `load_settings` converts the text
                metavar=None if choices else _metavar(f.name, types[f.name]),
                help=f"{f.metadata['help']} ({default}PENSTOCK_{f.name.upper()}).",
            )(command)
    file = click.Path(readable=False, path_type=str)
    return click.option("--config", metavar="FILE", type=file, help="TOML file of settings (PENSTOCK_CONFIG).")(command)


def load_settings(flags: Mapping[str, Any], environment: Mapping[str, str]) -> Settings:
    """Load settings. Flags that are None are ignored. Raises `SettingsError`."""
    known = {f.name for f in fields(Settings)}
    given: dict[str, tuple[Any, str]] = {}
    file = flags.get("config") or environment.get("PENSTOCK_CONFIG")
    if file:
        given |= {name: (value, f"{name} in {file}") for name, value in _read(file).items()}
    tokens, tokens_origin = given.pop("tokens", ({}, ""))
    for variable, value in environment.items():
        name = variable.removeprefix("PENSTOCK_").lower()
        if variable.startswith("PENSTOCK_") and name != "config" and not _is_of_kubernetes(variable, value):
            if name == "tokens":
                raise SettingsError(f"{variable}: named tokens are only read from a settings file, from [tokens.NAME]")
            if name not in known:
                raise SettingsError(f"unknown variable {variable}{_hint(name, known)}")
            given[name] = value, variable
    given |= {
        name: (value, f"--{name.replace('_', '-')}")
        for name, value in flags.items()
        if name in known and value is not None
    }
    settings = Settings(**{name: _convert(name, value, origin) for name, (value, origin) in given.items()})
    return replace(settings, tokens=_tokens(tokens, tokens_origin, settings.token))


def _tokens(table: Any, origin: str, default: str) -> tuple[Token, ...]:
    try:
        tokens = parse_tokens(table)
        if default and (same := [each.name for each in tokens if each.digest == digest_of(default.encode())]):
            raise InvalidToken(f"{same[0]}: has the same secret as PENSTOCK_TOKEN, which has all scopes")
    except InvalidToken as error:
        raise SettingsError(f"{origin}: {error}") from None
    return tokens


def _is_of_kubernetes(variable: str, value: str) -> bool:
    """Return whether Kubernetes sets the variable for a Service that is called `penstock`. It is not a setting.

    https://kubernetes.io/docs/tutorials/services/connect-applications-service/#environment-variables
    """
    linked = variable == "PENSTOCK_PORT" and _LINK.match(value) is not None
    return linked or _OF_SERVICE.fullmatch(variable) is not None


def _read(file: str) -> dict[str, Any]:
    try:
        found = tomllib.loads(Path(file).read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise SettingsError(f"the settings file {file} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise SettingsError(f"the settings file {file} is not UTF-8 (byte {error.start})") from error
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(f"the settings file {file} is not valid TOML: {error}") from error
    known = {f.name for f in fields(Settings)}
    settings = {name.replace("-", "_"): value for name, value in found.items()}
    for name in settings:
        if name not in known:
            raise SettingsError(f"unknown setting {name} in {file}{_hint(name, known)}")
    return settings


def _convert(name: str, value: Any, origin: str) -> Any:
    kind = get_type_hints(Settings)[name]
    meta = next(f.metadata for f in fields(Settings) if f.name == name)
    is_time = kind is float and "seconds" in meta["help"].lower()
    try:
        # TOML values have types: 1.5 is not an integer, and true is not a number.
        if type(value) not in (str, kind, int) or (kind is str and type(value) is int):
            raise TypeError
        converted: Any = _seconds(value) if is_time and isinstance(value, str) else kind(value)
    except (TypeError, ValueError):
        expected = {"int": "an integer", "float": "a number"}.get(kind.__name__, "a text")
        if is_time:
            expected = "a number of seconds, such as 5 or 5s"
        shown = repr(value) if meta["flag"] else type(value).__name__  # the value of a secret is not shown
        raise SettingsError(f"{origin}: expected {expected}, got {shown}") from None
    if kind is str:
        _check_characters(converted, origin)
    if kind is not str and not meta["min"] <= converted <= meta["max"]:
        bound = f"<= {meta['max']}" if converted > meta["max"] else f">= {meta['min']}"
        raise SettingsError(f"{origin}: expected a value {bound}, got {value!r}")
    if meta["choices"] and converted not in meta["choices"]:
        raise SettingsError(f"{origin}: expected one of {', '.join(meta['choices'])}, got {value!r}")
    if meta["check"] is not None:
        try:
            meta["check"](converted)
        except (ValueError, PenstockError) as error:
            raise SettingsError(f"{origin}: {error}") from error
    return converted


def _seconds(text: str) -> float:
    """Return a number of seconds, which may have a unit: 5, 5s, 250ms, 2m. Raises `ValueError`."""
    found = _DURATION.fullmatch(text.strip())
    return float(text) if found is None else float(found[1]) * _UNITS[found[2]]


def _check_characters(text: str, origin: str) -> None:
    """Raise `SettingsError` for characters that no setting can contain. The message does not show the text."""
    if control := re.search(r"[\x00-\x1f\x7f-\x9f]", text):
        hint = "; it ends with a line break" if text.endswith(("\n", "\r")) else ""
        raise SettingsError(f"{origin} contains the control character U+{ord(control[0]):04X}{hint}")
    if re.search(r"[\ud800-\udfff]", text):
        raise SettingsError(f"{origin} is not valid UTF-8")


def _metavar(name: str, kind: type) -> str:
    return {int: "N", float: "F"}.get(
        kind, "URL" if name.endswith("url") else "FILE" if name.startswith("tls_") else "TEXT"
    )


def _hint(name: str, known: set[str]) -> str:
    meant = suggest(name, known)
    return f"; did you mean {meant}?" if meant else "; `penstock serve --help` lists all settings"
