"""Small expressions on values, for flows that are written down: `value.pricing.price < 5000`.

The language is CEL, the Common Expression Language (https://cel.dev), evaluated by Google's own implementation: it
always ends, has no side effects and no way out to Python or the machine, and is checked when a flow is loaded. (Tried:
a CEL in Rust is three times slower and brings a terminal's worth of packages, the one in Python is thirty times
slower; JMESPath finds values but does not compute.)

CEL does not mix whole numbers and fractions: `double(value.quantity) * 1.5`. Whole numbers have 64 bits.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from typing import Any

import msgspec

from penstock.errors import ExpressionFailed, ExpressionWrong, Invalid

_KNOWN = (dict, list, str, int, float, bool, type(None))
_PLACE = re.compile(r"<input>:(\d+):(\d+): (.*)")
_KEY = re.compile(r"Key not found in map : \"?(.*?)\"?$")
_KIND = re.compile(r"^[A-Z_]+: ")


@dataclass(frozen=True, slots=True)
class Expression:
    """An expression on one variable, which can be called like a function. Raises `ExpressionWrong` when it is made.

    >>> Expression("value.price * 2")({"price": 21})
    42
    """

    text: str
    variable: str = "value"
    kind: str = field(init=False, compare=False, repr=False)
    """The type of what it gives, as CEL names it: `BOOL`, `INT`, `DYN` when that cannot be known …"""
    _program: Any = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        try:
            program = _environment(self.variable).compile(self.text)
        except RuntimeError as error:
            raise ExpressionWrong(self.text, *_explained(str(error), self.text)) from None
        object.__setattr__(self, "_program", program)
        object.__setattr__(self, "kind", program.return_type().name())

    def __call__(self, value: Any) -> Any:
        """The result for a value; raises `ExpressionFailed`, for example for a field that is not there."""
        if not isinstance(value, _KNOWN):
            value = msgspec.to_builtins(value)
        result = self._program.eval(data={self.variable: value})
        try:
            plain = result.plain_value()
        except (TypeError, ValueError, SystemError):
            raise ExpressionFailed(
                self.text, "gives no plain value; say what stands for a value that may be missing: .orValue(0)"
            ) from None
        if isinstance(plain, str) and result.type() == _cel().Type.ERROR:
            raise ExpressionFailed(self.text, _failure(plain, self.text))
        return plain


def condition(function: Callable[[Any], object]) -> Callable[[Any], object]:
    """A function that decides. An expression has to give true or false: neither "false" nor 0 is taken for one."""
    if not isinstance(function, Expression):
        return function

    def decide(value: Any) -> bool:
        result = function(value)
        if type(result) is not bool:
            raise ExpressionFailed(function.text, f"gives {str(result)[:40]!r}, wanted is true or false")
        return result

    return decide


@dataclass(frozen=True, slots=True)
class Fields:
    """A mapping of names to expressions, called to make an object: each field is what its expression gives."""

    fields: Mapping[str, Expression]

    def __call__(self, value: Any) -> dict[str, Any]:
        return {name: expression(value) for name, expression in self.fields.items()}


@dataclass(frozen=True, slots=True)
class Assign:
    """The same, but the fields are put into the value, which keeps its others."""

    fields: Mapping[str, Expression]

    def __call__(self, value: Any) -> dict[str, Any]:
        if not isinstance(value, dict):
            value = msgspec.to_builtins(value)
        if not isinstance(value, dict):
            raise Invalid(f"only an object has fields to be set, got {type(value).__name__}")
        return {**value, **{name: expression(value) for name, expression in self.fields.items()}}


@cache
def _cel() -> Any:
    return import_module("cel_expr_python.cel")  # late: 14 MB that flows without expressions do not need


@cache
def _environment(variable: str) -> Any:
    cel = _cel()
    extensions = [
        getattr(import_module(f"cel_expr_python.ext.ext_{name.lower()}"), f"Ext{name}")()
        for name in ("Strings", "Math", "Optional")
    ]
    return cel.NewEnv(variables={variable: cel.Type.DYN}, extensions=extensions)


def _failure(said: str, text: str) -> str:
    """Why there is no result, in words that help."""
    reason = _KIND.sub("", said)
    if "overload" in reason and "int64" in reason and "double" in reason:
        return f"{reason}; whole numbers and fractions do not mix: write double(…) around the whole number"
    if missing := _KEY.match(reason):
        return f"{reason}; {_way_without(missing[1], text)}"
    return reason


def _way_without(key: str, text: str) -> str:
    """What to do about a key that a value has not: a field of it, or one that is looked up among others."""
    if field := re.search(rf"[\w.]+\.{re.escape(key)}\b", text):
        return f"say what stands for a field that may be missing: has({field[0]}) ? {field[0]} : 0"
    return "if that is no failure, look it up with [?…] and say what stands for it: {'a': 1}[?value.x].orValue(0)"


def _explained(said: str, text: str) -> tuple[str, int, int]:
    """What is wrong, and where in the expression, from 1 on."""
    if "recursion" in said:
        return "it is nested too deeply; compute parts of it in steps of their own, such as set", 1, 1
    found = _PLACE.search(said)
    if found is None:
        return said.split("\n")[0], 1, 1
    line, column, reason = int(found[1]), int(found[2]), found[3]
    if reason.startswith("undeclared reference to"):
        name = reason.split("'")[1]
        column = max(1, text.split("\n")[line - 1].find(name) + 1)
        reason = f"there is no {name!r} here"
    elif reason.startswith("Syntax error:"):
        reason = reason.split(" expecting ")[0].removeprefix("Syntax error: ")
        reason = "it ends too early" if "<EOF>" in reason else reason
    return reason, line, column
