"""Estimate how long CEL may take for a value, so that no value can block the event loop.

CEL limits the iterations of loops (10,000), but not the cost of an iteration: a list may be searched in every one, a
text may be replaced by itself. It holds the GIL and cannot be interrupted, so a thread would not help. Therefore the
cost is estimated beforehand, from the tree of the expression and from the number of values and characters that it
reads. All estimates are upper bounds.

The prices below were measured with cel-expr-python 0.1.3 on one core of a shared virtual machine, and rounded up.
Worst cases, each with the largest input that was allowed under LIMIT, are in tests/flows/test_expression_cost.py.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable
from functools import cached_property, lru_cache, partial
from importlib import import_module
from itertools import chain, islice, zip_longest
from typing import Any, NamedTuple, cast

import msgspec

from penstock.expressions.paths import MISSING, Path, at, path_of
from penstock.expressions.tree import Call, Const, Fold, Ident, MakeList, MakeMap, Node, Select

COST_LIMIT = 100_000_000.0
"""Maximum estimated nanoseconds of one evaluation."""

MAX_ITERATIONS = 10_000
"""Maximum iterations of loops in one evaluation. CEL fails after them."""

SLICE = 100
"""Elements of a list that are passed to CEL at once if a loop makes a list of a list.

CEL copies the list for each appended element: 0.16 s for 2,000 elements, 4 s for 10,000."""

VALUE = 8
"""The number of characters that cost as much as a value, such as a number, where one figure stands for both."""

_STEP = 200.0
"""A call, a field, an iteration."""
_IN = 500.0
"""Passing a value to CEL."""
_OUT = 700.0
"""Taking a value from CEL, and restoring the order of the fields of objects."""
_COMPARE = 200.0
"""Comparing two values that are part of lists or objects."""
_APPEND = 50.0
"""Copying one element of a list while another is appended."""
_CHARACTER = 10.0
"""Reading or writing a character of a text."""
_SEARCH = 0.05
"""Comparing one character of a text with one of a searched text."""
_PATTERN = 25.0
"""Matching one character of a text with one state of a regular expression."""
_STATES = 1000
"""Maximum states that one character of a regular expression may need: `a{1000}`."""

_LEVELS = 8
"""Levels of a value for which the largest parts are known separately."""

_DIGITS = bytes(ord("0") if chr(byte).isdigit() and byte < 128 else byte for byte in range(256))
_LONG_NUMBER = b"0" * 19
"""Integers of more than 64 bits have at least 19 digits, as -2**63 - 1 has."""
_OBJECT: Any = dict
_LIST: Any = list
_encode = msgspec.json.Encoder().encode


class CostExceeded(Exception):
    """The estimate is above the limit."""


class MaxSizes(NamedTuple):
    """The maximum size of a value."""

    length: float
    values: float
    characters: float


class Size(NamedTuple):
    """The size of a value. Within a loop the first three fields are the mean over its iterations.

    The mean is right for costs that are linear in the size, whichever values are large. A product of two sizes must be
    one of a mean and a maximum: the sum of a * b is at most the sum of a, times the largest b.
    """

    length: float
    """Elements of a list, or fields of an object."""
    values: float
    """Values in it, at any depth, including itself."""
    characters: float
    levels: tuple[MaxSizes, ...]
    """The maximum sizes of the value, of its elements or fields, of theirs, and so on; the last also for all below."""

    @property
    def maximum(self) -> MaxSizes:
        """The maximum size of the value."""
        return self.levels[0]

    def joined(self, other: Size) -> Size:
        """Return the size of both together."""
        (one, *_), (another, *_) = self.levels, other.levels
        whole = MaxSizes(one.length + another.length, one.values + another.values, one.characters + another.characters)
        length, values, characters = self.length + other.length, self.values + other.values, self[2] + other[2]
        return Size(length, values, characters, (whole, *_max_of(self.inner, other.inner)))

    def either(self, other: Size) -> Size:
        """Return the size of one of both, which may differ per iteration: the mean may exceed both means."""
        levels = _max_of(self.levels, other.levels)
        maximum = levels[0]
        return Size(
            min(self.length + other.length, maximum.length),
            min(self.values + other.values, maximum.values),
            min(self.characters + other.characters, maximum.characters),
            levels,
        )

    @property
    def inner(self) -> tuple[MaxSizes, ...]:
        """The maximum sizes of the elements or fields."""
        return self.levels[1:] or self.levels

    def part(self) -> Size:
        """Return the size of one of its elements or fields."""
        maximum = self.inner[0]
        values = min(self.values, maximum.values)
        return Size(min(values, maximum.length), values, min(self.characters, maximum.characters), self.inner)

    def largest(self) -> Size:
        """Return the size with the maximum in every iteration."""
        return Size(*self.maximum, self.levels)


def _max_of(one: tuple[MaxSizes, ...], other: tuple[MaxSizes, ...]) -> tuple[MaxSizes, ...]:
    """Return the larger of both at each level."""
    if len(one) < len(other):
        one, other = other, one
    return tuple(MaxSizes(*map(max, a, b)) for a, b in zip_longest(one, other, fillvalue=other[-1]))


def fixed(length: float, values: float, characters: float) -> Size:
    """Return a size that is the same in each iteration."""
    return Size(length, values, characters, (MaxSizes(max(length, values), values, characters),))


SCALAR = fixed(1, 1, 0)
EMPTY = fixed(0, 0, 0)


def text_of(characters: float, maximum: float) -> Size:
    """Return the size of a text."""
    return Size(1, 1, characters, (MaxSizes(1, 1, maximum),))


def is_small(value: Any, threshold: int) -> bool:
    """Return whether a value is certainly below a size, and contains nothing that CEL does not support.

    Examines its JSON, which takes a fifth of the time of `measure`.
    """
    try:
        content = _encode(value)
    except Exception:  # values from Python code, and lone surrogates
        return False
    return (
        len(content) * (VALUE / 2 + 1) <= threshold  # a value has at least two characters
        and b"\\u0000" not in content
        and _LONG_NUMBER not in content.translate(_DIGITS)
    )


def measure(value: Any) -> tuple[int, int]:
    """Return the number of values and field names in a value, at any depth, and the number of characters.

    Raises `ValueError` for values that CEL does not support: "NUL" or "integer".
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


