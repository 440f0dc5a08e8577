"""Forms of quantities, expressions and references to Python objects."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar

from penstock.errors import FlowDefinitionError, InvalidExpression
from penstock.expressions import Expression, Fields
from penstock.flowfile.diagnostics import Diagnostics
from penstock.flowfile.document import Kind, Node, quoted
from penstock.flowfile.forms.choices import Either
from penstock.flowfile.forms.containers import MapOf
from penstock.flowfile.forms.form import MISSING, Form, Missing, Schema, T_co, complete
from penstock.flowfile.forms.scalars import Text, finite, integral
from penstock.flowfile.limits import MAX_EXPRESSION
from penstock.flowfile.quantities import (
    DURATION,
    PERCENTAGE,
    RATE,
    SIZE,
    nearest_quantity,
    read_duration,
    read_percentage,
    read_rate,
    read_size,
)
from penstock.runtime.schedule import Cron, parse_timezone

MAX_CRON = 200
"""Characters of a cron expression."""


def checked(check: Callable[[str], object], *, description: str = "") -> Form[str]:
    """Return the form of a string for which a function raises no error."""

    def confirm(text: str) -> str:
        check(text)
        return text

    return Text(description=description).then(confirm)


def _cron(text: str) -> Cron:
    """Parse a cron expression. Each part of a list in it costs time, so its length has a limit."""
    if len(text) > MAX_CRON:
        raise FlowDefinitionError(f"cron expression of {len(text)} characters: expected at most {MAX_CRON}")
    return Cron(text)


CRON = checked(_cron, description="When it runs, as a cron expression: 30 4 * * 1-5")
TIMEZONE = checked(parse_timezone, description="The time zone of cron (UTC): Europe/Berlin")


@dataclass(frozen=True, slots=True)
class Amount(Form[T_co]):
    """A quantity above 0, or with `min=0` also 0."""

    min: int | None = None

    pattern: ClassVar[str]
    type: ClassVar[str]
    noun: ClassVar[str]
    examples: ClassVar[str]

    def __post_init__(self) -> None:
        if self.min not in (None, 0):
            raise ValueError(f"min: expected None, for amounts above 0, or 0, got {self.min}")

    @property
    def json_types(self) -> frozenset[Kind]:
        return frozenset({"text", "integer", "number"})

    @property
    def expected(self) -> str:
        return f"a {self.noun} {'> 0' if self.min is None else '>= 0'} such as {self.examples}"

    def json_schema(self, _definitions: dict[str, Schema], /) -> Schema:
        if self.min is None:
            bound, pattern = {"exclusiveMinimum": 0}, f"(?=.*[1-9]){self.pattern}"
        else:
            bound, pattern = {"minimum": 0}, self.pattern
        return {
            "type": [self.type, "string"],
            **bound,
            "pattern": complete(pattern),
            "patternErrorMessage": f"expected {self.expected}",
        }

    def amount(self, node: Node, diagnostics: Diagnostics, parse: Callable[[str], float | None]) -> float | Missing:
        """Return the amount; `parse` reads it from a string."""
        amount = parse(node.value) if node.kind == "text" else node.value
        if node.kind not in self.json_types or amount is None or not finite(amount):
            meant = nearest_quantity(node.value, self.pattern) if node.kind == "text" else None
            self.reject(node, diagnostics, f'did you mean "{meant}"?' if meant else None)
            return MISSING
        if amount < 0 or (amount == 0 and self.min is None):
            return self.reject(node, diagnostics)
        return amount


@dataclass(frozen=True, slots=True)
class Duration(Amount[float]):
    """A duration, in seconds."""

    pattern: ClassVar[str] = DURATION
    type: ClassVar[str] = "number"
    noun: ClassVar[str] = "duration"
    examples: ClassVar[str] = "250ms, 2s or 1h30m"

    def read(self, node: Node, diagnostics: Diagnostics, /) -> float | Missing:
        seconds = self.amount(node, diagnostics, read_duration)
        return MISSING if seconds is MISSING else float(seconds)


@dataclass(frozen=True, slots=True)
class Size(Amount[int]):
    """A number of bytes."""

    pattern: ClassVar[str] = SIZE
    type: ClassVar[str] = "integer"
    noun: ClassVar[str] = "size"
    examples: ClassVar[str] = "16MiB, 64kB or 512B"

    def read(self, node: Node, diagnostics: Diagnostics, /) -> int | Missing:
        if node.kind == "number" and not integral(node):
            return self.reject(node, diagnostics)
        bytes = self.amount(node, diagnostics, read_size)
        return MISSING if bytes is MISSING else int(bytes)


@dataclass(frozen=True, slots=True)
class Rate(Amount[float]):
    """A number per second."""

    pattern: ClassVar[str] = RATE
    type: ClassVar[str] = "number"
    noun: ClassVar[str] = "rate"
    examples: ClassVar[str] = "10/s, 600/m or 5000/h"

    def read(self, node: Node, diagnostics: Diagnostics, /) -> float | Missing:
        rate = self.amount(node, diagnostics, read_rate)
        return MISSING if rate is MISSING else float(rate)


@dataclass(frozen=True, slots=True)
class Percentage(Amount[float]):
    """A percentage up to 100%, as a part of 1."""

    pattern: ClassVar[str] = PERCENTAGE
    type: ClassVar[str] = "number"
    noun: ClassVar[str] = "percentage"
    examples: ClassVar[str] = "80%, or a part of 1 such as 0.8"

    def read(self, node: Node, diagnostics: Diagnostics, /) -> float | Missing:
        part = self.amount(node, diagnostics, read_percentage)
        if part is MISSING:
            return MISSING
        return float(part) if part <= 1 else self.reject(node, diagnostics)

    def json_schema(self, definitions: dict[str, Schema], /) -> Schema:
        return {**Amount[float].json_schema(self, definitions), "maximum": 1}


REFERENCE = "[A-Za-z_][A-Za-z0-9_.]*:[A-Za-z_][A-Za-z0-9_.]*"
"""The pattern of a reference to a Python object: `module:name`."""

_TEXT = frozenset[Kind]({"text"})
_SIMPLE = frozenset[Kind]({"text", "integer", "number", "boolean"})


@dataclass(frozen=True, slots=True)
class Reference(Form[Any]):
    """A Python object by its name, imported when it is read; a function unless `callable` is false."""

    callable: bool = True

    @property
    def json_types(self) -> frozenset[Kind]:
        return _TEXT

    @property
    def expected(self) -> str:
        return "a reference such as module:name"

    def read(self, node: Node, diagnostics: Diagnostics, /) -> Any:
        if node.kind != "text" or not re.fullmatch(REFERENCE, node.value):
            return self.reject(node, diagnostics)
        found = _imported(node, diagnostics)
        if self.callable and found is not MISSING and not callable(found):
            message = f"{node.value}: expected a function, got an object of type {type(found).__name__}"
            diagnostics.add(node, message, expected="a function")
            return MISSING
        return found

    def json_schema(self, definitions: dict[str, Schema], /) -> Schema:
        return Text(pattern=REFERENCE).json_schema(definitions) | {"patternErrorMessage": f"expected {self.expected}"}


@dataclass(frozen=True, slots=True)
class Expr(Form[Expression]):
    """An expression on a variable, whose result has one of some types (any by default).

    A number or a Boolean is an expression with itself as its result.
    """

    variable: str = "value"
    gives: tuple[str, ...] = ()

    @property
    def json_types(self) -> frozenset[Kind]:
        return _SIMPLE

    @property
    def expected(self) -> str:
        if "BOOL" in self.gives:
            return f"a Boolean expression such as {self.variable}.amount > 10"
        return "an expression for a list" if "LIST" in self.gives else "an expression"

    def read(self, node: Node, diagnostics: Diagnostics, /) -> Expression | Missing:
        if node.kind not in _SIMPLE:
            return self.reject(node, diagnostics)
        text = node.value if node.kind == "text" else node.shown()
        if len(text) > MAX_EXPRESSION:
            diagnostics.exceeded(node, "characters in an expression", MAX_EXPRESSION)
            return MISSING
        diagnostics.expressions.add(len(text), node)
        try:
            expression = Expression(text, self.variable)
        except InvalidExpression as error:
            hint = f"the variable is {self.variable}" if error.reason.startswith("unknown name") else None
            where = f"column {error.column}" if error.line == 1 else f"line {error.line}"
            diagnostics.add(node, f"invalid expression {node.shown()} ({where}): {error.reason}", hint=hint)
            return MISSING
        kind = expression.result_type.split("<")[0]
        if self.gives and kind not in (*self.gives, "DYN"):
            subject = f"{diagnostics.subject}: " if diagnostics.subject else ""
            message = f"{subject}expected {self.expected}, got one of type {kind}: {node.shown()}"
            diagnostics.add(node, message, expected=self.expected)
            return MISSING
        return expression

    def json_schema(self, _definitions: dict[str, Schema], /) -> Schema:
        return {"type": ["string", "number", "boolean"]}


@dataclass(frozen=True, slots=True)
class Function(Form[Any]):
    """A function: an expression on `variable`, or a Python function by its name."""

    variable: str = "value"
    gives: tuple[str, ...] = ()

    @property
    def json_types(self) -> frozenset[Kind]:
        return _SIMPLE

    @property
    def expected(self) -> str:
        return f"{Expr(self.variable, self.gives).expected}, or a function as module:name"

    def read(self, node: Node, diagnostics: Diagnostics, /) -> Any:
        named = node.kind == "text" and re.fullmatch(REFERENCE, node.value) is not None
        form: Form[Any] = Reference() if named else Expr(self.variable, self.gives)
        return form.read(node, diagnostics)

    def json_schema(self, definitions: dict[str, Schema], /) -> Schema:
        return Expr(self.variable).json_schema(definitions)


def function_or_fields(variable: str = "value", *, description: str = "") -> Form[Any]:
    """Return the form of a function, or of a mapping of expressions that make an object."""
    fields: Form[Fields] = MapOf(Expr(variable)).then(Fields)
    return Either(Function(variable), fields, description=description)


def is_in_python(name: str) -> bool:
    """Return whether a name is `module:name` and not that of a file."""
    return re.fullmatch(REFERENCE, name) is not None and not Path(name).exists()


@contextmanager
def importing_from(folder: Path) -> Generator[None]:
    """Let Python names be imported from modules in a folder too."""
    path = str(folder.resolve())
    sys.path.insert(0, path)
    try:
        yield
    finally:
        sys.path.remove(path)


def _imported(node: Node, diagnostics: Diagnostics) -> Any:
    module, _, name = node.value.partition(":")
    try:
        found: Any = import_module(module)
    except Exception as error:
        if isinstance(error, ModuleNotFoundError) and error.name and f"{module}.".startswith(f"{error.name}."):
            hint = "install it, or put it beside the flow file"
            diagnostics.add(node, f"no module {quoted(error.name)}", hint=hint)
        else:
            diagnostics.add(node, f"cannot import module {module}: {type(error).__name__}: {error}")
        return MISSING
    for part in name.split("."):
        if not hasattr(found, part):
            public = [known for known in dir(found) if not known.startswith("_")]
            near = diagnostics.closest(part, public)
            diagnostics.add(node, f"{module} has no {quoted(part)}", hint=f'did you mean "{near}"?' if near else None)
            return MISSING
        found = getattr(found, part)
    return found
