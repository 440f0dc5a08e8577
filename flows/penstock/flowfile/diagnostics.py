"""Errors in files: their locations, messages and suggestions."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from penstock.errors import FlowFileError
from penstock.support.text import suggest

if TYPE_CHECKING:
    from penstock.flowfile.document import Node


@dataclass(frozen=True, slots=True, order=True)
class SourceLocation:
    """A location in a file, shown as `file:line:column`, which editors and terminals can open; or a complete file."""

    file: str
    line: int = 0
    """Counted from 1; 0 for the complete file."""
    column: int = 0

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}" if self.line else self.file


class HasLocation(Protocol):
    """A value with a location."""

    @property
    def location(self) -> SourceLocation: ...


class LineIndex:
    """The line starts of a text, to convert offsets into locations."""

    __slots__ = ("_file", "_starts")

    def __init__(self, text: str, file: str) -> None:
        self._file = file
        self._starts = [0, *(offset + 1 for offset, character in enumerate(text) if character == "\n")]

    def location(self, offset: int) -> SourceLocation:
        """Return the location of the character at an offset."""
        line = bisect_right(self._starts, offset)
        return SourceLocation(self._file, line, offset - self._starts[line - 1] + 1)


_BRACKET = re.compile(r"""\"(?:\\.|[^\"\\])*\" | (?P<open>[{\[]) | (?P<close>[}\]])""", re.DOTALL | re.VERBOSE)
"""Matches the brackets of JSON and skips those inside strings."""


def too_deep(text: str, lines: LineIndex, max_depth: int) -> SourceLocation:
    """Return the location where brackets are nested too deeply, in a text that is too deep to be parsed."""
    depth = 0
    for found in _BRACKET.finditer(text):
        depth += (found["open"] is not None) - (found["close"] is not None)
        if depth > max_depth:
            return lines.location(found.start())
    return lines.location(0)


@dataclass(frozen=True, slots=True)
class Diagnostic:
    """One error, and how to correct it.

    Shown in one line that begins like a compiler's: `orders.yaml:12:5: unknown service "pricng": did you mean
    "pricing"?`, or `orders.yaml:4:20: elements: expected an integer >= 1, got 0`.
    """

    location: SourceLocation
    message: str
    """What is wrong, with the expected value if there is one."""
    expected: str = ""
    """The expected value alone: `an integer >= 1`, `one of pricing, inventory`."""
    hint: str | None = None
    """How to correct it: `did you mean "pricing"?`."""

    def __str__(self) -> str:
        if self.hint is None:
            return f"{self.location}: {self.message}"
        separator = ": " if self.hint.endswith("?") else "; "
        return f"{self.location}: {self.message}{separator}{self.hint}"

    def document(self) -> dict[str, Any]:
        """Return the error as JSON values. What is not known is None."""
        return {
            "file": self.location.file,
            "line": self.location.line or None,
            "column": self.location.column or None,
            "message": self.message,
            "expected": self.expected or None,
            "hint": self.hint,
        }


MAX_DIAGNOSTICS = 100
"""How many errors are kept. Further ones are only counted."""

MAX_VALUES = 20_000
"""How many values a document may contain, keys included. An alias counts as the value that it refers to."""

MAX_EXPRESSIONS = 200_000
"""How many characters all expressions of a flow may have together."""

_MAX_MESSAGE = 500
"""Characters kept of a message, which may quote the file."""

_MAX_NAMES = 30
"""How many names are listed as expected."""

_MAX_NAME = 64
"""Characters kept of a name that is listed."""

_COMPARISONS = 5_000
"""How many names are compared to find the nearest one. One comparison takes about 30 µs."""


_RENAMED: Mapping[str, tuple[str, ...]] = {
    "about": ("description",),
    "after": ("delay",),
    "answer": ("response",),
    "answers": ("returns",),
    "at_once": ("peak_calls",),
    "computes": ("expression",),
    "done": ("processed_dir",),
    "each": ("items",),
    "end": ("final",),
    "every": ("poll_interval",),
    "least": ("min",),
    "leaves": ("disconnects",),
    "many": ("batch",),
    "most": ("max",),
    "nowhere": ("discard",),
    "pace": ("client_delay",),
    "step": ("operator",),
    "use": ("include",),
    "within": ("max_wait", "max_duration"),
    "zone": ("timezone",),
}
"""New names of keys and words, by the names that they had before 0.2."""