def size_of(value: Any, *, levels: bool = False) -> Size:
    """Return the size of a value; with `levels`, also the maximum sizes at each of its levels."""
    values, characters = measure(value)
    length = len(cast("list[object]", value)) if isinstance(value, (dict, list)) else 1
    if levels:
        return Size(length, values, characters, levels_of(value))
    # The first level is exact, because the length of a list matters most.
    return Size(
        length, values, characters, (MaxSizes(length, values, characters), MaxSizes(values, values, characters))
    )


def levels_of(value: Any) -> tuple[MaxSizes, ...]:
    """Return the maximum sizes of a value, of its elements or fields, of theirs, and so on."""
    rows: list[list[Any]] = [[value]]
    while row := [
        part
        for outer in rows[-1]
        if type(outer) is _OBJECT or type(outer) is _LIST
        for part in (outer.values() if type(outer) is _OBJECT else outer)
    ]:
        rows.append(row)
    found: list[MaxSizes] = [MaxSizes(1, 1, 0)]
    below, below_characters = iter(list[int]()), iter(list[int]())
    for row in reversed(rows):
        values: list[int] = []
        characters: list[int] = []
        length = name = 1
        for outer in row:
            count = 1
            written = 0
            if type(outer) is str:
                written = len(outer)
            elif type(outer) is _LIST:
                count += sum(islice(below, len(outer)))
                written = sum(islice(below_characters, len(outer)))
                length = max(length, len(outer))
            elif type(outer) is _OBJECT:
                names = [len(key) for key in outer if type(key) is str]
                count += len(outer) + sum(islice(below, len(outer)))
                written = sum(names) + sum(islice(below_characters, len(outer)))
                length = max(length, len(outer))
                name = max(name, *names) if names else name
            values.append(count)
            characters.append(written)
        # A loop over an object iterates over the names of its fields.
        found[-1] = found[-1]._replace(characters=max(found[-1].characters, name))
        found.append(MaxSizes(length, max(values), max(characters)))
        below, below_characters = iter(values), iter(characters)
    found.reverse()
    if len(found) > _LEVELS:
        _, values_below, characters_below = found[_LEVELS - 1]
        found[_LEVELS - 1 :] = [MaxSizes(values_below, values_below, characters_below)]
    return tuple(found)


