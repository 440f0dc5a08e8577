"""Where something stands in a file: line and column, counted from 1."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from penstock.errors import FlowFileError
from penstock.support.text import suggest


@dataclass(frozen=True, slots=True, order=True)
class SourceLocation:
    """A place in a file, shown as `file:line:column`, which editors and terminals can jump to; or a file as a whole."""

    file: str
    line: int = 0
    """0 for the file as a whole."""
    column: int = 0

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}" if self.line else self.file


class HasLocation(Protocol):
    """Anything that knows its place."""

    @property
    def place(self) -> SourceLocation: ...


class LineIndex:
    """The lines of a text, to turn offsets into places."""

    __slots__ = ("_file", "_starts")

    def __init__(self, text: str, file: str) -> None:
        self._file = file
        self._starts = [0, *(offset + 1 for offset, character in enumerate(text) if character == "\n")]

    def place(self, offset: int) -> SourceLocation:
        """The place of the character at this offset."""
        line = bisect_right(self._starts, offset)
        return SourceLocation(self._file, line, offset - self._starts[line - 1] + 1)


_BRACKET = re.compile(r"""\"(?:\\.|[^\"\\])*\" | (?P<open>[{\[]) | (?P<close>[}\]])""", re.DOTALL | re.VERBOSE)
"""Brackets of JSON; those inside strings are skipped."""


def too_deep(text: str, lines: LineIndex, deepest: int) -> SourceLocation:
    """Where brackets stand more than so many levels inside one another, in a text that is too deep to be read."""
    depth = 0
    for found in _BRACKET.finditer(text):
        depth += (found["open"] is not None) - (found["close"] is not None)
        if depth > deepest:
            return lines.place(found.start())
    return lines.place(0)


@dataclass(frozen=True, slots=True)
class Diagnostic:
    """One mistake, and the way out of it.

    Shown in one line that begins like a compiler's:
    `orders.yaml:12:5: found "pricng", allowed are pricing, inventory; did you mean "pricing"?`
    """

    place: SourceLocation
    message: str
    """What is wrong, as a clause: `found "pricng"`."""
    expected: str = ""
    """What would be right, as a clause: `allowed are pricing, inventory`."""
    hint: str | None = None
    """What to do about it: `did you mean "pricing"?`."""

    def __str__(self) -> str:
        said = f"{self.message}, {self.expected}" if self.expected else self.message
        return f"{self.place}: {said}; {self.hint}" if self.hint else f"{self.place}: {said}"

    def document(self) -> dict[str, Any]:
        """Return the mistake as JSON values. What is not known is None."""
        return {
            "file": self.place.file,
            "line": self.place.line or None,
            "column": self.place.column or None,
            "message": self.message,
            "expected": self.expected or None,
            "hint": self.hint,
        }


MAX_MISTAKES = 100
"""Mistakes that are reported; of further ones only their number is."""

MAX_VALUES = 20_000
"""Values that a document may hold, keys included; an alias counts as what it stands for."""

MAX_EXPRESSIONS = 200_000
"""Characters of all expressions of a flow together."""

_SENTENCE = 500
"""Characters kept of a sentence; it may quote what stands in the file."""

_ALLOWED = 30
"""Allowed words that are listed."""

_LONGEST = 64
"""Characters kept of a word that is listed."""

_COMPARISONS = 5_000
"""Comparisons of words that are made to find the ones that were meant. Each takes some 30 µs."""


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
    "use": ("include",),
    "within": ("max_wait", "max_duration"),
    "zone": ("timezone",),
}
"""New names of keys and words, by the names that they had before 0.2."""


