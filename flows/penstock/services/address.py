"""Texts with places for the fields of a value, above all addresses: `${PRICES}/{orderId}?at={warehouse.id}`.

Variables of the environment are filled in when the text is made, fields for each value. A field is data from outside,
so it stays within its place: in an address it is percent-encoded, never chooses the host, and in the path is never
empty, `.` or `..`, which would ask for something else.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from string import Formatter
from typing import Any, cast
from urllib.parse import quote, urlsplit

from yarl import URL

from penstock.environment import filled as filled_in
from penstock.errors import Invalid

ELSEWHERE = ("", ".", "..")
"""Segments of a path that lead to another resource than the one that is meant."""

NO_TEXT = (type(None), Mapping, list, tuple, set, bytes)


class Address:
    """A URL for each value."""

    __slots__ = ("_pieces", "template")

    def __init__(self, template: str, environment: Mapping[str, str] = os.environ) -> None:
        self.template = template
        self._pieces = list(pieces_of(filled := filled_in(template, environment)))
        try:
            parts = urlsplit(filled)
        except ValueError:  # brackets that hold no address: http://[h
            parts = urlsplit("")
        if parts.scheme not in ("http", "https") or not parts.netloc:
            raise ValueError(f"a service needs an address like http://host/path/{{field}}, got {template!r}")
        if "{" in parts.netloc:
            raise ValueError(f"a value must not choose the host that is called, got {template!r}")
        port = parts.netloc.rpartition(":")[2]
        if port.isdecimal() and int(port) > 65_535:
            raise ValueError(f"there is no port {port}, got {template!r}")

    @property
    def has_fields(self) -> bool:
        """Whether it takes something of the value."""
        return any(field is not None for _, field in self._pieces)

    def url(self, value: Any) -> URL:
        """The address for a value; raises `Invalid` when the value does not have what it takes."""
        url = ""
        for text, field in self._pieces:
            url += text
            if field is not None:
                url += _quoted(field, field_of(value, field), in_path="?" not in url)
        return URL(url, encoded=True)


class Line:
    """A text with places for fields, such as the value of a header; what is filled in stays on its line."""

    __slots__ = ("_pieces", "template")

    def __init__(self, template: str, environment: Mapping[str, str] = os.environ) -> None:
        self.template = template
        self._pieces = list(pieces_of(filled_in(template, environment)))

    @property
    def has_fields(self) -> bool:
        """Whether it takes something of the value."""
        return any(field is not None for _, field in self._pieces)

    def text(self, value: Any) -> str:
        """The text for a value; raises `Invalid` when the value does not have what it takes."""
        text = ""
        for piece, field in self._pieces:
            text += piece
            if field is not None:
                text += _one_line(field, _text(field, field_of(value, field), "a header"))
        return text


def pieces_of(template: str) -> Iterator[tuple[str, str | None]]:
    """The texts of a template, each with the field that follows it; raises `ValueError` for what names no field."""
    for text, field, form, conversion in Formatter().parse(template):
        if field is not None and (not all(map(str.isidentifier, field.split("."))) or form or conversion):
            raise ValueError(f"{{{field}}} is not the plain name of a field")
        yield text, field


def field_of(value: Any, name: str) -> Any:
    """A field of a mapping, an attribute, or a field of a field: `card.number`; raises `Invalid` when there is none."""
    found = value
    try:
        for part in name.split("."):
            found = cast("Mapping[str, Any]", found)[part] if isinstance(found, Mapping) else getattr(found, part)
    except (KeyError, AttributeError) as error:
        raise Invalid(f"the value has no field {name}, which the service is asked with") from error
    return found


def _text(field: str, found: object, where: str) -> str:
    if isinstance(found, NO_TEXT):
        raise Invalid(f"the field {field} is no text and no number, so it has no place in {where}")
    return str(found).lower() if isinstance(found, bool) else str(found)  # as JSON has it


def _one_line(field: str, text: str) -> str:
    if not text.isprintable():
        raise Invalid(f"the field {field} has characters that have no place in a header")
    return text


def _quoted(field: str, found: object, *, in_path: bool) -> str:
    text = _text(field, found, "an address")
    if in_path and text in ELSEWHERE:
        raise Invalid(f"the field {field} is {text!r}, which would lead to another address")
    try:
        return quote(text, safe="")
    except UnicodeEncodeError as error:
        raise Invalid(f"the field {field} is not valid text: {error.reason}") from error
