"""Addresses and headers made from templates: `${PRICES}/{orderId}?at={warehouse.id}`.

Variables of the environment are filled in when the template is read, fields for each value. Both are data: what they
hold stays within its place. In an address it is percent-encoded, except that a variable at the beginning or in the
host may hold the beginning of an address, such as `http://host:8080/base`. A field never chooses the host, and in the
path it is never empty, `.` or `..`, which would ask for something else.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from typing import Any, cast
from urllib.parse import quote

from yarl import URL

from penstock.errors import Invalid
from penstock.services.heads import checked_head, head_of, no_address, shown
from penstock.services.templates import CONTROL, Field, Piece, Text, Variable, pieces_of

ELSEWHERE = ("", ".", "..")
"""Segments of a path that lead to another resource than the one that is meant."""

NO_TEXT = (type(None), Mapping, list, tuple, set, bytes)

HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
"""A token (RFC 9110, section 5.6.2)."""

FRAMING = ("content-length", "transfer-encoding")
"""Headers that the client sets itself: other values break the request."""

_PATH = "!$&'()*+,/:;=@~"
"""What the value of a variable in a path keeps as it is: a `/` too, so that it can hold several segments."""

_PATH_AND_QUERY = "!$%&'()*+,/:;=?@[]~"


class Address:
    """A URL for each value."""

    __slots__ = ("_pieces", "has_credentials", "template")

    def __init__(self, template: str, environment: Mapping[str, str] = os.environ) -> None:
        self.template = template
        try:
            pieces = list(pieces_of(template, environment))
        except ValueError as error:
            raise ValueError(f"{shown(template)}: {error}") from None
        texts, fields = _assembled(template, pieces)
        self._pieces = [
            (text, field, not any("?" in before for before in texts[: number + 1]))
            for number, (text, field) in enumerate(zip(texts, [*fields, None], strict=True))
        ]
        self.has_credentials = "@" in head_of(texts[0])
        """Whether it holds a user and a password, which are sent as the header Authorization."""

    @property
    def has_fields(self) -> bool:
        """Whether it takes something of the value."""
        return any(field is not None for _, field, _ in self._pieces)

    def url(self, value: Any) -> URL:
        """The address for a value; raises `Invalid` when the value does not have what it takes."""
        url = ""
        for text, field, in_path in self._pieces:
            url += text
            if field is not None:
                url += _quoted(field, field_of(value, field), in_path=in_path)
        return URL(url, encoded=True)


class Header:
    """The value of a header for each value: a text with places for fields."""

    __slots__ = ("_pieces", "name", "template")

    def __init__(self, name: str, template: str, environment: Mapping[str, str] = os.environ) -> None:
        self.name = name
        self.template = template
        if not HEADER_NAME.fullmatch(name):
            raise ValueError(f"{name!r} is not a valid name of a header; expected letters, digits and -")
        if name.lower() in FRAMING:
            raise ValueError(f"the header {name} is set for each request; leave it out")
        try:
            self._pieces = [_checked_piece(piece) for piece in pieces_of(template, environment)]
        except ValueError as error:
            raise ValueError(f"the header {name}: {error}") from None

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


def field_of(value: Any, name: str) -> Any:
    """A field of a mapping, an attribute, or a field of a field: `card.number`; raises `Invalid` when there is none."""
    found = value
    try:
        for part in name.split("."):
            found = cast("Mapping[str, Any]", found)[part] if isinstance(found, Mapping) else getattr(found, part)
    except (KeyError, AttributeError) as error:
        raise Invalid(f"the value has no field {name}, which the service is asked with") from error
    return found


def _assembled(template: str, pieces: Sequence[Piece]) -> tuple[list[str], list[str]]:
    """The texts of an address and the fields between them. Raises `ValueError` for an invalid address."""
    texts, fields = [""], list[str]()
    for number, piece in enumerate(pieces):
        in_head = not fields and not _has_path(texts[0])
        if isinstance(piece, Field):
            if in_head:
                raise _field_in_head(template, texts[0])
            fields.append(piece.name)
            texts.append("")
        elif isinstance(piece, Text):
            _check_text(template, piece.text)
            texts[-1] += piece.text
        elif not in_head:
            in_query = any("?" in text for text in texts)
            texts[-1] += quote(piece.value, safe="" if in_query else _PATH)
        elif "://" in texts[0] and _is_before_at_sign(pieces[number + 1 :]):
            texts[0] += quote(piece.value, safe=":")
        else:
            _check_beginning(piece, pieces[number + 1 :])
            texts[0] += piece.value
    if any(isinstance(piece, Variable) and piece.is_unset for piece in pieces):
        return texts, fields
    head = head_of(texts[0])
    rest = texts[0][len(head) :]
    return [checked_head(head, template) + _encoded(rest), *map(_encoded, texts[1:])], fields


def _has_path(text: str) -> bool:
    return len(head_of(text)) < len(text)


def _field_in_head(template: str, text: str) -> ValueError:
    if "://" in text:
        return ValueError(f"a value must not choose the host that is called, got {shown(template)}")
    return no_address(template)


def _is_before_at_sign(pieces: Sequence[Piece]) -> bool:
    """Whether these pieces end a user and password, so that what is before them is a part of those."""
    following = "".join(piece.text for piece in pieces if isinstance(piece, Text))
    return "@" in re.split("[/?]", following)[0]


def _check_text(template: str, text: str) -> None:
    if "#" in text:
        raise ValueError(f"{shown(template)}: expected no '#', because a fragment is never sent; write %23")
    if " " in text or CONTROL.search(text):
        raise ValueError(f"{shown(template)}: expected no spaces or control characters; write a space as %20")


def _check_beginning(variable: Variable, following: Sequence[Piece]) -> None:
    """Check a variable that holds the beginning of an address, or its host."""
    if found := re.search(r"[#{}\s]", variable.value):
        character = "a space" if found[0].isspace() else repr(found[0])
        raise ValueError(
            f"the variable {variable.name} contains {character}, which is not valid in an address; "
            f"write it percent-encoded: {quote(found[0])}"
        )
    if "?" in variable.value and any(isinstance(piece, Text) and piece.text[0] in "/?" for piece in following):
        raise ValueError(f"the variable {variable.name} contains a query ('?'), so no path can follow it")


def _encoded(text: str) -> str:
    """Path and query with what no URL may contain percent-encoded; what is encoded already stays as it is."""
    return quote(text, safe=_PATH_AND_QUERY)


def _text(field: str, found: object, where: str) -> str:
    if isinstance(found, NO_TEXT):
        raise Invalid(f"the field {field} is no text and no number, so it has no place in {where}")
    return str(found).lower() if isinstance(found, bool) else str(found)  # as JSON has it


def _one_line(field: str, text: str) -> str:
    if not text.isprintable() or not is_latin(text):
        raise Invalid(
            f"the field {field} has characters that have no place in a header: expected printable text in Latin-1"
        )
    return text


def _checked_piece(piece: Piece) -> tuple[str, str | None]:
    """The text or the field of a piece of a header. Raises `ValueError` for what no header can hold."""
    if isinstance(piece, Field):
        return "", piece.name
    whose, text = (f"the variable {piece.name}", piece.value) if isinstance(piece, Variable) else ("it", piece.text)
    if CONTROL.search(text.replace("\t", "")):
        raise ValueError(f"{whose} contains a line break or another control character")
    if not is_latin(text):
        raise ValueError(f"{whose} contains characters outside of Latin-1 (ISO 8859-1)")
    return text, None


def is_latin(text: str) -> bool:
    """Whether a text can be sent in a header: the characters of ISO 8859-1."""
    return text.isascii() or max(text) <= "\xff"


def _quoted(field: str, found: object, *, in_path: bool) -> str:
    text = _text(field, found, "an address")
    if in_path and text in ELSEWHERE:
        raise Invalid(f"the field {field} is {text!r}, which would lead to another address")
    try:
        return quote(text, safe="")
    except UnicodeEncodeError as error:
        raise Invalid(f"the field {field} is not valid text: {error.reason}") from error