class Budget:
    """An amount that reading the files of one flow may use. Raises `FlowFileError` when it is used up."""

    __slots__ = ("_hint", "_limit", "_mistakes", "_used", "_what")

    def __init__(self, mistakes: Diagnostics, limit: int, what: str, hint: str) -> None:
        self._mistakes = mistakes
        self._limit = limit
        self._what = what
        self._hint = hint
        self._used = 0

    def add(self, amount: int, where: SourceLocation | HasLocation) -> None:
        """Use some of it for what stands at a place."""
        self._used += amount
        if self._used > self._limit:
            found = f"found more than {self._limit} {self._what} up to here"
            self._mistakes.add(where, found, wanted=f"at most {self._limit}", hint=self._hint)
            self._mistakes.check()


class Diagnostics:
    """The mistakes of a file, each once, in the order of their places; the first `MAX_MISTAKES` that were found.

    It goes with everything that is read for one flow, so it holds its budgets, too.
    """

    __slots__ = ("_comparisons", "_found", "_seen", "expressions", "more", "values")

    def __init__(self) -> None:
        self._found: list[Diagnostic] = []
        self._seen: set[tuple[SourceLocation, str, str]] = set()
        self._comparisons = _COMPARISONS
        self.more = 0
        """How many mistakes were found beyond those that are kept."""
        self.values = Budget(self, MAX_VALUES, "values", "split the flow into several; aliases count, too")
        self.expressions = Budget(
            self, MAX_EXPRESSIONS, "characters of expressions", "call functions of Python instead"
        )

    def __iter__(self) -> Iterator[Diagnostic]:
        return iter(sorted(self._found, key=lambda mistake: mistake.place))

    def __len__(self) -> int:
        return len(self._found) + self.more

    def add(
        self,
        where: SourceLocation | HasLocation,
        sentence: str,
        *,
        wanted: str = "",
        allowed: Iterable[str] = (),
        nearest: str | None = None,
        hint: str | None = None,
    ) -> None:
        """Note a mistake at a place, or at a node.

        `wanted` says what would be right; `allowed` are the words that would be, of which the one that is spelled
        most like `nearest` becomes the hint unless another `hint` is given.
        """
        place = where if isinstance(where, SourceLocation) else where.place
        sentence = _cut(sentence, _SENTENCE)
        if not self._is_new(place, sentence, wanted):
            return
        words = list(allowed)
        clauses = [f"wanted is {wanted}"] if wanted else []
        clauses += [f"allowed {'is' if len(words) == 1 else 'are'} {_listed(words)}"] if words else []
        close = self.closest(nearest, words) if nearest is not None else None
        hint = hint or (f'did you mean "{close}"?' if close is not None else None)
        self._found.append(Diagnostic(place, sentence, ", ".join(clauses), hint))

    def extend(self, error: FlowFileError) -> None:
        """Note the mistakes that the reading of another file ended with."""
        for mistake in error.mistakes:
            if self._is_new(mistake.place, mistake.message, mistake.expected):
                self._found.append(mistake)
        self.more += error.more

    def _is_new(self, place: SourceLocation, sentence: str, wanted: str) -> bool:
        """Whether a mistake is to be kept; one beyond those that are kept is counted."""
        if (key := (place, sentence, wanted)) in self._seen:
            return False
        self._seen.add(key)
        if len(self._found) < MAX_MISTAKES:
            return True
        self.more += 1
        return False

    def closest(self, word: str, words: Sequence[str]) -> str | None:
        """The nearest of the words, as long as there were not too many comparisons before."""
        for renamed in _RENAMED.get(word, ()):
            if renamed in words:
                return renamed
        if len(words) > self._comparisons:
            return None
        self._comparisons -= len(words)
        return suggest(word, words)

    def check(self) -> None:
        """Raise `FlowFileError` when there are any."""
        if self._found:
            raise FlowFileError(list(self), self.more)


def _cut(text: str, limit: int) -> str:
    return text if len(text) <= limit else f"{text[:limit]}…"


def _listed(words: Sequence[str]) -> str:
    """Words for a sentence, cut to a length that can be read."""
    shown = ", ".join(_cut(word, _LONGEST) for word in words[:_ALLOWED])
    return f"{shown} and {len(words) - _ALLOWED} more" if len(words) > _ALLOWED else shown
