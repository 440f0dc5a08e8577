"""Small expressions on values, for flow files: `value.pricing.price < 5000`.

The language is CEL, the Common Expression Language (https://cel.dev), evaluated by Google's own implementation: it
always terminates, has no side effects and no access to Python or the machine, and is checked when a flow is loaded.
(Tried: a CEL in Rust is three times slower and needs the packages of a terminal, the one in Python is thirty times
slower; JMESPath finds values but does not compute.)

CEL does not mix integers and fractions: `double(value.quantity) * 1.5`. Integers have 64 bits.

An expression that is a path of fields, such as `value.pricing.price`, is evaluated here, without CEL. So flows without
other expressions do not need the package of CEL, which is not available on all platforms.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import msgspec

from penstock.errors import ExpressionFailed, InvalidExpression, InvalidItem
from penstock.expressions.failures import NOT_AN_OBJECT, cel_missing, explain, failure, missing
from penstock.expressions.paths import Path, plain_path

if TYPE_CHECKING:
    from penstock.expressions.program import Program

_OBJECT: Any = dict
_KNOWN: Any = (dict, list, str, int, float, bool, type(None))
_SCALARS = frozenset({str, int, float, bool, type(None)})


@dataclass(frozen=True, slots=True)
class Expression:
    """An expression on one variable, called like a function. The constructor raises `InvalidExpression`.

    >>> Expression("value.price * 2")({"price": 21})
    42
    """

    text: str
    variable: str = "value"
    result_type: str = field(init=False, compare=False, repr=False)
    """The type of the result, as CEL names it: `BOOL`, `INT`, `DYN` if it is unknown …"""
    _path: Path | None = field(init=False, compare=False, repr=False)
    _program: Program | None = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        path, kind, program = plain_path(self.text, self.variable), "DYN", None
        if path is None:
            program = _program(self.text, self.variable)
            path, kind = program.path, program.kind
        object.__setattr__(self, "_path", path)
        object.__setattr__(self, "_program", program)
        object.__setattr__(self, "result_type", kind)

    def __call__(self, value: Any) -> Any:
        """Return the result for a value. Raises `ExpressionFailed`, for example if a field is missing."""
        if not isinstance(value, _KNOWN):
            value = msgspec.to_builtins(value)
        path = self._path
        if path is None:
            assert self._program is not None
            return self._program.result(value)
        whole = value
        for name in path:
            if not isinstance(value, _OBJECT):
                raise ExpressionFailed(self.text, NOT_AN_OBJECT)
            if name not in value:
                raise ExpressionFailed(self.text, failure(missing(name), self.text, {self.variable: whole}))
            value = value[name]
        return value if type(value) in _SCALARS else _copy(value, self.text)


def _program(text: str, variable: str) -> Program:
    """Compile an expression by CEL, which is imported with the first one: it takes 14 MB."""
    if (nul := text.find("\0")) >= 0:  # CEL would ignore the rest
        line, column = text.count("\n", 0, nul) + 1, nul - text.rfind("\n", 0, nul)
        raise InvalidExpression(text, "it contains the character NUL; in a text literal, write \\u0000", line, column)
    from penstock.expressions.program import Program

    try:
        return Program(text, variable)
    except ImportError as error:
        raise InvalidExpression(text, cel_missing(error), 1, 1) from None
    except RuntimeError as error:
        raise InvalidExpression(text, *explain(str(error), text)) from None


def _copy(value: Any, text: str) -> Any:
    """Copy a list or an object of plain values, as CEL does, so that changes of the copy do not change the item."""
    try:
        return msgspec.to_builtins(value, builtin_types=(bytes, bytearray))
    except (TypeError, RecursionError) as error:
        raise ExpressionFailed(text, f"the result is not a plain value: {error}") from None


def as_predicate(function: Callable[[Any], object]) -> Callable[[Any], object]:
    """Return a predicate. An expression must return true or false: "false" and 0 are not converted."""
    if not isinstance(function, Expression):
        return function

    def decide(value: Any) -> bool:
        result = function(value)
        if type(result) is not bool:
            raise ExpressionFailed(function.text, f"expected true or false, got {str(result)[:40]!r}")
        return result

    return decide


@dataclass(frozen=True, slots=True)
class Fields:
    """A mapping of names to expressions. A call makes an object with the result of each expression as a field."""

    fields: Mapping[str, Expression]

    def __call__(self, value: Any) -> dict[str, Any]:
        return {name: expression(value) for name, expression in self.fields.items()}


@dataclass(frozen=True, slots=True)
class Assign:
    """A mapping of names to expressions. A call sets these fields in the value, and keeps its others."""

    fields: Mapping[str, Expression]

    def __call__(self, value: Any) -> dict[str, Any]:
        if not isinstance(value, dict):
            value = msgspec.to_builtins(value)
        if not isinstance(value, dict):
            raise InvalidItem(f"set: expected an object, got {type(value).__name__}")
        return {**value, **{name: expression(value) for name, expression in self.fields.items()}}
