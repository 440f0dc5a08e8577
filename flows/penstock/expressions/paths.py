"""Which fields of the value an expression reads, so that CEL is given those and nothing else."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, TypeAlias, cast

from penstock.expressions.tree import Call, Const, Fold, Ident, MakeList, MakeMap, Node, Select

Path: TypeAlias = tuple[str, ...]
"""The names of the fields that lead to a value; `()` is the value itself."""

Reads: TypeAlias = "dict[str, Reads] | None"
"""The fields that are read, and of each the fields that are read of it; None: everything."""

ANY = "*"
"""In place of a name in a list of sources: every element of a list and every field of an object."""

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
"""Words that CEL does not accept as names everywhere; a path with one of them is left to CEL."""


def plain_path(text: str, variable: str) -> Path | None:
    """The path that an expression is, recognised without CEL: `value.a.b`; None for anything else."""
    if (found := _PLAIN.fullmatch(text)) is None:
        return None
    first, *names = re.split(rf"{_SPACE}\.{_SPACE}", found[1])
    return tuple(names) if first == variable and not _RESERVED.intersection((first, *names)) else None


def path_of(node: Node, variable: str, *, optional: bool = False) -> Path | None:
    """The path that an expression is, of `value.a` and `value['a']`, and if `optional` of `value.?a`; or None."""
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
    """The nodes right below a node."""
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
    """The paths that an expression reads. A loop may have a variable of the same name, which hides the value."""
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
    """The paths as a tree."""
    reads: dict[str, Reads] = {}
    for path in sorted(paths, key=len):  # what is read as a whole comes first
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
    """The part of a value that is read. What is no object is passed on, for CEL to say that it has no fields."""
    if reads is None or not isinstance(value, dict):
        return value
    fields = cast("dict[str, Any]", value)
    return {
        name: fields[name] if inner is None else part_of(fields[name], inner)
        for name, inner in reads.items()
        if name in fields
    }


def at(value: Any, path: Path) -> Any:
    """What is at a path, or MISSING."""
    for name in path:
        if not isinstance(value, dict) or name not in value:
            return MISSING
        value = cast("Any", value[name])
    return value


def all_at(value: Any, path: Path) -> Iterator[Any]:
    """All that is at a path with `ANY` in it."""
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
