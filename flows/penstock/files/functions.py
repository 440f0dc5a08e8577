"""Shapes of what computes: an expression, or a function of Python by its name, `module:name`."""

from __future__ import annotations

import re
import sys
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from penstock.errors import ExpressionWrong
from penstock.expressions import Expression
from penstock.files.limits import MAX_EXPRESSION
from penstock.files.mistakes import Mistakes
from penstock.files.node import Kind, Node
from penstock.files.scalars import Text
from penstock.files.shapes import MISSING, Missing, Schema, Shape

REFERENCE = "[A-Za-z_][A-Za-z0-9_.]*:[A-Za-z_][A-Za-z0-9_.]*"
"""The pattern of a name of something in Python: `module:name`."""

_TEXT = frozenset[Kind]({"text"})
_SIMPLE = frozenset[Kind]({"text", "integer", "number", "boolean"})


@dataclass(frozen=True, slots=True)
class Reference(Shape):
    """Something of Python by its name, imported when it is read; `callable` if it has to be something to call."""

    callable: bool = True

    @property
    def kinds(self) -> frozenset[Kind]:
        return _TEXT

    @property
    def wanted(self) -> str:
        return "a name like module:name"

    def read(self, node: Node, mistakes: Mistakes, /) -> Any:
        text = Text(pattern=REFERENCE).read(node, Mistakes())
        if text is MISSING:
            return self.refuse(node, mistakes)
        found = _imported(text, node, mistakes)
        if self.callable and found is not MISSING and not callable(found):
            mistakes.add(node, f"{text} is {type(found).__name__} and cannot be called", wanted="a function")
            return MISSING
        return found

    def rules(self, definitions: dict[str, Schema], /) -> Schema:
        return Text(pattern=REFERENCE).rules(definitions)


@dataclass(frozen=True, slots=True)
class Expr(Shape):
    """An expression on a variable, whose result is of one of some types (by default of any).

    A number or a flag is an expression too: itself.
    """

    variable: str = "value"
    gives: tuple[str, ...] = ()

    @property
    def kinds(self) -> frozenset[Kind]:
        return _SIMPLE

    @property
    def wanted(self) -> str:
        return f"an expression like {self.variable}.amount > 10" if "BOOL" in self.gives else "an expression"

    def read(self, node: Node, mistakes: Mistakes, /) -> Expression | Missing:
        if node.kind not in _SIMPLE:
            return self.refuse(node, mistakes)
        text = node.value if node.kind == "text" else node.shown()
        if len(text) > MAX_EXPRESSION:
            wanted = f"at most {MAX_EXPRESSION} characters"
            mistakes.add(node, f"found an expression of {len(text)} characters", wanted=wanted)
            return MISSING
        mistakes.expressions.add(len(text), node)
        try:
            expression = Expression(text, self.variable)
        except ExpressionWrong as error:
            there = f"there is {self.variable}" if error.reason.startswith("there is no") else ""
            where = f"at its column {error.column}" if error.line == 1 else f"in its line {error.line}"
            mistakes.add(node, f"{node.shown()} is no expression: {error.reason} ({where})", hint=there or None)
            return MISSING
        kind = expression.kind.split("<")[0]
        if self.gives and kind not in (*self.gives, "DYN"):
            mistakes.add(node, f"{node.shown()} gives {kind}", wanted=self.wanted)
            return MISSING
        return expression

    def rules(self, _definitions: dict[str, Schema], /) -> Schema:
        return {"type": ["string", "number", "boolean"]}


@dataclass(frozen=True, slots=True)
class Function(Shape):
    """What a step calls: an expression on `variable`, or a function by its name."""

    variable: str = "value"
    gives: tuple[str, ...] = ()

    @property
    def kinds(self) -> frozenset[Kind]:
        return _SIMPLE

    @property
    def wanted(self) -> str:
        return f"{Expr(self.variable, self.gives).wanted}, or a function's module:name"

    def read(self, node: Node, mistakes: Mistakes, /) -> Any:
        named = node.kind == "text" and Text(pattern=REFERENCE).read(node, Mistakes()) is not MISSING
        shape: Shape = Reference() if named else Expr(self.variable, self.gives)
        return shape.read(node, mistakes)

    def rules(self, definitions: dict[str, Schema], /) -> Schema:
        return Expr(self.variable).rules(definitions)


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


def _imported(text: str, node: Node, mistakes: Mistakes) -> Any:
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
