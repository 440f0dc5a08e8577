"""An expression evaluated by CEL: its input, its cost limit, and its result."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from importlib import import_module
from typing import Any, cast

from penstock.errors import ExpressionFailed
from penstock.expressions.cost import MAX_ITERATIONS, SLICE, VALUE, CostExceeded, Estimate, is_small, measure
from penstock.expressions.failures import failure, missing_message, too_many_iterations
from penstock.expressions.order import Literals, OrderedLoops, restore_order
from penstock.expressions.paths import ANY, Path, all_at, at, part_of, path_of, paths_read, reads_of
from penstock.expressions.tree import Const, Fold, tree_of, with_expression, with_ranges

_CONTAINERS = frozenset({dict, list})

_RANGE = "@range"
"""The prefix of variables that stand for the ranges of loops. No name in an expression can begin with it."""


class Program:
    """A compiled expression on one variable. The constructor raises `RuntimeError` with CEL's message."""

    def __init__(self, text: str, variable: str) -> None:
        self._text = text
        self._variable = variable
        self._environment = environment(variable)
        whole = self._environment.compile(text)
        self._serialized: bytes = whole.serialize()
        self.tree = tree_of(self._serialized)
        self.kind: str = whole.return_type().name()
        self.path = path_of(self.tree, variable)
        """The path, if the expression is one."""
        paths = frozenset(paths_read(self.tree, variable))
        self._reads = reads_of(iter(paths))
        self._literals = Literals(self.tree)
        self._loops = OrderedLoops(self.tree, variable)
        sources = [path for paths in self._loops.sources.values() for path in paths]
        self._paths_looped = [path for path in sources if ANY not in path]
        self._looped_within = [path for path in sources if ANY in path]
        self._sliced = self._sliced_path()
        """The path of the list, if the expression is a loop over it that makes a list."""
        repeated = self._paths_in_loop() if self._sliced is not None else frozenset[Path]()
        self._reads_in_loop = reads_of(iter(repeated))
        self._estimate = Estimate(self.tree, variable, paths, self._sliced, repeated)
        self._programs: dict[frozenset[int], Any] = {frozenset(): whole}
        """The program, and programs with variables in place of the ranges of loops."""

    def result(self, value: Any) -> Any:
        """Return the result for a value. Raises `ExpressionFailed`."""
        given = part_of(value, self._reads)
        if not is_small(given, self._estimate.threshold):
            self._check(value, given)
        ranges = (
            self._ranges(given)
            if self._loops.literal or (self._loops.sources and self._goes_through_objects(value))
            else {}
        )
        if self._sliced is not None:
            listed = at(value, self._sliced)
            if isinstance(listed, list) and len(cast("list[object]", listed)) > SLICE:
                return self._in_slices(given, ranges, cast("list[object]", listed))
        found = self._evaluated(self._with_ranges(frozenset(ranges)), {self._variable: given, **_named(ranges)}, value)
        return self._in_order(found, given)

    def _check(self, value: Any, given: Any) -> None:
        """Reject values that CEL does not support, and values for which it would block for too long."""
        try:
            count, characters = measure(given)
        except ValueError as error:
            raise ExpressionFailed(self._text, missing_message(str(error), given, self._variable)) from None
        if VALUE * count + characters <= self._estimate.threshold:
            return
        try:
            self._estimate.check(value)
        except CostExceeded:
            raise ExpressionFailed(
                self._text,
                f"the fields that it reads are too large: {count} values with {characters} characters could block the "
                "service; compute parts of it in earlier steps, or use a function in Python",
            ) from None

    def _sliced_path(self) -> Path | None:
        tree = self.tree
        if not isinstance(tree, Fold) or not tree.makes_list:
            return None
        return path_of(tree.range, self._variable) or None

    def _paths_in_loop(self) -> frozenset[Path]:
        """Return the paths that the loop reads besides its list."""
        assert isinstance(self.tree, Fold)
        return frozenset(paths_read(replace(self.tree, range=Const(None)), self._variable))

    def _in_slices(self, given: Any, ranges: dict[int, Any], listed: list[Any]) -> list[Any]:
        """Evaluate a loop over a list in slices of the list."""
        assert isinstance(self.tree, Fold)
        program = self._with_ranges(frozenset(ranges) | {self.tree.id})
        others = part_of(given, self._reads_in_loop)
        made: list[Any] = []
        for start in range(0, len(listed), SLICE):
            names = _named({**ranges, self.tree.id: listed[start : start + SLICE]})
            made += self._evaluated(program, {self._variable: others, **names})
        restore_order(made, self._literals, given)
        return made

    def _goes_through_objects(self, value: Any) -> bool:
        """Return whether a loop that makes a list iterates over the fields of an object, whose order matters."""
        for path in self._paths_looped:
            found = at(value, path)
            if isinstance(found, dict) and len(cast("dict[str, Any]", found)) > 1:
                return True
        return any(
            isinstance(found, dict) and len(cast("dict[str, Any]", found)) > 1
            for path in self._looped_within
            for found in all_at(value, path)
        )

    def _ranges(self, given: Any) -> dict[int, Any]:
        """Compute the ranges of loops first, so that the fields of objects are visited in order."""
        for number, paths in self._loops.sources.items():
            if number not in self._loops.outer and any(
                isinstance(found, dict) for path in paths for found in all_at(given, path)
            ):
                raise ExpressionFailed(
                    self._text,
                    "a map() or filter() inside another loop iterates over the fields of an object, whose order CEL "
                    "does not keep; use a function in Python",
                )
        ranges: dict[int, Any] = {}
        for number, loop in self._loops.outer.items():
            program = self._environment.deserialize(with_expression(self._serialized, loop.range_bytes))
            try:
                found = self._in_order(self._evaluated(program, {self._variable: given}), given)
            except ExpressionFailed:  # no failure if the loop is not evaluated
                continue
            ranges[number] = list(cast("dict[str, Any]", found)) if isinstance(found, dict) else found
        return ranges

    def _with_ranges(self, loops: frozenset[int]) -> Any:
        """Return the program with variables in place of the ranges of some loops."""
        if loops not in self._programs:
            names = {number: f"{_RANGE}{number}" for number in loops}
            self._programs[loops] = self._environment.deserialize(with_ranges(self._serialized, names))
        return self._programs[loops]

    def _evaluated(self, program: Any, data: dict[str, Any], value: Any = None) -> Any:
        """Evaluate a program. A failure suggests keys of the complete value, if that is given."""
        try:
            result = program.eval(data=data)
        except RuntimeError as error:
            if "Iteration budget exceeded" in str(error):
                raise ExpressionFailed(self._text, too_many_iterations(MAX_ITERATIONS)) from None
            raise ExpressionFailed(self._text, str(error)) from None
        try:
            plain = result.plain_value()
        except (TypeError, ValueError, SystemError):
            raise ExpressionFailed(
                self._text, "the result is not a plain value; handle a value that may be missing: .orValue(0)"
            ) from None
        if isinstance(plain, str) and result.type() == cel().Type.ERROR:
            raise ExpressionFailed(self._text, failure(plain, self._text, {self._variable: value}))
        return plain

    def _in_order(self, result: Any, given: Any) -> Any:
        if type(result) in _CONTAINERS:
            restore_order(result, self._literals, given)
        return result


def _named(ranges: dict[int, Any]) -> dict[str, Any]:
    return {f"{_RANGE}{number}": found for number, found in ranges.items()}


@cache
def cel() -> Any:
    """Import Google's library: 14 MB that flows without expressions do not need."""
    return import_module("cel_expr_python.cel")


@cache
def environment(variable: str) -> Any:
    """Create the environment of expressions on one variable."""
    extensions = [
        getattr(import_module(f"cel_expr_python.ext.ext_{name.lower()}"), f"Ext{name}")()
        for name in ("Strings", "Math", "Optional")
    ]
    return cel().NewEnv(variables={variable: cel().Type.DYN}, extensions=extensions)
