"""Where requests go: an origin (scheme, host and port), made once from the checked beginning of a URL."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from ipaddress import ip_address
from urllib.parse import unquote

DEFAULT_PORTS = {"http": 80, "https": 443}

UNIX = "http+unix"
"""The scheme of a URL whose host is the percent-encoded path of a Unix socket: `http+unix://%2Frun%2Fprices.sock/x`."""

DEFAULT_HEADERS = {"Accept": "application/json, application/problem+json", "User-Agent": "penstock"}

_WITH_CONTENT = ("POST", "PUT", "PATCH")
"""Methods that send `Content-Length: 0` without a body (RFC 9110, section 8.6)."""


@dataclass(frozen=True, slots=True)
class Origin:
    """Scheme, host and port, and the password in the URL."""

    scheme: str
    """`http`, `https` or `http+unix`."""
    host: str
    """A name or an IP address without brackets; the path of a Unix socket."""
    port: int
    authority: str
    """The value of the header Host."""
    authorization: str | None = None
    """The value of the header Authorization, from user and password of the URL."""

    @classmethod
    def parse(cls, text: str) -> Origin:
        """Parse the beginning of a URL. Raises `ValueError` for another scheme, an invalid port or no host."""
        scheme, separator, authority = text.partition("://")
        scheme = scheme.lower()
        userinfo, _, host_and_port = authority.rpartition("@")
        if scheme == UNIX and host_and_port:
            return cls(scheme, unquote(host_and_port), 0, "localhost", _basic(userinfo))
        if not separator or scheme not in DEFAULT_PORTS or not host_and_port:
            raise ValueError("its URL is not a valid HTTP URL")
        end = host_and_port.rfind("]") + 1
        name, colon, port_text = host_and_port[end:].partition(":")
        host = host_and_port[:end] + name
        if (colon and not (port_text.isascii() and port_text.isdecimal())) or not host.isascii() or not host:
            raise ValueError("its URL is not a valid HTTP URL")
        port = int(port_text) if colon else DEFAULT_PORTS[scheme]
        named = host.partition("%")[0] + "]" if "%" in host else host  # the zone of an IPv6 address is not sent
        return cls(
            scheme,
            unquote(host.strip("[]")),
            port,
            named if port == DEFAULT_PORTS[scheme] else f"{named}:{port}",
            _basic(userinfo),
        )

    @property
    def is_loopback(self) -> bool:
        """Whether the host is this machine."""
        return is_loopback(self.host)


def is_loopback(host: str) -> bool:
    """Return whether a name or an IP address is this machine."""
    name = host.lower().removesuffix(".")
    try:
        return ip_address(name).is_loopback
    except ValueError:
        return name == "localhost" or name.endswith(".localhost")


def head_of(origin: Origin, headers: Mapping[str, str], known: Collection[str]) -> bytes:
    """Return the headers of a request, without an empty line at the end: those given, and defaults.

    `known` are the names, in lower case, that need no default: they are given, here or later. Names and values are
    checked before (`HeaderTemplate`). Raises `ValueError` for a value that cannot be sent.
    """
    defaults = {"Host": origin.authority, **DEFAULT_HEADERS}
    if origin.authorization is not None:
        defaults["Authorization"] = origin.authorization
    lines = {name: value for name, value in defaults.items() if name.lower() not in known} | dict(headers)
    return encode_headers(lines)


def encode_headers(headers: Mapping[str, str]) -> bytes:
    """Return headers as they are sent. Raises `ValueError` for a line break, NUL, or other text than Latin-1."""
    lines = [f"{name}: {value}" for name, value in headers.items()]
    text = "\r\n".join([*lines, ""])
    if text.count("\r") + text.count("\n") != 2 * len(lines) or "\0" in text:
        raise ValueError("a header contains a line break")
    return text.encode()  # in UTF-8, as most clients and servers do


def end_of(method: str, body: bytes | None) -> bytes:
    """Return the end of a request: the length of its body, the empty line, and the body."""
    if body is None:
        return b"Content-Length: 0\r\n\r\n" if method in _WITH_CONTENT else b"\r\n"
    return b"Content-Length: %d\r\n\r\n%b" % (len(body), body)


def _basic(userinfo: str) -> str | None:
    """Return the header Authorization for user and password (RFC 7617), in Latin-1 as most servers expect it."""
    if not userinfo:
        return None
    user, _, password = userinfo.partition(":")
    return "Basic " + b64encode(f"{unquote(user)}:{unquote(password)}".encode("latin-1")).decode()
