"""What is wrong in a file: mistakes with their places, collected so that all of them are told at once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from penstock.errors import FlowFileError
from penstock.files.places import Place, Placed


@dataclass(frozen=True, slots=True)
class Mistake:
    """One mistake, and the way out of it.

    Shown in one line that begins like a compiler's:
    `orders.yaml:12:5: found "pricng", allowed are pricing, inventory; did you mean "pricing"?`
    """

    place: Place
    found: str
    """What is wrong, as a clause: `found "pricng"`."""
    wanted: str = ""
    """What would be right, as a clause: `allowed are pricing, inventory`."""
    hint: str | None = None
    """What to do about it: `did you mean "pricing"?`."""

    def __str__(self) -> str:
        said = f"{self.found}, {self.wanted}" if self.wanted else self.found
        return f"{self.place}: {said}; {self.hint}" if self.hint else f"{self.place}: {said}"

    def document(self) -> dict[str, Any]:
        """The mistake for programs. What is not known, or needs not be said, is None."""
        return {
            "file": self.place.file,
            "line": self.place.line or None,
            "column": self.place.column or None,
            "found": self.found,
            "wanted": self.wanted or None,
            "hint": self.hint,
        }


class Mistakes:
    """The mistakes of a file, each once, in the order of their places."""

    __slots__ = ("_found",)

    def __init__(self) -> None:
        self._found: dict[Mistake, None] = {}

    def __iter__(self) -> Iterator[Mistake]:
        return iter(sorted(self._found, key=lambda mistake: mistake.place))

    def __len__(self) -> int:
        return len(self._found)

    def add(
        self,
        where: Place | Placed,
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
        words = list(allowed)
        clauses = [f"wanted is {wanted}"] if wanted else []
        clauses += [f"allowed {'is' if len(words) == 1 else 'are'} {', '.join(words)}"] if words else []
        close = self.nearest(nearest, words) if nearest is not None else None
        hint = hint or (f'did you mean "{close}"?' if close is not None else None)
        place = where if isinstance(where, Place) else where.place
        self._found[Mistake(place, sentence, ", ".join(clauses), hint)] = None

    def take(self, error: FlowFileError) -> None:
        """Note the mistakes that the reading of another file ended with."""
        self._found |= dict.fromkeys(error.mistakes)

    @staticmethod
    def nearest(word: str, words: Iterable[str]) -> str | None:
        """The one of the words that is spelled most like this one; `maxInFlight` is like `max_in_flight`."""
        spelled = {_spelling(known): known for known in words}
        close = get_close_matches(_spelling(word), spelled, 1)
        return spelled[close[0]] if close else None

    def check(self) -> None:
        """Raise `FlowFileError` when there are any."""
        if self._found:
            raise FlowFileError(list(self))


def _spelling(word: str) -> str:
    return word.lower().replace("_", "").replace("-", "")
