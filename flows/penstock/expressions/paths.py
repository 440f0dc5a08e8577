"""Find the fields that an expression reads, so that only these are passed to CEL."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, TypeAlias, cast

from penstock.expressions.tree import Call, Const, Fold, Ident, MakeList, MakeMap, Node, Select

Path: TypeAlias = tuple[str, ...]
"""The names of the fields that lead to a value; `()` is the value itself."""

Reads: TypeAlias = "dict[str, Reads] | None"
"""The fields that are read, with the fields that are read of each; None for all fields."""

ANY = "*"
"""Stands in a list of sources for every element of a list and every field of an object."""

MISSING: Any = object()

_NAME = "[A-Za-z_][A-Za-z0-9_]*"
_SPACE = "[\t\n\f\r ]*"
_PLAIN = re.compile(rf"{_SPACE}({_NAME}(?:{_SPACE}\.{_SPACE}{_NAME}){{0,31}}){_SPACE}")
_RESERVED = frozenset(
    (
        *("as", "break", "const", "continue", "else", "false", "for", "function", "if", "import", "in", "let", "loop"),
        *("namespace", "null", "package", "return", "true", "var", "void", "while"),
    )
)
"""Words that CEL does not accept as names everywhere. A path that contains one is evaluated by CEL."""


def plain_path(text: str, variable: str) -> Path | None:
    """Return the path if an expression is one, `value.a.b`, without parsing it by CEL; else None."""
    if (found := _PLAIN.fullmatch(text)) is None:
        return None
    first, *names = re.split(rf"{_SPACE}\.{_SPACE}", found[1])
    return tuple(names) if first == variable and not _RESERVED.intersection((first, *names)) else None


def path_of(node: Node, variable: str, *, optional: bool = False) -> Path | None:
    """Return the path if an expression is one: `value.a`, `value['a']`, with `optional` also `value.?a`; else None."""
    match node:
        case Ident(name):
            return () if name == variable else None
        case Select(operand, name, test) if not test:
            path = path_of(operand, variable, optional=optional)
        case Call("_[_]", (operand, Const(str(name)))):
            path = path_of(operand, variable, optional=optional)
        case Call("_?._" | "_[?_]", (operand, Const(str(name)))) if optional:
            path = path_of(operand, variable, optional=optional)
        case _:
            return None
    return None if path is None else (*path, name)


def children(node: Node) -> tuple[Node, ...]:
    """Return the direct children of a node."""
    match node:
        case Select(operand, _, _):
            return (operand,)
        case Call(_, args):
            return args
        case MakeList(elements):
            return elements
        case MakeMap(entries, _):
            return tuple(part for entry in entries for part in entry)
        case Fold():
            return (node.range, node.start, node.condition, node.step, node.result)
        case _:
            return ()


def paths_read(node: Node, variable: str) -> Iterator[Path]:
    """Yield the paths that an expression reads. A loop variable of the same name hides the value."""
    if (path := path_of(node, variable, optional=True)) is not None:
        yield path
    elif isinstance(node, Select) and (path := path_of(node.operand, variable, optional=True)) is not None:
        yield (*path, node.field)
    elif isinstance(node, Fold) and variable in (node.variable, node.accumulator):
        yield from paths_read(node.range, variable)
        yield from paths_read(node.start, variable)
    else:
        for child in children(node):
            yield from paths_read(child, variable)


def reads_of(paths: Iterator[Path]) -> Reads:
    """Convert paths to a tree."""
    reads: dict[str, Reads] = {}
    for path in sorted(paths, key=len):  # a path that is read completely comes before its extensions
        if not path:
            return None
        _add(reads, path)
    return reads


def _add(reads: dict[str, Reads], path: Path) -> None:
    first, *rest = path
    if not rest:
        reads[first] = None
    elif (inner := reads.setdefault(first, {})) is not None:
        _add(inner, tuple(rest))


def part_of(value: Any, reads: Reads) -> Any:
    """Return the part of a value that is read. A value other than an object is returned, so that CEL reports it."""
    if reads is None or not isinstance(value, dict):
        return value
    fields = cast("dict[str, Any]", value)
    return {
        name: fields[name] if inner is None else part_of(fields[name], inner)
        for name, inner in reads.items()
        if name in fields
    }


def at(value: Any, path: Path) -> Any:
    """Return the value at a path, or MISSING."""
    for name in path:
        if not isinstance(value, dict) or name not in value:
            return MISSING
        value = cast("Any", value[name])
    return value


def all_at(value: Any, path: Path) -> Iterator[Any]:
    """Yield all values at a path that contains `ANY`."""
    found = [value]
    for name in path:
        if name == ANY:
            found = [inner for outer in found for inner in _inside(outer)]
        else:
            found = [inner for outer in found if (inner := at(outer, (name,))) is not MISSING]
    yield from found


def _inside(value: Any) -> Iterator[Any]:
    if isinstance(value, dict):
        yield from cast("dict[str, Any]", value).values()
    elif isinstance(value, list):
        yield from cast("list[object]", value)
