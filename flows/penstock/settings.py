"""Settings: defaults, then a file, then `PENSTOCK_…` variables, then flags. Each is described once, here."""

from __future__ import annotations

import argparse
import re
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any, get_type_hints

from penstock.errors import PenstockError


class SettingsError(PenstockError):
    """A setting cannot be what it was set to."""


ENDLESS = 10**9
"""No number is larger: nothing here is meant to be without end."""


_LINK = re.compile(r"(tcp|udp|sctp)://")
_OF_SERVICE = re.compile(r"PENSTOCK_(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)")


def setting(
    default: Any,
    help: str,
    *,
    least: float = 0,
    most: float = ENDLESS,
    choices: tuple[str, ...] = (),
    flag: bool = True,
    check: Callable[[str], object] | None = None,
) -> Any:
    """A field of `Settings`: its default, what it means, its bounds, and whether it may be given as a flag.

    `check` raises `ValueError` or `PenstockError` for a text that cannot be meant.
    """
    about = {"help": help, "least": least, "most": most, "choices": choices, "flag": flag, "check": check}
    return field(default=default, metadata=about)


def _check_host(host: str) -> None:
    if not host.strip():
        raise ValueError("has to name an address; 0.0.0.0 stands for all of this machine")
    if re.search(r"\s", host):
        raise ValueError("expected the name or the address of a host, without spaces")


def _check_token(token: str) -> None:
    if re.search(r"\s", token):
        raise ValueError("expected a token without spaces, because no header Authorization could match it")


def _check_store(url: str) -> None:
    from penstock.deadletters import validate_store_url  # imported late, as below: help has no use for it

    validate_store_url(url)


def _check_address(url: str) -> None:
    from penstock.services.address import Address

    if url:
        Address(url)


_HOST_NAME = re.compile(r"[a-z0-9._~-]+|[0-9a-f:.]+")
_ORIGIN = re.compile(r"(https?)://([a-z0-9._~-]+|\[[0-9a-f:.]+\])(?::([0-9]{1,5}))?")


def words_of(text: str) -> list[str]:
    """The words of a setting that is a list: separated by commas or spaces, in lower case."""
    return text.lower().replace(",", " ").split()


def origin_of(text: str) -> str:
    """An origin as browsers send it, without the default port of its scheme. Raises `ValueError`."""
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
    """How `penstock serve` works. Times are in seconds, sizes in bytes."""

    host: str = setting("127.0.0.1", "address to listen on", check=_check_host)
    port: int = setting(8080, "port to listen on; 0 takes a free one", most=65535)
    dead_letters: str = setting(
        "sqlite:///penstock.db", "where failed orders are kept: sqlite:///FILE or memory:", check=_check_store
    )
    window: int = setting(256, "elements that one run may have in flight", least=1)
    window_bytes: int = setting(16 * 1024 * 1024, "bytes of input that one run may have in flight", least=1)
    max_in_flight: int = setting(256, "calls that each service of the orders flow may have in flight", least=1)
    max_runs: int = setting(100, "bulk streams that may be open at once; more get 503", least=1)
    workers: int = setting(2, "background workers (A, B, …); 0 for none")
    worker_orders: int = setting(20, "orders that each worker makes", least=1)
    worker_every: float = setting(0.0, "seconds between two runs of a worker; 0 runs it once")
    latency_scale: float = setting(1.0, "multiplies the latency of the simulated services; 0 for none")
    pricing_url: str = setting(
        "", "pricing service, such as http://127.0.0.1:8081/prices/{orderId}", check=_check_address
    )
    inventory_url: str = setting(
        "", "inventory service, such as http://127.0.0.1:8081/stock/{orderId}", check=_check_address
    )
    service_timeout: float = setting(10.0, "seconds that one attempt at a service may take", least=0.001)
    stall: float = setting(30.0, "seconds without progress after which a stream is ended", least=0.1)
    min_rate: float = setting(16.0, "bytes a second that count as progress; 0 lets any byte count")
    grace: float = setting(10.0, "seconds that open runs have to finish after SIGTERM")
    hard: float = setting(5.0, "seconds after that until the process exits, stuck or not")
    max_line: int = setting(1024 * 1024, "bytes that one line may have", least=16)
    max_body: int = setting(2 * 1024 * 1024, "bytes that a JSON body, or an answer in one piece, may have", least=16)
    max_count: int = setting(1_000_000, "sample orders that one GET may ask for", least=1)
    max_header: int = setting(8190, "bytes that a request line, or one header, may have", least=256)
    keep_alive: float = setting(75.0, "seconds that an idle connection, or a slow header, is waited for", least=1)
    send_buffer: int = setting(64 * 1024, "bytes that the kernel may hold for a slow reader", least=4096)
    log_level: str = setting("info", "least level that is logged", choices=("debug", "info", "warning", "error"))
    log_format: str = setting("auto", "auto: console on a terminal, else JSON", choices=("auto", "json", "console"))
    allow_put: str = setting("yes", "whether PUT /flows/NAME brings flows, which run code here", choices=("yes", "no"))
    allowed_hosts: str = setting(
        "",
        "host names that requests may be for, comma-separated; local ones when listening locally, else any",
        check=_check_hosts,
    )
    allowed_origins: str = setting(
        "", "other origins whose web pages may send requests (CORS), comma-separated", check=_check_origins
    )
    token: str = setting(
        "", "bearer token for dead letters and PUT; only by PENSTOCK_TOKEN or file", flag=False, check=_check_token
    )

    def __repr__(self) -> str:
        shown = ", ".join(f"{f.name}={getattr(self, f.name)!r}" for f in fields(self) if f.metadata["flag"])
        return f"Settings({shown})"