class Estimate:
    """Estimates the cost of evaluating an expression, given the sizes of its inputs."""

    def __init__(
        self, tree: Node, variable: str, paths: frozenset[Path], sliced: Path | None, repeated: frozenset[Path]
    ) -> None:
        self._tree = tree
        self._variable = variable
        self._paths = paths
        self._sliced = sliced
        self._repeated = repeated
        """The paths that are passed to CEL again with each slice."""

    def check(self, value: Any) -> None:
        """Raise `CostExceeded` if the evaluation for this value may take too long."""
        found = {path: there for path in self._paths if (there := at(value, path)) is not MISSING}
        sizes = {path: size_of(there) for path, there in found.items()}

        def too_much() -> bool:
            return not self._nanoseconds(lambda path: sizes.get(path, SCALAR), partial(at, value)) <= COST_LIMIT

        if not too_much():
            return
        if sum(map(_input_cost, sizes.values())) > COST_LIMIT:  # examining the levels would take long, too
            raise CostExceeded
        sizes = {path: size_of(there, levels=True) for path, there in found.items()}
        if too_much():
            raise CostExceeded

    @cached_property
    def threshold(self) -> int:
        """The size, in characters, up to which every value is cheap enough: a power of two.

        Assumes that all of it is at each path that is read, in the worst shape. Computed with the first value.
        """

        def too_much(exponent: int) -> bool:
            size = float(1 << exponent)
            worst = fixed(size / VALUE, size / VALUE + 1, size)
            return not self._nanoseconds(lambda _: worst) <= COST_LIMIT

        exponent = bisect_left(range(27), True, key=too_much) - 1
        return 1 << exponent if exponent >= 0 else 0

    def _nanoseconds(self, sizes: Callable[[Path], Size], values: Callable[[Path], Any] = lambda _: None) -> float:
        visit = _Visit(self._variable, sizes, values)
        slices = 1.0
        if self._sliced is not None:
            slices = visit.slices = max(1.0, sizes(self._sliced).length / SLICE)
        result = visit.size(self._tree, {}, 1.0, top=self._sliced is not None)
        cost = visit.cost + result.values * _OUT + result.characters * _CHARACTER
        cost += sum(_input_cost(sizes(path)) for path in self._paths)
        return cost + slices * sum(_input_cost(sizes(path)) for path in self._repeated)


