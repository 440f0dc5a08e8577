"""Shapes of texts that other parts of Penstock understand: they say themselves what is wrong with one."""

from __future__ import annotations

import re
import sys
from abc import abstractmethod
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar

from penstock.errors import FlowDefinitionError, InvalidExpression
from penstock.expressions import Expression
from penstock.flowfile.diagnostics import Diagnostics
from penstock.flowfile.document import Kind, Node
from penstock.flowfile.forms.form import MISSING, Form, Missing, Schema, complete
from penstock.flowfile.forms.scalars import Text, finite, integral
from penstock.flowfile.limits import MAX_EXPRESSION
from penstock.flowfile.quantities import DURATION, RATE, SIZE, nearest_quantity, read_duration, read_rate, read_size
from penstock.runtime.schedule import Cron, parse_timezone

MAX_CRON = 200
"""Characters of a cron expression."""


@dataclass(frozen=True, slots=True)
class Checked(Form):
    """A text for which `check` raises neither `FlowDefinitionError` nor `ValueError`."""

    check: Callable[[str], object]

    @property
    def json_types(self) -> frozenset[Kind]:
        return frozenset({"text"})

    @property
    def expected(self) -> str:
        return "a text"

    def read(self, node: Node, mistakes: Diagnostics, /) -> str | Missing:
        text = Text().read(node, mistakes)
        if text is MISSING:
            return MISSING
        try:
            self.check(text)
        except (FlowDefinitionError, ValueError, TypeError) as error:
            mistakes.add(node, str(error))
            return MISSING
        return text

    def json_schema(self, definitions: dict[str, Schema], /) -> Schema:
        return Text().json_schema(definitions)


def _cron(text: str) -> Cron:
    """A schedule by its cron expression; each part of a list in it costs time, so its length has a limit."""
    if len(text) > MAX_CRON:
        raise FlowDefinitionError(f"found a cron expression of {len(text)} characters, expected at most {MAX_CRON}")
    return Cron(text)


CRON = Checked(_cron, about="When it runs, as cron writes it: 30 4 * * 1-5")
ZONE = Checked(parse_timezone, about="The time zone of cron (UTC): Europe/Berlin")


@dataclass(frozen=True, slots=True)
class Amount(Form):
    """A quantity of more than nothing, or with `least=0` also of nothing."""

    least: int | None = None

    pattern: ClassVar[str]
    type: ClassVar[str]

    def __post_init__(self) -> None:
        if self.least not in (None, 0):
            raise ValueError(f"the least amount is either left out, for more than 0, or 0; got {self.least}")

    @property
    def json_types(self) -> frozenset[Kind]:
        return frozenset({"text", "integer", "number"})

    @property
    def expected(self) -> str:
        return f"{self.said} of more than 0" if self.least is None else self.said

    @property
    @abstractmethod
    def said(self) -> str:
        """What is wanted, apart from its bounds."""

    def json_schema(self, _definitions: dict[str, Schema], /) -> Schema:
        if self.least is None:
            bound, pattern = {"exclusiveMinimum": 0}, f"(?=.*[1-9]){self.pattern}"
        else:
            bound, pattern = {"minimum": 0}, self.pattern
        types = [self.type, "string"]
        return {
            "type": types,
            **bound,
            "pattern": complete(pattern),
            "patternErrorMessage": f"wanted is {self.expected}",
        }

    def amount(self, node: Node, mistakes: Diagnostics, parse: Callable[[str], float | None]) -> float | Missing:
        """The amount, read by `parse` if it is a text."""
        amount = parse(node.value) if node.kind == "text" else node.value
        if node.kind not in self.json_types or amount is None or not finite(amount):
            meant = nearest_quantity(node.value, self.pattern) if node.kind == "text" else None
            self.reject(node, mistakes, f'did you mean "{meant}"?' if meant else None)
            return MISSING
        if amount < 0 or (amount == 0 and self.least is None):
            return self.reject(node, mistakes)
        return amount


@dataclass(frozen=True, slots=True)
class Duration(Amount):
    """A span of time, in seconds."""

    pattern: ClassVar[str] = DURATION
    type: ClassVar[str] = "number"

    @property
    def said(self) -> str:
        return "a duration such as 250ms, 2s or 1h30m"

    def read(self, node: Node, mistakes: Diagnostics, /) -> float | Missing:
        seconds = self.amount(node, mistakes, read_duration)
        return MISSING if seconds is MISSING else float(seconds)


@dataclass(frozen=True, slots=True)
class Size(Amount):
    """A number of bytes."""

    pattern: ClassVar[str] = SIZE
    type: ClassVar[str] = "integer"

    @property
    def said(self) -> str:
        return "a size such as 16MiB, 64kB or 512B"

    def read(self, node: Node, mistakes: Diagnostics, /) -> int | Missing:
        if node.kind == "number" and not integral(node):
            return self.reject(node, mistakes)
        bytes = self.amount(node, mistakes, read_size)
        return MISSING if bytes is MISSING else int(bytes)


@dataclass(frozen=True, slots=True)
class Rate(Amount):
    """How many a second."""

    pattern: ClassVar[str] = RATE
    type: ClassVar[str] = "number"

    @property
    def said(self) -> str:
        return "a rate such as 10/s, 600/m or 5000/h"

    def read(self, node: Node, mistakes: Diagnostics, /) -> float | Missing:
        rate = self.amount(node, mistakes, read_rate)
        return MISSING if rate is MISSING else float(rate)