def add_flags(parser: argparse.ArgumentParser) -> None:
    """A flag for every setting; one that is not given stays out of the result."""
    parser.add_argument("--config", metavar="FILE", help="TOML file with settings (also PENSTOCK_CONFIG)")
    for f in fields(Settings):
        if f.metadata["flag"]:
            shown = repr(f.default) if f.default == "" else f.default
            parser.add_argument(
                f"--{f.name.replace('_', '-')}",
                default=argparse.SUPPRESS,
                metavar=_metavar(f.name, f.metadata["choices"]),
                help=f"{f.metadata['help']} (default {shown}; PENSTOCK_{f.name.upper()})",
            )


def load_settings(flags: Mapping[str, Any], environment: Mapping[str, str]) -> Settings:
    """Settings from all places, later ones winning. Raises `SettingsError`."""
    known = {f.name for f in fields(Settings)}
    given: dict[str, tuple[Any, str]] = {}
    file = flags.get("config") or environment.get("PENSTOCK_CONFIG")
    if file:
        given |= {name: (value, f"{name} in {file}") for name, value in _read(file).items()}
    for variable, value in environment.items():
        name = variable.removeprefix("PENSTOCK_").lower()
        if variable.startswith("PENSTOCK_") and name != "config" and not _is_of_kubernetes(variable, value):
            if name not in known:
                raise SettingsError(f"the variable {variable} names no setting{_hint(name, known)}")
            given[name] = value, variable
    given |= {name: (value, f"--{name.replace('_', '-')}") for name, value in flags.items() if name in known}
    return Settings(**{name: _convert(name, value, origin) for name, (value, origin) in given.items()})


def _is_of_kubernetes(variable: str, value: str) -> bool:
    """Whether a variable is one that Kubernetes sets for a Service that is called `penstock`, and nobody meant for us.

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
        raise SettingsError(f"the settings file {file} is no TOML: {error}") from error
    known = {f.name for f in fields(Settings)}
    settings = {name.replace("-", "_"): value for name, value in found.items()}
    for name in settings:
        if name not in known:
            raise SettingsError(f"{name} in {file} names no setting{_hint(name, known)}")
    return settings


def _convert(name: str, value: Any, origin: str) -> Any:
    kind = get_type_hints(Settings)[name]
    meta = next(f.metadata for f in fields(Settings) if f.name == name)
    try:
        # A file has types of its own: 1.5 is no whole number there, and true is no number at all.
        if type(value) not in (str, kind, int) or (kind is str and type(value) is int):
            raise TypeError
        converted = kind(value)
    except (TypeError, ValueError):
        wanted = {"int": "a whole number", "float": "a number"}.get(kind.__name__, "a text")
        shown = repr(value) if meta["flag"] else type(value).__name__  # the value of a secret is not shown
        raise SettingsError(f"{origin} has to be {wanted}, got {shown}") from None
    if kind is str:
        _check_characters(converted, origin)
    if kind is not str and not meta["least"] <= converted <= meta["most"]:
        bound = f"at most {meta['most']}" if converted > meta["most"] else f"at least {meta['least']}"
        raise SettingsError(f"{origin} has to be {bound}, got {value!r}")
    if meta["choices"] and converted not in meta["choices"]:
        raise SettingsError(f"{origin} has to be one of {', '.join(meta['choices'])}, got {value!r}")
    if meta["check"] is not None:
        try:
            meta["check"](converted)
        except (ValueError, PenstockError) as error:
            raise SettingsError(f"{origin}: {error}") from error
    return converted


def _check_characters(text: str, origin: str) -> None:
    """Raise `SettingsError` for a text that holds what no setting can, without showing it."""
    if control := re.search(r"[\x00-\x1f\x7f-\x9f]", text):
        hint = "; it ends with a line break" if text.endswith(("\n", "\r")) else ""
        raise SettingsError(f"{origin} contains the control character U+{ord(control[0]):04X}{hint}")
    if re.search(r"[\ud800-\udfff]", text):
        raise SettingsError(f"{origin} is not valid UTF-8")


def _metavar(name: str, choices: Sequence[str]) -> str:
    kind = get_type_hints(Settings)[name]
    return "|".join(choices) or {"int": "N", "float": "F"}.get(kind.__name__, "URL" if name.endswith("url") else "TEXT")


def _hint(name: str, known: set[str]) -> str:
    close = get_close_matches(name, known, 1)
    return f"; did you mean {close[0]}?" if close else "; `penstock serve --help` names all"