def _input_cost(size: Size) -> float:
    """Return the cost of passing a value of this size to CEL."""
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
        """Return the size of a node's result, and add its cost."""
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
                return SCALAR if test else inner.part()
            case MakeList(elements):
                return self._all(elements, scope, times)
            case MakeMap(entries, _):
                return self._all(tuple(chain.from_iterable(entries)), scope, times)
            case Fold():
                return self._fold(node, scope, times, sliced=top)
            case Call(function, args):
                return self._call(function, args, [self.size(arg, scope, times) for arg in args], times)

    def _all(self, nodes: tuple[Node, ...], scope: dict[str, Size], times: float) -> Size:
        sizes = [self.size(node, scope, times) for node in nodes]
        self.cost += times * _STEP * len(nodes)
        whole, levels = EMPTY, SCALAR.levels
        for size in sizes:
            whole, levels = whole.joined(size), _max_of(levels, size.levels)
        length, (_, values, characters) = float(len(nodes)), whole.maximum
        maximum = MaxSizes(length, values + 1, characters)
        return Size(length, whole.values + 1, whole.characters, (maximum, *levels))

    def _fold(self, node: Fold, scope: dict[str, Size], times: float, *, sliced: bool) -> Size:
        range = self.size(node.range, scope, times)
        start = self.size(node.start, scope, times)
        count = range.length if sliced else min(range.length, MAX_ITERATIONS)
        # All iterations of an evaluation together are at most MAX_ITERATIONS, or it ends with an error.
        inner = min(times * count, max(times, MAX_ITERATIONS * self.slices))
        # The iterations before the end may be those with the largest elements: all together are as large as all ranges.
        share = times / inner if inner else 0.0
        maximum = range.inner[0]
        values = min(range.values * share, maximum.values)
        characters = min(range.characters * share, maximum.characters)
        element = Size(min(values, maximum.length), values, characters, range.inner)
        # A value as large as the range has the most iterations: the mean over these is not the mean outside.
        outside = {name: size.largest() for name, size in scope.items()}
        inside = {**outside, node.variable: element, node.accumulator: SCALAR if node.makes_list else start}
        self.size(node.condition, inside, inner)
        if node.makes_list:
            longest = min(range.maximum.length, SLICE if sliced else MAX_ITERATIONS)
            self.cost += inner * longest * _APPEND
            one = self.size(_appended(node.step), inside, inner)
            self.size(node.step, inside, inner)
            mean = inner / times if times else 0.0
            longest = min(range.maximum.length, count if sliced else MAX_ITERATIONS)
            whole = MaxSizes(longest, longest * one.maximum.values + 1, longest * one.maximum.characters)
            return Size(mean, mean * one.values + 1, mean * one.characters, (whole, *one.levels))
        after = start.either(self.size(node.step, inside, inner))
        return self.size(node.result, {**scope, node.accumulator: after}, times)

    def _call(self, function: str, nodes: tuple[Node, ...], args: list[Size], times: float) -> Size:
        values, characters = sum(arg.values for arg in args), sum(arg.characters for arg in args)
        text = args[0] if args else EMPTY
        match function, args:
            case ("_?_:_", [_, one, other]):
                return one.either(other)
            case ("_&&_" | "_||_" | "!_" | "@not_strictly_false" | "hasValue", _):
                return SCALAR
            case ("_[_]" | "_?._" | "_[?_]", [one, _]):
                return one.part()
            case ("value" | "dyn" | "optional.of" | "optional.ofNonZeroValue", [one]):
                return one
            case ("orValue" | "or", [one, other]):
                return one.either(other)
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
                self.cost += times * text.characters * (_CHARACTER + _SEARCH * part.maximum.characters)
                return SCALAR
            case ("matches", [_, pattern]):
                states = self._states(nodes[1], pattern)
                self.cost += times * (states * 100 + text.characters * (_CHARACTER + states * _PATTERN))
                return SCALAR
            case ("replace", [_, old, new, *_]):
                written = text.characters + (text.characters + 1) * new.maximum.characters
                maximum = text.maximum.characters + (text.maximum.characters + 1) * new.maximum.characters
                self.cost += times * (written * 2 * _CHARACTER + text.characters * _SEARCH * old.maximum.characters)
                return text_of(written, maximum)
            case ("split", [_, mark, *_]):
                self.cost += times * text.characters * (3 * _STEP + _SEARCH * mark.maximum.characters)
                maximum = text.maximum.characters
                levels = MaxSizes(maximum + 1, maximum + 2, maximum), MaxSizes(1, 1, maximum)
                return Size(text.characters + 1, text.characters + 2, text.characters, levels)
            case ("join", [listed, *marks]):
                between = marks[0].maximum.characters if marks else 0.0
                joined = listed.characters + listed.values * between
                self.cost += times * (joined * 2 * _CHARACTER + listed.values * _STEP)
                return text_of(joined, listed.maximum.characters + listed.maximum.values * between)
            case ("format", [_, whole]):  # a number has at most 309 digits and 100 decimals
                made = 2 * characters + 450 * whole.values
                self.cost += times * (made * _CHARACTER + whole.values * _STEP)
                return text_of(
                    made, 2 * (text.maximum.characters + whole.maximum.characters) + 450 * whole.maximum.values
                )
            case ("strings.quote", _):
                self.cost += times * text.characters * 6 * _CHARACTER
                return text_of(6 * text.characters, 6 * text.maximum.characters)
            case _:
                whole = EMPTY
                for arg in args:
                    whole = whole.joined(arg)
                self.cost += times * (values * _COMPARE + characters * _CHARACTER)
                return whole.either(text_of(40, 40))

    def _states(self, node: Node, pattern: Size) -> float:
        """Return the number of states of the automaton of a regular expression."""
        path = path_of(node, self._variable)
        text = node.value if isinstance(node, Const) else None if path is None else self._values(path)
        if isinstance(text, str) and (len(text) <= _STATES or isinstance(node, Const)):
            return float(states_of(text))
        return 1 + pattern.maximum.characters * _STATES


@lru_cache(maxsize=64)
def states_of(pattern: str) -> int:
    """Return the number of states of a regular expression's automaton; 1 for an invalid one, which CEL reports."""
    re2: Any = import_module("re2")  # imported with the first expression that needs it
    options = re2.Options()
    options.log_errors = False
    try:
        return int(re2.compile(pattern, options).programsize)
    except re2.error:
        return 1


def _appended(step: Node) -> Node:
    """Return the value that a loop appends to its list in each iteration: x of `result + [x]`."""
    match step:
        case Call("_?_:_", (_, one, _)):
            return _appended(one)
        case Call("_+_", (_, MakeList((element,)))):
            return element
        case _:
            return step