class Budget:
    """An amount that reading the files of one flow may use. Raises `FlowFileError` when it is exceeded."""

    __slots__ = ("_diagnostics", "_hint", "_limit", "_unit", "_used")

    def __init__(self, diagnostics: Diagnostics, limit: int, unit: str, hint: str) -> None:
        self._diagnostics = diagnostics
        self._limit = limit
        self._unit = unit
        self._hint = hint
        self._used = 0

    def add(self, amount: int, where: SourceLocation | HasLocation) -> None:
        """Use a part of it for the value at a location."""
        self._used += amount
        if self._used > self._limit:
            self._diagnostics.exceeded(where, f"{self._unit} up to here", self._limit, hint=self._hint)
            self._diagnostics.check()


class Diagnostics:
    """The errors in a file, each once, in the order of their locations; the first `MAX_DIAGNOSTICS` that were found.

    One object is passed to everything that is read for one flow, so it also has the budgets.
    """

    __slots__ = ("_comparisons", "_found", "_seen", "expressions", "more", "subject", "values")

    def __init__(self) -> None:
        self._found: list[Diagnostic] = []
        self._seen: set[tuple[SourceLocation, str]] = set()
        self._comparisons = _COMPARISONS
        self.more = 0
        """How many errors were found in addition to those that are kept."""
        self.subject = ""
        """The key whose value is being read."""
        self.values = Budget(self, MAX_VALUES, "values", "split the flow into several; aliases count too")
        self.expressions = Budget(self, MAX_EXPRESSIONS, "characters of expressions", "call Python functions instead")

    def __iter__(self) -> Iterator[Diagnostic]:
        return iter(sorted(self._found, key=lambda one: one.location))

    def __len__(self) -> int:
        return len(self._found) + self.more

    def add(
        self, where: SourceLocation | HasLocation, message: str, *, expected: str = "", hint: str | None = None
    ) -> None:
        """Add an error at a location or a node."""
        location = where if isinstance(where, SourceLocation) else where.location
        message = _cut(message, _MAX_MESSAGE)
        if self._is_new(location, message):
            self._found.append(Diagnostic(location, message, expected, hint))

    def reject(self, node: Node, expected: str, *, hint: str | None = None) -> None:
        """Add the error that a node is not the expected value of the current subject."""
        subject = f"{self.subject}: " if self.subject else ""
        self.add(node, f"{subject}expected {expected}, got {node.shown()}", expected=expected, hint=hint)

    def unknown(
        self,
        node: Node,
        noun: str,
        names: Iterable[str],
        *,
        similar: Iterable[str] = (),
        prefix: str = "",
        hint: str | None = None,
    ) -> None:
        """Add the error that the name at a node is none of the known ones. Suggests the most similar name.

        `similar` are further names that may be suggested.
        """
        names = list(names)
        expected = f"one of {_listed(names)}" if len(names) > 1 else names[0] if names else ""
        nearest = self.closest(str(node.value), [*names, *similar])
        if nearest is not None:
            hint = f'did you mean "{nearest}"?'
        message = f"{prefix}unknown {noun} {node.shown()}"
        self.add(
            node, message if hint or not expected else f"{message}: expected {expected}", expected=expected, hint=hint
        )

    def exceeded(self, where: SourceLocation | HasLocation, unit: str, limit: int, *, hint: str | None = None) -> None:
        """Add the error that a limit is exceeded."""
        self.add(where, f"more than {limit} {unit}", expected=f"at most {limit}", hint=hint)

    def extend(self, error: FlowFileError) -> None:
        """Add the errors with which another file could not be read."""
        for one in error.diagnostics:
            if self._is_new(one.location, one.message):
                self._found.append(one)
        self.more += error.more

    def _is_new(self, location: SourceLocation, message: str) -> bool:
        """Return whether an error is to be kept. Counts one that is beyond the maximum."""
        if (key := (location, message)) in self._seen:
            return False
        self._seen.add(key)
        if len(self._found) < MAX_DIAGNOSTICS:
            return True
        self.more += 1
        return False

    def closest(self, name: str, names: Sequence[str]) -> str | None:
        """Return the most similar name, unless too many names were compared before."""
        for renamed in _RENAMED.get(name, ()):
            if renamed in names:
                return renamed
        if len(names) > self._comparisons:
            return None
        self._comparisons -= len(names)
        return suggest(name, names)

    def check(self) -> None:
        """Raise `FlowFileError` if there are errors."""
        if self._found:
            raise FlowFileError(list(self), self.more)


def _cut(text: str, limit: int) -> str:
    return text if len(text) <= limit else f"{text[:limit]}…"


def _listed(names: Sequence[str]) -> str:
    """Join names for a message, cut to a readable length."""
    shown = ", ".join(_cut(name, _MAX_NAME) for name in names[:_MAX_NAMES])
    return f"{shown} and {len(names) - _MAX_NAMES} more" if len(names) > _MAX_NAMES else shown
