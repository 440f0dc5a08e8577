"""The syntax tree of a compiled expression, read from the protobuf message to which CEL serializes it.

Messages and field numbers are those of cel/expr/checked.proto and cel/expr/syntax.proto
(https://github.com/google/cel-spec). Reading them here avoids the protobuf package and a second parser for CEL.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias


@dataclass(frozen=True, slots=True)
class Const:
    """A literal other than a list or map."""

    value: Any


@dataclass(frozen=True, slots=True)
class Ident:
    """A variable."""

    name: str


@dataclass(frozen=True, slots=True)
class Select:
    """`operand.field`, or `has(operand.field)` when `test` is true."""

    operand: Node
    field: str
    test: bool


@dataclass(frozen=True, slots=True)
class Call:
    """A call of a function or operator. The target of a method is the first argument."""

    function: str
    args: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class MakeList:
    """`[a, b]`."""

    elements: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class MakeMap:
    """`{key: value}`, with the numbers of the entries written as `?key: value`."""

    entries: tuple[tuple[Node, Node], ...]
    optional: frozenset[int]


@dataclass(frozen=True, slots=True)
class Fold:
    """A loop: the expansion of the macros `all`, `exists`, `exists_one`, `map` and `filter`."""

    id: int
    variable: str
    range: Node
    range_bytes: bytes
    accumulator: str
    start: Node
    condition: Node
    step: Node
    result: Node

    @property
    def makes_list(self) -> bool:
        """Whether the result is a list in the order of the range, as with `map` and `filter`."""
        return isinstance(self.start, MakeList) and not isinstance(self.step, Ident)  # as with optMap


Node: TypeAlias = Const | Ident | Select | Call | MakeList | MakeMap | Fold

_EXPRESSIONS_OF: Mapping[str, Mapping[int, str]] = {
    "expr": {5: "select", 6: "call", 7: "list", 8: "map", 9: "fold"},
    "select": {1: "expr"},
    "call": {1: "expr", 3: "expr"},
    "list": {1: "expr"},
    "map": {2: "entry"},
    "entry": {3: "expr", 4: "expr"},
    "fold": {2: "expr", 4: "expr", 5: "expr", 6: "expr", 7: "expr"},
}
"""The fields of each message that contain an expression, or a message that contains one."""

_NEW_ID = 1_000_000
"""The id of an inserted node. CEL numbers nodes from 1, and keeps names for some of them."""


def tree_of(serialized: bytes) -> Node:
    """Return the tree of a serialized expression."""
    return _node(_one(_one(serialized, 2), 4))


def with_expression(serialized: bytes, expression: bytes) -> bytes:
    """Replace the expression in a serialized expression, keeping its types."""
    checked = [(field, expression if field == 4 else value) for field, value in _fields(_one(serialized, 2))]
    return _message((field, _message(checked) if field == 2 else value) for field, value in _fields(serialized))


def with_ranges(serialized: bytes, names: Mapping[int, str]) -> bytes:
    """Replace the ranges of some folds, by their ids, by variables in a serialized expression."""
    return with_expression(serialized, _replaced(_one(_one(serialized, 2), 4), "expr", names))


def _replaced(data: bytes, kind: str, names: Mapping[int, str]) -> bytes:
    inner = _EXPRESSIONS_OF[kind]
    fields = list(_fields(data))
    numbers = [value for field, value in fields if field == 2 and isinstance(value, int)] if kind == "expr" else []
    name = names.get(numbers[0]) if numbers else None
    made: list[tuple[int, int | bytes]] = []
    for field, value in fields:
        if field in inner and isinstance(value, bytes):
            value = _replaced(value, inner[field], names)
            if field == 9 and name is not None:
                value = _message((part, _variable(name) if part == 2 else old) for part, old in _fields(value))
        made.append((field, value))
    return _message(made)


def _variable(name: str) -> bytes:
    return _message([(2, _NEW_ID), (4, _message([(1, name.encode())]))])


def _node(data: bytes) -> Node:
    fields = dict(_fields(data))
    kind = next((field for field in fields if field != 2), 3)
    inner = fields.get(kind, b"")
    assert isinstance(inner, bytes)
    match kind:
        case 4:
            return Ident(_text(inner, 1))
        case 5:
            return Select(_node(_one(inner, 1)), _text(inner, 2), bool(dict(_fields(inner)).get(3)))
        case 6:
            target = [_node(part) for part in _all(inner, 1)]
            return Call(_text(inner, 2), (*target, *(_node(part) for part in _all(inner, 3))))
        case 7:
            return MakeList(tuple(_node(part) for part in _all(inner, 1)))
        case 8:
            return _map(_all(inner, 2))
        case 9:
            number = fields[2]
            assert isinstance(number, int)
            parts = {field: _node(_one(inner, field)) for field in (2, 4, 5, 6, 7)}
            names = _text(inner, 1), _text(inner, 3)
            return Fold(number, names[0], parts[2], _one(inner, 2), names[1], parts[4], parts[5], parts[6], parts[7])
        case _:
            return Const(_constant(inner))


def _map(entries: list[bytes]) -> MakeMap:
    made = tuple((_node(_one(entry, 3)), _node(_one(entry, 4))) for entry in entries)
    return MakeMap(made, frozenset(number for number, entry in enumerate(entries) if dict(_fields(entry)).get(5)))


def _constant(data: bytes) -> Any:
    for field, value in _fields(data):
        match field, value:
            case 2, int():
                return bool(value)
            case 3, int():
                return value - (1 << 64) if value >> 63 else value
            case 4, int():
                return value
            case 5, bytes():
                return struct.unpack("<d", value)[0]
            case 6, bytes():
                return value.decode()
            case 7, bytes():
                return value
            case _:
                return None
    return None


def _one(data: bytes, field: int) -> bytes:
    return next(iter(_all(data, field)), b"")


def _all(data: bytes, field: int) -> list[bytes]:
    return [value for number, value in _fields(data) if number == field and isinstance(value, bytes)]


def _text(data: bytes, field: int) -> str:
    return _one(data, field).decode()


def _fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Yield the fields of a protobuf message: numbers as int, all others as bytes."""
    at = 0
    while at < len(data):
        tag, at = _number(data, at)
        field, wire = tag >> 3, tag & 7
        if wire == 0:
            number, at = _number(data, at)
            yield field, number
            continue
        length, at = (8, at) if wire == 1 else (4, at) if wire == 5 else _number(data, at)
        yield field, data[at : at + length]
        at += length


def _number(data: bytes, at: int) -> tuple[int, int]:
    number = shift = 0
    while True:
        byte = data[at]
        at += 1
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            return number, at
        shift += 7


def _message(fields: Iterable[tuple[int, int | bytes]]) -> bytes:
    """Encode fields as a protobuf message. Doubles do not occur: constants are copied as they are."""
    made = bytearray()
    for field, value in fields:
        if isinstance(value, int):
            made += _varint(field << 3) + _varint(value)
        else:
            made += _varint(field << 3 | 2) + _varint(len(value)) + value
    return bytes(made)


def _varint(number: int) -> bytes:
    made = bytearray()
    while number > 0x7F:
        made.append(number & 0x7F | 0x80)
        number >>= 7
    made.append(number)
    return bytes(made)
