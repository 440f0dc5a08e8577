"""Expressions that are expensive for hostile values, and such values by their size."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any


def numbers(count: int, first: int = 0) -> list[int]:
    return list(range(first, first + count))


def objects(count: int, first: int = 0) -> list[Any]:
    return [{"sku": f"item-{number}", "n": number, "b": [number]} for number in range(first, first + count)]


def words(count: int, first: int = 0) -> list[str]:
    return [f"a-common-prefix-{number}" for number in range(first, first + count)]


def lines_and_allowed(make: Callable[[int, int], list[Any]]) -> Callable[[int], Any]:
    return lambda size: {"lines": make(size, 0), "allowed": make(size, 10**7)}


def listed(make: Callable[[int], list[Any]]) -> Callable[[int], Any]:
    return lambda size: {"lines": make(size)}


def text(size: int) -> Any:
    return {"s": "a" * size, "p": "a" * (size // 2) + "b", "lines": [1] * min(size, 9_000)}


def one_large(make: Callable[[int], Any], empty: Any) -> Callable[[int], Any]:
    """One large row among many that are empty, so that the mean is small."""
    return lambda size: {"rows": [make(min(size, 7_500)), *[empty] * min(size, 4_000)]}


def nested(count: int) -> list[Any]:
    return [[number] for number in range(count)]


def written(count: int) -> Any:
    return {"t": "a" * count}


def in_alternating_order(depth: int) -> Callable[[int], Any]:
    """Objects in objects, whose fields are in one order and in the other, around a long list."""

    def make(size: int) -> Any:
        value: Any = [(1 << 62) + number for number in range(size)]
        for level in range(depth):
            value = {"x": 1, "n": value} if level % 2 else {"n": value, "x": 1}
        return {"d": value}

    return make


WORST: list[tuple[str, Callable[[int], Any]]] = [
    ("value.lines.all(l, !(l in value.allowed))", lines_and_allowed(numbers)),
    ("value.lines.all(l, !(l in value.allowed))", lines_and_allowed(words)),
    ("value.lines.all(l, !(l in value.allowed))", lines_and_allowed(objects)),
    ("value.lines.all(l, value.lines == value.lines)", listed(objects)),
    ("value.lines.all(l, value.lines.filter(m, m.sku == l.sku).size() == 1)", listed(objects)),
    ("value.lines.all(l, value.lines.exists(m, m in value.lines))", listed(numbers)),
    ("value.lines.map(l, {'sku': l.sku, 'n': l.n + 1})", listed(objects)),
    ("value.lines.map(l, value.lines)", listed(numbers)),
    ("value.lines.map(l, value.lines)", listed(objects)),
    ("value.lines.map(l, value.s)", text),
    ("[1].map(l, value.lines.map(m, m))", listed(numbers)),
    ("value.lines.filter(l, l.n >= 0).map(l, l.sku)", listed(objects)),
    ("value.lines.filter(l, l.n >= 0).size()", listed(objects)),
    ("value.lines.map(l, l).map(l, l).map(l, l)", listed(objects)),
    ("value.lines.map(l, l) + value.lines", listed(objects)),
    ("value == {}", listed(objects)),
    ("[value]", listed(objects)),
    ("value.s.replace('a', value.s)", text),
    ("size(value.s.replace('a', value.s))", text),
    ("value.s.replace('a', value.s).replace('a', value.s)", text),
    ("value.s.replace(value.p, 'c')", text),
    ("value.s.split('')", text),
    ("value.s.split('').join(value.s)", text),
    ("value.s.split('').all(c, value.s.contains(c))", text),
    ("value.s.split('').map(c, value.s)", text),
    ("value.s.contains(value.p)", text),
    ("value.s.indexOf(value.p)", text),
    ("value.lines.all(l, size(value.s) > 0)", text),
    ("value.lines.all(l, value.s + value.s != value.p)", text),
    ("value.s.matches('(a?){200}(a?){200}(a?){200}b')", text),
    ("value.s.matches('^([a-z0-9]+[._-]?)+@x$')", text),
    ("value.s.matches(value.p)", text),
    ("value.s.matches(value.r)", lambda size: {"s": "a" * size, "r": "(a?a?a?){300}b"}),
    ("'%s %s'.format([value.s, value.lines])", text),
    ("value.lines.all(l, '%s'.format([value.lines]) != '')", listed(objects)),
    ("value.s.reverse().upperAscii().trim()", text),
    ("value.lines.all(l, strings.quote(value.s) != '')", text),
    ("value.s + value.s + value.s", text),
    ("value.rows.all(r, r.all(x, x in r))", one_large(numbers, [])),
    ("value.rows.all(r, r.all(x, x in r))", one_large(words, [])),
    ("value.rows.all(r, r.all(x, x in r))", one_large(nested, [])),
    ("value.rows.all(r, r.all(x, r == r))", one_large(objects, [])),
    ("value.rows.all(r, r.t.split('').all(x, x in r.t.split('')))", one_large(written, {"t": ""})),
    ("value.rows.all(r, r.t.split('').all(x, r.t.replace('a', 'b') != ''))", one_large(written, {"t": ""})),
    ("value.rows.all(r, r.map(x, x).size() >= 0)", one_large(numbers, [])),
    ("value.rows.map(r, r.map(x, x))", one_large(numbers, [])),
    ("[value.d]", in_alternating_order(60)),
    ("[value.d]", in_alternating_order(150)),
]


def reals(count: int) -> list[Any]:
    """Lines of an order as shops write them."""
    chosen = random.Random(1)
    return [
        {"sku": f"SKU-{number:06}", "name": "A thing with a name", "quantity": chosen.randint(1, 9), "price": 9.5}
        for number in range(count)
    ]
