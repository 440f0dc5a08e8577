"""An address with places for the fields of a value: `http://prices/{orderId}?at={warehouse}`.

What is filled in is data from outside, so it stays within its place: it is percent-encoded, it never chooses
the host, and in the path it is never empty, `.` or `..`, which would ask for something else.
"""

from __future__ import annotations

from collections.abc import Mapping
from string import Formatter
from typing import Any, cast
from urllib.parse import quote, urlsplit

from yarl import URL

from penstock.errors import Invalid

ELSEWHERE = ("", ".", "..")
"""Segments of a path that lead to another resource than the one that is meant."""

NO_TEXT = (type(None), Mapping, list, tuple, set, bytes)


class Address:
    """A URL for each value."""

    __slots__ = ("_fields", "_texts", "template")

    def __init__(self, template: str) -> None:
        self.template = template
        self._texts: list[str] = []
        self._fields: list[str | None] = []
        for text, field, form, conversion in Formatter().parse(template):
            if field is not None and (not field.isidentifier() or form or conversion):
                raise ValueError(f"{{{field}}} in {template!r} is not the plain name of a field")
            self._texts.append(text)
            self._fields.append(field)
        parts = urlsplit(template)
        if parts.scheme not in ("http", "https") or not parts.netloc:
            raise ValueError(f"a service needs an address like http://host/path/{{field}}, got {template!r}")
        if "{" in parts.netloc:
            raise ValueError(f"a value must not choose the host that is called, got {template!r}")

    def url(self, value: Any) -> URL:
        """The address for a value; raises `Invalid` when the value does not have what it takes."""
        url = ""
        for text, field in zip(self._texts, self._fields, strict=True):
            url += text
            if field is not None:
                url += _quoted(field, field_of(value, field), in_path="?" not in url)
        return URL(url, encoded=True)


def field_of(value: Any, name: str) -> Any:
    """A field of a mapping, or an attribute; raises `Invalid` when there is none."""
    try:
        return cast("Mapping[str, Any]", value)[name] if isinstance(value, Mapping) else getattr(value, name)
    except (KeyError, AttributeError) as error:
        raise Invalid(f"the value has no field {name}, which the service is asked with") from error


def _quoted(field: str, found: object, *, in_path: bool) -> str:
    if isinstance(found, NO_TEXT):
        raise Invalid(f"the field {field} is no text and no number, so it has no place in an address")
    text = str(found)
    if in_path and text in ELSEWHERE:
        raise Invalid(f"the field {field} is {text!r}, which would lead to another address")
    try:
        return quote(text, safe="")
    except UnicodeEncodeError as error:
        raise Invalid(f"the field {field} is not valid text: {error.reason}") from error
