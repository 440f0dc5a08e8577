"""The beginning of an address: scheme, user and password, host and port, checked before anything is called."""

from __future__ import annotations

import re
from ipaddress import IPv4Address, IPv6Address
from urllib.parse import quote, unquote

from yarl import URL

_HEAD = re.compile(r"(?:[A-Za-z][A-Za-z0-9+.-]*://)?[^/?]*")
_LABEL = re.compile(r"[A-Za-z0-9_-]{1,63}")
_PORTS = range(1, 65_536)


def head_of(address: str) -> str:
    """The part of an address before its path."""
    found = _HEAD.match(address)
    assert found is not None
    return found[0]


def checked_head(head: str, template: str) -> str:
    """The beginning of an address as it is sent. Raises `ValueError` for what no request could be sent to.

    Errors show the template, whose variables are not filled in.
    """
    scheme, _, authority = head.partition("://")
    userinfo, at, host_and_port = authority.rpartition("@")
    if scheme.lower() not in ("http", "https") or not host_and_port:
        raise no_address(template)
    if not _is_latin(unquote(userinfo)):
        raise ValueError(f"{shown(template)}: expected a user and password in Latin-1 (ISO 8859-1)")
    host, port = _split(host_and_port)
    if port is not None and not (port.isascii() and port.isdecimal() and len(port) < 6 and int(port) in _PORTS):
        raise ValueError(f"{shown(template)}: expected a port from 1 to {_PORTS[-1]} after the host")
    user = quote(userinfo, safe="!$%&'()*+,:;=~") + at
    return f"{scheme}://{user}{_checked_host(host, template)}" + ("" if port is None else f":{port}")


def shown(template: str) -> str:
    """A template for an error, without user and password."""
    return repr(re.sub(r"//[^/?]*@", "//…@", template, count=1))


def no_address(template: str) -> ValueError:
    """The error for a text that is not an address of HTTP."""
    return ValueError(f"a service needs an address like http://host/path/{{field}}, got {shown(template)}")


def _is_latin(text: str) -> bool:
    return all(character <= "\xff" for character in text)


def _split(host_and_port: str) -> tuple[str, str | None]:
    """Host and port; a colon within brackets is a part of an IPv6 address."""
    end = host_and_port.rfind("]") + 1
    host, colon, port = host_and_port[end:].partition(":")
    return host_and_port[:end] + host, port if colon else None


def _checked_host(host: str, template: str) -> str:
    """The host, as the domain name system knows it. Raises `ValueError` for one that cannot exist."""
    try:
        if host.startswith("["):
            if not host.endswith("]"):
                raise ValueError
            IPv6Address(host[1:-1].replace("%25", "%"))
            return host
        name = host if host.isascii() else URL.build(scheme="http", host=host).raw_host or ""
        labels = name.removesuffix(".").split(".")
        if len(name) > 253 or not all(map(_LABEL.fullmatch, labels)):
            raise ValueError
        if len(labels) == 4 and all(map(str.isdecimal, labels)):
            IPv4Address(name.removesuffix("."))
    except ValueError:
        raise ValueError(f"{shown(template)}: expected the name or the IP address of a host") from None
    return name
