"""URLs made from templates: `${PRICES}/{orderId}?at={warehouse.id}`.

Variables of the environment are substituted when the template is parsed, fields for each value. Both are data, and are
percent-encoded; but a variable at the beginning or in the host may contain the beginning of a URL, such as
`http://host:8080/base`. A field never selects the host. In the path it is never empty, `.` or `..`, which would
address another resource.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from ipaddress import IPv4Address, IPv6Address
from typing import Any
from urllib.parse import quote, unquote

from penstock.errors import InvalidItem
from penstock.services.template import (
    CONTROL,
    Field,
    Part,
    Text,
    Variable,
    field_of,
    is_latin1,
    parse_template,
    text_of,
)

DOT_SEGMENTS = ("", ".", "..")
"""Segments of a path that address another resource."""

_PATH = "!$&'()*+,/:;=@~"
"""Characters that the value of a variable in a path keeps; also `/`, so that it may contain several segments."""

_PATH_AND_QUERY = "!$%&'()*+,/:;=?@[]~"

_ORIGIN = re.compile(r"(?:[A-Za-z][A-Za-z0-9+.-]*://)?[^/?]*")
_LABEL = re.compile(r"[A-Za-z0-9_-]{1,63}")
_PORTS = range(1, 65_536)


class UrlTemplate:
    """A URL that may contain fields of the value."""

    __slots__ = ("_fields", "_start", "has_credentials", "origin", "template")

    def __init__(self, template: str, environment: Mapping[str, str] = os.environ) -> None:
        self.template = template
        try:
            parts = list(parse_template(template, environment))
        except ValueError as error:
            raise ValueError(f"{display_url(template)}: {error}") from None
        texts, fields = _assemble(template, parts)
        self.origin = _origin_of(texts[0])
        """Scheme, user and password, host and port."""
        path = texts[0][len(self.origin) :]
        self._start = path if path.startswith("/") else f"/{path}"
        self._fields = [
            (field, not any("?" in before for before in texts[: number + 1]), texts[number + 1])
            for number, field in enumerate(fields)
        ]
        """Each field, whether it is in the path, and the text that follows it."""
        self.has_credentials = "@" in self.origin
        """Whether it contains user and password, which are sent as the header Authorization."""

    @property
    def has_fields(self) -> bool:
        """Whether it contains fields of the value."""
        return bool(self._fields)

    def render(self, value: Any) -> str:
        """Return the percent-encoded URL for a value. Raises `InvalidItem` if a field is missing or cannot be sent."""
        return self.origin + self.target(value).decode()

    def target(self, value: Any) -> bytes:
        """Return path and query for a value, percent-encoded. Raises `InvalidItem` as `render` does."""
        target = self._start
        for field, in_path, following in self._fields:
            found = field_of(value, field)
            if type(found) is int:  # it needs no encoding, and most identifiers are integers
                target += f"{found}{following}"
            else:
                target += _quote_field(field, found, in_path=in_path) + following
        return target.encode()


def display_url(template: str) -> str:
    """Return a URL for an error message, quoted, without user and password."""
    return repr(hide_credentials(template))


def hide_credentials(url: str) -> str:
    """Return a URL without user and password."""
    return re.sub(r"//[^/?]*@", "//…@", url, count=1)


def _assemble(template: str, parts: Sequence[Part]) -> tuple[list[str], list[str]]:
    """Return the texts of a URL and the fields between them. Raises `ValueError` for an invalid URL."""
    texts, fields = [""], list[str]()
    for number, part in enumerate(parts):
        in_origin = not fields and not _has_path(texts[0])
        if isinstance(part, Field):
            if in_origin:
                raise _field_in_origin(template, texts[0])
            fields.append(part.name)
            texts.append("")
        elif isinstance(part, Text):
            _check_text(template, part.text)
            texts[-1] += part.text
        elif not in_origin:
            in_query = any("?" in text for text in texts)
            texts[-1] += quote(part.value, safe="" if in_query else _PATH)
        elif "://" in texts[0] and _is_before_at_sign(parts[number + 1 :]):
            texts[0] += quote(part.value, safe=":")
        else:
            _check_beginning(part, parts[number + 1 :])
            texts[0] += part.value
    if any(isinstance(part, Variable) and part.is_unset for part in parts):
        return texts, fields
    origin = _origin_of(texts[0])
    path = texts[0][len(origin) :]
    return [_check_origin(origin, template) + _encode(path), *map(_encode, texts[1:])], fields


def _quote_field(field: str, found: object, *, in_path: bool) -> str:
    text = text_of(field, found, "a URL")
    if text.isalnum() and text.isascii():
        return text
    if in_path and text in DOT_SEGMENTS:
        raise InvalidItem(f"the field {field} is {text!r}, which would address another resource")
    try:
        return quote(text, safe="")
    except UnicodeEncodeError as error:
        raise InvalidItem(f"the field {field} is not valid text: {error.reason}") from error


def _encode(text: str) -> str:
    """Percent-encode what a URL cannot contain in path and query. Text that is encoded already stays."""
    return quote(text, safe=_PATH_AND_QUERY)


def _origin_of(url: str) -> str:
    """Return the part of a URL before its path: scheme, user and password, host and port."""
    found = _ORIGIN.match(url)
    assert found is not None
    return found[0]


def _has_path(text: str) -> bool:
    return len(_origin_of(text)) < len(text)


def _field_in_origin(template: str, text: str) -> ValueError:
    if "://" in text:
        return ValueError(f"{display_url(template)}: a field of the value cannot be part of the host")
    return _invalid_url(template)


def _invalid_url(template: str) -> ValueError:
    return ValueError(f"expected a URL like http://host/path/{{field}}, got {display_url(template)}")


def _is_before_at_sign(parts: Sequence[Part]) -> bool:
    """Return whether these parts end with the user and password, so that the part before them belongs to those."""
    following = "".join(part.text for part in parts if isinstance(part, Text))
    return "@" in re.split("[/?]", following)[0]


def _check_text(template: str, text: str) -> None:
    if "#" in text:
        raise ValueError(f"{display_url(template)}: expected no '#', because a fragment is never sent; write %23")
    if " " in text or CONTROL.search(text):
        raise ValueError(f"{display_url(template)}: expected no spaces or control characters; write a space as %20")


def _check_beginning(variable: Variable, following: Sequence[Part]) -> None:
    """Check a variable that contains the beginning of a URL, or its host."""
    if found := re.search(r"[#{}\s]", variable.value):
        character = "a space" if found[0].isspace() else repr(found[0])
        raise ValueError(
            f"the variable {variable.name} contains {character}, which is not valid in a URL; "
            f"write it percent-encoded: {quote(found[0])}"
        )
    if "?" in variable.value and any(isinstance(part, Text) and part.text[0] in "/?" for part in following):
        raise ValueError(f"the variable {variable.name} contains a query ('?'), so no path can follow it")


def _check_origin(origin: str, template: str) -> str:
    """Return the beginning of a URL as it is sent. Raises `ValueError` if no request can be sent to it.

    Errors contain the template, in which variables are not substituted.
    """
    scheme, _, authority = origin.partition("://")
    userinfo, at, host_and_port = authority.rpartition("@")
    if scheme.lower() == "http+unix" and not userinfo:
        return f"http+unix://{_check_socket(host_and_port, template)}"
    if scheme.lower() not in ("http", "https") or not host_and_port:
        raise _invalid_url(template)
    if not is_latin1(unquote(userinfo)):
        raise ValueError(f"{display_url(template)}: expected a user and password in Latin-1 (ISO 8859-1)")
    host, port = _split_port(host_and_port)
    if port is not None and not (port.isascii() and port.isdecimal() and len(port) < 6 and int(port) in _PORTS):
        raise ValueError(f"{display_url(template)}: expected a port from 1 to {_PORTS[-1]} after the host")
    user = quote(userinfo, safe="!$%&'()*+,:;=~") + at
    return f"{scheme}://{user}{_check_host(host, template)}" + ("" if port is None else f":{port}")


def _check_socket(path: str, template: str) -> str:
    """Return the percent-encoded path of a Unix socket. Raises `ValueError` for one that is not absolute."""
    if not unquote(path).startswith("/") or "\0" in unquote(path):
        raise ValueError(
            f"{display_url(template)}: expected the path of a Unix socket, with its slashes percent-encoded: "
            "http+unix://%2Frun%2Fname.sock/path"
        )
    return quote(unquote(path), safe="")


def _split_port(host_and_port: str) -> tuple[str, str | None]:
    """Return host and port. A colon within brackets is a part of an IPv6 address."""
    end = host_and_port.rfind("]") + 1
    host, colon, port = host_and_port[end:].partition(":")
    return host_and_port[:end] + host, port if colon else None


def _check_host(host: str, template: str) -> str:
    """Return the host in ASCII. Raises `ValueError` for an invalid host name."""
    try:
        if host.startswith("["):
            if not host.endswith("]"):
                raise ValueError
            IPv6Address(host[1:-1].replace("%25", "%"))
            return host
        name = host if host.isascii() else _ascii_name(host)
        labels = name.removesuffix(".").split(".")
        if len(name) > 253 or not all(map(_LABEL.fullmatch, labels)):
            raise ValueError
        if len(labels) == 4 and all(map(str.isdecimal, labels)):
            IPv4Address(name.removesuffix("."))
    except ValueError:
        raise ValueError(f"{display_url(template)}: expected the name or the IP address of a host") from None
    return name


def _ascii_name(host: str) -> str:
    """Return an internationalized host name in ASCII (IDNA)."""
    from yarl import URL  # it takes a while to import, and few need it

    return URL.build(scheme="http", host=host).raw_host or ""
