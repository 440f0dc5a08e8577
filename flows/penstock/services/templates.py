"""Templates of addresses and headers: text, fields of the value (`{orderId}`) and variables (`${TOKEN}`).

The template is parsed before its variables are filled in, so the value of a variable is data: a brace in it is a
brace. Errors name the variable and never show its value, which may be a secret.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from string import Formatter
from typing import NamedTuple

from penstock.environment import Placeholder, spans


class Text(NamedTuple):
    """Text as it stands in the template."""

    text: str


class Variable(NamedTuple):
    """A variable of the environment with its value, or its default."""

    name: str
    value: str

    @property
    def is_unset(self) -> bool:
        """Whether the value only stands for one that is not known, because nothing will run."""
        return isinstance(self.value, Placeholder)


class Field(NamedTuple):
    """A field of the value, such as `card.number`."""

    name: str


Piece = Text | Variable | Field

CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_SURROGATE = re.compile(r"[\ud800-\udfff]")


def pieces_of(template: str, environment: Mapping[str, str] = os.environ) -> Iterator[Piece]:
    """The pieces of a template in order. Raises `ValueError` for an invalid one, `VariableMissing`."""
    for text, variable in spans(template, environment):
        if variable is not None:
            _check_characters(variable, text)
            yield Variable(variable, text)
        else:
            yield from text_pieces(text)


def text_pieces(text: str) -> Iterator[Text | Field]:
    """The pieces of a template without variables. Raises `ValueError` for an invalid one."""
    try:
        parsed = list(Formatter().parse(text))
    except ValueError as error:
        raise ValueError(f"{error}; write {{{{ or }}}} for a literal brace") from None
    for literal, field, form, conversion in parsed:
        if literal:
            yield Text(literal)
        if field is None:
            continue
        if not all(map(str.isidentifier, field.split("."))) or form or conversion:
            raise ValueError(f"{{{field}}} is not the plain name of a field; write {{{{ or }}}} for a literal brace")
        yield Field(field)


def _check_characters(variable: str, value: str) -> None:
    """Raise `ValueError` for characters that are valid neither in an address nor in a header."""
    if _SURROGATE.search(value):
        raise ValueError(f"the variable {variable} is not valid UTF-8")
    if control := CONTROL.search(value.replace("\t", "")):
        hint = "; it ends with a line break" if value.endswith(("\n", "\r")) else ""
        raise ValueError(f"the variable {variable} contains the control character U+{ord(control[0]):04X}{hint}")