REFERENCE = "[A-Za-z_][A-Za-z0-9_.]*:[A-Za-z_][A-Za-z0-9_.]*"
"""The pattern of a name of something in Python: `module:name`."""

_TEXT = frozenset[Kind]({"text"})
_SIMPLE = frozenset[Kind]({"text", "integer", "number", "boolean"})


@dataclass(frozen=True, slots=True)
class Reference(Form):
    """Something of Python by its name, imported when it is read; `callable` if it has to be something to call."""

    callable: bool = True

    @property
    def json_types(self) -> frozenset[Kind]:
        return _TEXT

    @property
    def expected(self) -> str:
        return "a name like module:name"

    def read(self, node: Node, mistakes: Diagnostics, /) -> Any:
        text = Text(pattern=REFERENCE).read(node, Diagnostics())
        if text is MISSING:
            return self.reject(node, mistakes)
        found = _imported(text, node, mistakes)
        if self.callable and found is not MISSING and not callable(found):
            mistakes.add(node, f"{text} is {type(found).__name__} and cannot be called", wanted="a function")
            return MISSING
        return found

    def json_schema(self, definitions: dict[str, Schema], /) -> Schema:
        return Text(pattern=REFERENCE).json_schema(definitions)


@dataclass(frozen=True, slots=True)
class Expr(Form):
    """An expression on a variable, whose result is of one of some types (by default of any).

    A number or a flag is an expression too: itself.
    """

    variable: str = "value"
    gives: tuple[str, ...] = ()

    @property
    def json_types(self) -> frozenset[Kind]:
        return _SIMPLE

    @property
    def expected(self) -> str:
        return f"an expression like {self.variable}.amount > 10" if "BOOL" in self.gives else "an expression"

    def read(self, node: Node, mistakes: Diagnostics, /) -> Expression | Missing:
        if node.kind not in _SIMPLE:
            return self.reject(node, mistakes)
        text = node.value if node.kind == "text" else node.shown()
        if len(text) > MAX_EXPRESSION:
            wanted = f"at most {MAX_EXPRESSION} characters"
            mistakes.add(node, f"found an expression of {len(text)} characters", wanted=wanted)
            return MISSING
        mistakes.expressions.add(len(text), node)
        try:
            expression = Expression(text, self.variable)
        except InvalidExpression as error:
            there = f"there is {self.variable}" if error.reason.startswith("unknown name") else ""
            where = f"at its column {error.column}" if error.line == 1 else f"in its line {error.line}"
            mistakes.add(node, f"{node.shown()} is no expression: {error.reason} ({where})", hint=there or None)
            return MISSING
        kind = expression.result_type.split("<")[0]
        if self.gives and kind not in (*self.gives, "DYN"):
            mistakes.add(node, f"{node.shown()} gives {kind}", wanted=self.expected)
            return MISSING
        return expression

    def json_schema(self, _definitions: dict[str, Schema], /) -> Schema:
        return {"type": ["string", "number", "boolean"]}


@dataclass(frozen=True, slots=True)
class Function(Form):
    """What a step calls: an expression on `variable`, or a function by its name."""

    variable: str = "value"
    gives: tuple[str, ...] = ()

    @property
    def json_types(self) -> frozenset[Kind]:
        return _SIMPLE

    @property
    def expected(self) -> str:
        return f"{Expr(self.variable, self.gives).expected}, or a function's module:name"

    def read(self, node: Node, mistakes: Diagnostics, /) -> Any:
        named = node.kind == "text" and Text(pattern=REFERENCE).read(node, Diagnostics()) is not MISSING
        shape: Form = Reference() if named else Expr(self.variable, self.gives)
        return shape.read(node, mistakes)

    def json_schema(self, definitions: dict[str, Schema], /) -> Schema:
        return Expr(self.variable).json_schema(definitions)


def is_in_python(name: str) -> bool:
    """Whether a name is one of something in a module, `module:name`, and none of a file."""
    return re.fullmatch(REFERENCE, name) is not None and not Path(name).exists()


@contextmanager
def importing_from(folder: Path) -> Generator[None]:
    """Let names of Python be found in modules beside a file, too."""
    path = str(folder.resolve())
    sys.path.insert(0, path)
    try:
        yield
    finally:
        sys.path.remove(path)


def _imported(text: str, node: Node, mistakes: Diagnostics) -> Any:
    module, _, name = text.partition(":")
    try:
        found: Any = import_module(module)
    except Exception as error:
        if isinstance(error, ModuleNotFoundError) and error.name and f"{module}.".startswith(f"{error.name}."):
            hint = "install it, or put it beside the flow file"
            mistakes.add(node, f"there is no module {error.name}", hint=hint)
        else:
            mistakes.add(node, f"the module {module} cannot be imported: {type(error).__name__}: {error}")
        return MISSING
    for part in name.split("."):
        if not hasattr(found, part):
            public = [known for known in dir(found) if not known.startswith("_")]
            near = mistakes.closest(part, public)
            mistakes.add(node, f"{module} has no {part!r}", hint=f'did you mean "{near}"?' if near else None)
            return MISSING
        found = getattr(found, part)
    return found
