"""Restore the order of fields in objects that CEL returns.

CEL keeps objects in hash tables whose seed is an address, so their order differs between processes. An object with the
fields of an object literal in the expression gets the order of the literal; else the order of the first object of the
input that is equal to it, or that has the same fields; else its fields are sorted by name.

The same applies to the order in which `map` and `filter` iterate over the fields of an object: see `OrderedLoops`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TypeAlias, cast

import msgspec

from penstock.expressions.paths import ANY, Path, children
from penstock.expressions.tree import Call, Const, Fold, Ident, MakeList, MakeMap, Node, Select

Fields: TypeAlias = tuple[Any, ...]
"""The fields of an object, in order."""

_OBJECT: Any = dict
_LIST: Any = list
_SCALARS = frozenset({str, int, float, bool, type(None)})


class Literals:
    """The object literals of an expression, by their fields."""

    def __init__(self, tree: Node) -> None:
        self._whole: dict[frozenset[Any], Fields] = {}
        self._partial: list[tuple[frozenset[Any], Fields]] = []
        """Literals with optional fields: the fields that are always present, and all fields."""
        for node in _nodes(tree):
            if isinstance(node, MakeMap) and all(isinstance(key, Const) for key, _ in node.entries):
                fields = tuple(cast("Const", key).value for key, _ in node.entries)
                if node.optional:
                    always = frozenset(field for number, field in enumerate(fields) if number not in node.optional)
                    self._partial.append((always, fields))
                else:
                    self._whole.setdefault(frozenset(fields), fields)

    def order(self, fields: Fields) -> Fields | None:
        """Return the order of these fields in the first literal that may have made the object."""
        if not self._whole and not self._partial:
            return None
        named = frozenset(fields)
        if (found := self._whole.get(named)) is not None:
            return found
        for always, all_of_them in self._partial:
            if always <= named <= frozenset(all_of_them):
                return tuple(field for field in all_of_them if field in named)
        return None


def restore_order(result: Any, literals: Literals, given: Any) -> None:
    """Restore the order of fields in all objects of a result. `given` is the input of CEL."""
    known: Inputs | None = None
    contents: dict[int, int] = {}
    orders: dict[Fields, Fields] = {}
    for inner in values_in(result):
        if type(inner) is not dict or len(cast("dict[str, Any]", inner)) < 2:
            continue
        unordered = cast("dict[str, Any]", inner)
        fields = tuple(unordered)
        order = orders.get(fields)
        if order is None:
            order = literals.order(fields)
            if order is None:
                known = known or Inputs(given)
                order = known.order(fields)
            if order is not None:
                orders[fields] = order
            else:
                assert known is not None
                contents = contents or known.contents.numbers(result)
                order = known.order_of(unordered, contents[id(unordered)])
        if order != fields:
            for field in order:
                unordered[field] = unordered.pop(field)


def values_in(value: Any) -> list[Any]:
    """Return a value and everything in it except keys, from the outside in. No recursion, because it may be deep."""
    values = [value]
    for inner in values:
        if type(inner) is _OBJECT:
            values.extend(inner.values())
        elif type(inner) is _LIST:
            values.extend(inner)
    return values


class Inputs:
    """The objects in the input of CEL, by their fields."""

    def __init__(self, given: Any) -> None:
        self.contents = Contents()
        self._given = given
        self._objects: list[dict[Any, Any]] = [value for value in values_in(given) if type(value) is dict]
        self._orders: dict[frozenset[Any], list[Fields]] = {}
        for fields in dict.fromkeys(map(tuple, self._objects)):
            self._orders.setdefault(frozenset(fields), []).append(fields)
        self._equal: dict[int, Fields] | None = None

    def order(self, fields: Fields) -> Fields | None:
        """Return the order of these fields; None if it differs between objects."""
        orders = self._orders.get(frozenset(fields))
        if orders is None:
            return tuple(sorted(fields, key=_by_name))
        return orders[0] if len(orders) == 1 else None

    def order_of(self, result: dict[Any, Any], content: int) -> Fields:
        """Return the order of the fields of the first input object that is equal to one that CEL returned."""
        if self._equal is None:
            several = {fields for fields, orders in self._orders.items() if len(orders) > 1}
            objects = [inner for inner in self._objects if frozenset(inner) in several]
            numbers = self.contents.numbers(self._given)
            self._equal = {numbers[id(inner)]: tuple(inner) for inner in reversed(objects)}
        return self._equal.get(content) or self._orders[frozenset(result)][0]


class Contents:
    """Assigns numbers to values; equal values get the same number, whatever the order of their fields."""

    def __init__(self) -> None:
        self._numbers: dict[Any, int] = {}

    def numbers(self, value: Any) -> dict[int, int]:
        """Return the numbers of all lists and objects in a value, by their `id()`.

        From the inside out: a value is identified by the numbers of its parts, so that each part is visited once.
        """
        known = self._numbers
        found: dict[int, int] = {}

        def number(inner: Any) -> int:
            kind: type[object] = inner.__class__
            if kind is _OBJECT or kind is _LIST:
                return found[id(inner)]
            return known.setdefault((kind, inner) if kind in _SCALARS else _encoded(inner), len(known))

        for inner in reversed(values_in(value)):
            content: Any
            if type(inner) is _OBJECT:
                content = frozenset([(name, number(part)) for name, part in inner.items()])
            elif type(inner) is _LIST:
                content = tuple(map(number, inner))
            else:
                continue
            found[id(inner)] = known.setdefault(content, len(known))
        return found


def _by_name(field: Any) -> tuple[str, Any]:
    return str(field.__class__), field


def _encoded(value: Any) -> bytes:
    """Encode a value that JSON has no type for, such as a time."""
    try:
        return msgspec.json.encode(value)
    except (TypeError, ValueError, RecursionError):
        return b""


class OrderedLoops:
    """The loops of an expression that make a list, and the origin of objects over whose fields they may iterate."""

    def __init__(self, tree: Node, variable: str) -> None:
        self.outer: dict[int, Fold] = {}
        """Loops whose range can be computed separately."""
        self.sources: dict[int, set[Path]] = {}
        """The paths in the value of objects that a loop may iterate over; for all loops that make a list."""
        self.literal: set[int] = set()
        """Loops that may iterate over an object literal of the expression."""
        self._variable = variable
        self._visit(tree, {})

    def _visit(self, node: Node, scope: dict[str, Node | None]) -> None:
        """Find loops. `scope` has the ranges of the variables of outer loops, None for accumulators."""
        if isinstance(node, Fold):
            inside = {**scope, node.variable: node.range, node.accumulator: None}
            if node.makes_list:
                self.sources[node.id] = set(self._sources(node.range, scope, node.id))
                if not any(isinstance(inner, Ident) and inner.name in scope for inner in _nodes(node.range)):
                    self.outer[node.id] = node
            self._visit(node.range, scope)
            self._visit(node.start, scope)
            for part in (node.condition, node.step, node.result):
                self._visit(part, inside)
        else:
            for child in children(node):
                self._visit(child, scope)

    def _sources(self, node: Node, scope: dict[str, Node | None], loop: int) -> Iterator[Path]:
        """Yield the paths of a node's possible results, as far as they are parts of the value."""
        match node:
            case Ident(name) if name in scope:
                outer = scope[name]
                if outer is not None:
                    inside = {key: range for key, range in scope.items() if key != name}
                    yield from ((*path, ANY) for path in self._sources(outer, inside, loop))
            case Ident(name) if name == self._variable:
                yield ()
            case Select(operand, name, False):
                yield from ((*path, name) for path in self._sources(operand, scope, loop))
            case Call("_?._" | "_[?_]" | "_[_]", (operand, Const(str(name)))):
                yield from ((*path, name) for path in self._sources(operand, scope, loop))
            case Call("_[?_]" | "_[_]", (operand, _)):
                yield from ((*path, ANY) for path in self._sources(operand, scope, loop))
            case Call("_?_:_", (_, one, other)):
                yield from self._sources(one, scope, loop)
                yield from self._sources(other, scope, loop)
            case Call("split" | "_+_"):
                return
            case Fold() if node.makes_list:
                return
            case MakeMap(entries, _):
                if len(entries) > 1:
                    self.literal.add(loop)
            case MakeList(elements):
                for element in elements:
                    yield from self._sources(element, scope, loop)
            case _:
                for child in children(node):
                    yield from self._sources(child, scope, loop)


def _nodes(node: Node) -> Iterator[Node]:
    yield node
    for child in children(node):
        yield from _nodes(child)
