"""How long CEL may take at most for a value, so that no value can block the event loop.

CEL counts the iterations of loops (10,000 at most), but not what each of them costs: a list may be searched in every
iteration, a text may be replaced by itself. It holds the GIL and cannot be interrupted, so that a thread would not
help. Therefore the cost is estimated before: from the tree of the expression and from the number of values and
characters that it reads. All estimates are upper bounds.

The prices below were measured with cel-expr-python 0.1.3 on one core of a shared virtual machine, and rounded up.
Worst cases, each with the largest input that was allowed under LIMIT, are in tests/flows/test_expression_cost.py.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable
from functools import cached_property, lru_cache, partial
from importlib import import_module
from itertools import chain
from typing import Any, NamedTuple, cast

import msgspec

from penstock.expressions.paths import MISSING, Path, at, path_of
from penstock.expressions.tree import Call, Const, Fold, Ident, MakeList, MakeMap, Node, Select

LIMIT = 100_000_000.0
"""Nanoseconds that one evaluation may take, as estimated."""

ITERATIONS = 10_000
"""Iterations of loops in one evaluation; CEL ends with an error after them."""

SLICE = 100
"""Elements of a list that are given to CEL at once where a loop makes a list of a list.

CEL copies the list for each element that is appended: 0.16 s for 2,000 elements, 4 s for 10,000."""

VALUE = 8
"""Characters that count as much as a value, a number for example, where one figure stands for both."""

_STEP = 200.0
"""A call, a field, an iteration."""
_IN = 500.0
"""Giving CEL a value."""
_OUT = 700.0
"""Taking a value back, and putting the fields of objects in order."""
_COMPARE = 200.0
"""Comparing two values that are part of lists or objects."""
_APPEND = 50.0
"""Copying one element of a list while another is appended."""
_CHARACTER = 10.0
"""Reading or writing a character of a text."""
_SEARCH = 0.05
"""Comparing one character of a text with one of what is looked for."""
_PATTERN = 25.0
"""Matching one character of a text with one state of a regular expression."""
_STATES = 1000
"""States that one character of a regular expression may stand for at most: `a{1000}`."""

_DIGITS = bytes(ord("0") if chr(byte).isdigit() and byte < 128 else byte for byte in range(256))
_LONG_NUMBER = b"0" * 19
"""Integers of more than 64 bits have at least 19 digits, as -2**63 - 1 has."""
_OBJECT: Any = dict
_LIST: Any = list
_encode = msgspec.json.Encoder().encode


class TooMuch(Exception):
    """The estimate is above the limit."""


class Size(NamedTuple):
    """How large a value is. Within a loop `values` and `characters` are the mean over its iterations."""

    length: float
    """Elements of a list, or fields of an object."""
    values: float
    """Values in it, at any depth, and it itself."""
    characters: float
    most_values: float
    most_characters: float

    def joined(self, other: Size) -> Size:
        """Both together."""
        return Size(*(one + another for one, another in zip(self, other, strict=True)))

    def larger(self, other: Size) -> Size:
        """The larger of both."""
        return Size(*map(max, self, other))

    def times(self, count: float) -> Size:
        """So many of it."""
        return Size(count, *(count * part for part in self[1:]))


SCALAR = Size(1, 1, 0, 1, 0)
EMPTY = Size(0, 0, 0, 0, 0)


def text_of(characters: float, most: float) -> Size:
    """The size of a text."""
    return Size(1, 1, characters, 1, most)


def is_small(value: Any, threshold: int) -> bool:
    """Whether a value is certainly below a size, and holds nothing that CEL cannot take.

    It is looked at as JSON, which takes a fifth of the time of `measure`.
    """
    try:
        content = _encode(value)
    except Exception:  # values that were made by Python, and halves of surrogate pairs
        return False
    return (
        len(content) * (VALUE / 2 + 1) <= threshold  # a value has at least two characters
        and b"\\u0000" not in content
        and _LONG_NUMBER not in content.translate(_DIGITS)
    )


def measure(value: Any) -> tuple[int, int]:
    """How many values and names of fields there are in a value, at any depth, and how many characters.

    Raises `ValueError` for what CEL cannot take: "NUL" or "integer".
    """
    values: list[Any] = [value]
    names: list[Any] = []
    for inner in values:
        if type(inner) is _OBJECT:
            names.extend(inner)
            values.extend(inner.values())
        elif type(inner) is _LIST:
            values.extend(inner)
    text = "".join([inner for inner in values if type(inner) is str])
    named = "".join([name for name in names if type(name) is str])
    if "\0" in text or "\0" in named:
        raise ValueError("NUL")
    numbers = [inner for inner in chain(values, names) if type(inner) is int]
    if numbers and not (max(numbers) < 1 << 64 and min(numbers) >= -(1 << 63)):
        raise ValueError("integer")
    return len(values) + len(names), len(text) + len(named)


def size_of(value: Any) -> Size:
    """The size of a value."""
    values, characters = measure(value)
    length = len(cast("list[object]", value)) if isinstance(value, (dict, list)) else 1
    return Size(length, values, characters, values, characters)


class Estimate:
    """What the evaluation of an expression costs, with sizes of what it reads."""

    def __init__(
        self, tree: Node, variable: str, paths: frozenset[Path], sliced: Path | None, repeated: frozenset[Path]
    ) -> None:
        self._tree = tree
        self._variable = variable
        self._paths = paths
        self._sliced = sliced
        self._repeated = repeated
        """The paths that CEL is given anew with each slice."""

    def check(self, value: Any) -> None:
        """Raise `TooMuch` if the evaluation for this value may take too long."""
        sizes = {path: SCALAR if (found := at(value, path)) is MISSING else size_of(found) for path in self._paths}
        if not self._nanoseconds(lambda path: sizes.get(path, SCALAR), partial(at, value)) <= LIMIT:
            raise TooMuch

    @cached_property
    def threshold(self) -> int:
        """The size, in characters, up to which no value is too much: a power of two.

        As if all of it were at each path that is read, in the worst shape. Computed with the first value.
        """

        def too_much(exponent: int) -> bool:
            size = float(1 << exponent)
            worst = Size(size / VALUE, size / VALUE + 1, size, size / VALUE + 1, size)
            return not self._nanoseconds(lambda _: worst) <= LIMIT

        exponent = bisect_left(range(27), True, key=too_much) - 1
        return 1 << exponent if exponent >= 0 else 0

    def _nanoseconds(self, sizes: Callable[[Path], Size], values: Callable[[Path], Any] = lambda _: None) -> float:
        visit = _Visit(self._variable, sizes, values)
        slices = 1.0
        if self._sliced is not None:
            slices = visit.slices = max(1.0, sizes(self._sliced).length / SLICE)
        result = visit.size(self._tree, {}, 1.0, top=self._sliced is not None)
        cost = visit.cost + result.values * _OUT + result.characters * _CHARACTER
        cost += sum(_given(sizes(path)) for path in self._paths)
        return cost + slices * sum(_given(sizes(path)) for path in self._repeated)


def _given(size: Size) -> float:
    """What it costs to give CEL a value of this size."""
    return size.values * _IN + size.characters


class _Visit:
    """One walk through a tree. `times` is how often a node is evaluated."""

    def __init__(self, variable: str, sizes: Callable[[Path], Size], values: Callable[[Path], Any]) -> None:
        self._variable = variable
        self._sizes = sizes
        self._values = values
        self.cost = 0.0
        self.slices = 1.0

    def size(self, node: Node, scope: dict[str, Size], times: float, *, top: bool = False) -> Size:
        """The size of what a node gives; adds up what it costs."""
        if self._variable not in scope and (path := path_of(node, self._variable, optional=True)) is not None:
            self.cost += times * _STEP * (1 + len(path))
            return self._sizes(path)
        self.cost += times * _STEP
        match node:
            case Const(value):
                return text_of(len(value), len(value)) if isinstance(value, (str, bytes)) else SCALAR
            case Ident(name):
                return scope.get(name, SCALAR)
            case Select(operand, _, test):
                inner = self.size(operand, scope, times)
                return SCALAR if test else inner._replace(length=inner.values)
            case MakeList(elements):
                return self._all(elements, scope, times)
            case MakeMap(entries, _):
                return self._all(tuple(chain.from_iterable(entries)), scope, times)
            case Fold():
                return self._fold(node, scope, times, sliced=top)
            case Call(function, args):
                return self._call(function, args, [self.size(arg, scope, times) for arg in args], times)

    def _all(self, nodes: tuple[Node, ...], scope: dict[str, Size], times: float) -> Size:
        whole = Size(0, 1, 0, 1, 0)
        for node in nodes:
            whole = whole.joined(self.size(node, scope, times))
        self.cost += times * _STEP * len(nodes)
        return whole._replace(length=len(nodes))

    def _fold(self, node: Fold, scope: dict[str, Size], times: float, *, sliced: bool) -> Size:
        range = self.size(node.range, scope, times)
        start = self.size(node.start, scope, times)
        count = range.length if sliced else min(range.length, ITERATIONS)
        # All iterations of an evaluation together are at most ITERATIONS, or it ends with an error.
        inner = min(times * count, max(times, ITERATIONS * self.slices))
        share = max(1.0, count)
        mean = range.values / share
        element = Size(mean, mean, range.characters / share, range.most_values, range.most_characters)
        inside = {**scope, node.variable: element, node.accumulator: SCALAR if node.makes_list else start}
        self.size(node.condition, inside, inner)
        if node.makes_list:
            appended = min(count, SLICE) if sliced else count
            self.cost += inner * appended * _APPEND
            made = self.size(_appended(node.step), inside, inner).times(count)
            self.size(node.step, inside, inner)
            return made.joined(Size(0, 1, 0, 1, 0))
        after = start.larger(self.size(node.step, inside, inner))
        return self.size(node.result, {**scope, node.accumulator: after}, times)

    def _call(self, function: str, nodes: tuple[Node, ...], args: list[Size], times: float) -> Size:
        values, characters = sum(arg.values for arg in args), sum(arg.characters for arg in args)
        text = args[0] if args else EMPTY
        match function, args:
            case ("_?_:_", [_, one, other]):
                return one.larger(other)
            case ("_&&_" | "_||_" | "!_" | "@not_strictly_false" | "hasValue", _):
                return SCALAR
            case ("_[_]" | "_?._" | "_[?_]", [one, _]):
                return one._replace(length=one.values)
            case ("value" | "dyn" | "optional.of" | "optional.ofNonZeroValue", [one]):
                return one
            case ("orValue" | "or", [one, other]):
                return one.larger(other)
            case ("@in", [_, whole]):
                self.cost += times * (whole.values * _COMPARE + whole.characters)
                return SCALAR
            case ("_==_" | "_!=_" | "_<_" | "_<=_" | "_>_" | "_>=_", [one, other]):
                self.cost += times * min(one.values, other.values) * _COMPARE
                self.cost += times * min(one.characters, other.characters)
                return SCALAR
            case ("size", _):
                self.cost += times * text.characters * _CHARACTER
                return SCALAR
            case ("contains" | "startsWith" | "endsWith" | "indexOf" | "lastIndexOf", [_, part, *_]):
                self.cost += times * text.characters * (_CHARACTER + _SEARCH * part.most_characters)
                return SCALAR
            case ("matches", [_, pattern]):
                states = self._states(nodes[1], pattern)
                self.cost += times * (states * 100 + text.characters * (_CHARACTER + states * _PATTERN))
                return SCALAR
            case ("replace", [_, old, new, *_]):
                written = text.characters + (text.characters + 1) * new.most_characters
                most = text.most_characters + (text.most_characters + 1) * new.most_characters
                self.cost += times * (written * 2 * _CHARACTER + text.characters * _SEARCH * old.most_characters)
                return text_of(written, most)
            case ("split", [_, mark, *_]):
                self.cost += times * text.characters * (3 * _STEP + _SEARCH * mark.most_characters)
                most = text.most_characters
                return Size(text.characters + 1, text.characters + 2, text.characters, most + 2, most)
            case ("join", [listed, *marks]):
                between = marks[0].most_characters if marks else 0.0
                joined = listed.characters + listed.values * between
                self.cost += times * (joined * 2 * _CHARACTER + listed.values * _STEP)
                return text_of(joined, listed.most_characters + listed.most_values * between)
            case ("format", [_, whole]):  # a number has at most 309 digits and 100 decimals
                made = 2 * characters + 450 * whole.values
                self.cost += times * (made * _CHARACTER + whole.values * _STEP)
                return text_of(made, 2 * (text.most_characters + whole.most_characters) + 450 * whole.most_values)
            case ("strings.quote", _):
                self.cost += times * text.characters * 6 * _CHARACTER
                return text_of(6 * text.characters, 6 * text.most_characters)
            case _:
                whole = EMPTY
                for arg in args:
                    whole = whole.joined(arg)
                self.cost += times * (values * _COMPARE + characters * _CHARACTER)
                return whole.larger(text_of(40, 40))

    def _states(self, node: Node, pattern: Size) -> float:
        """States of the automaton of a regular expression."""
        path = path_of(node, self._variable)
        text = node.value if isinstance(node, Const) else None if path is None else self._values(path)
        if isinstance(text, str) and (len(text) <= _STATES or isinstance(node, Const)):
            return float(states_of(text))
        return 1 + pattern.most_characters * _STATES


@lru_cache(maxsize=64)
def states_of(pattern: str) -> int:
    """States of the automaton of a regular expression; 1 for one that is none, which CEL will say."""
    re2: Any = import_module("re2")  # with the first expression that matches something
    options = re2.Options()
    options.log_errors = False
    try:
        return int(re2.compile(pattern, options).programsize)
    except re2.error:
        return 1


def _appended(step: Node) -> Node:
    """What a loop that makes a list appends to it in each iteration: x of `result + [x]`."""
    match step:
        case Call("_?_:_", (_, one, _)):
            return _appended(one)
        case Call("_+_", (_, MakeList((element,)))):
            return element
        case _:
            return step
