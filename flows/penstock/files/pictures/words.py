"""The texts of a picture: cleaned, measured without a font, and shortened to fit."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from functools import cache

ELLIPSIS = "…"
BOLD = 1.12
"""How much wider bold letters are, at most."""

_WIDTHS = {
    "ijl'|!.,:;": 0.36,
    'ftrI()[]{}/\\-" `°·': 0.45,
    "acegksvxyz_J?*^": 0.62,
    "mMwW%@…—&": 1.02,
    "ABCDEFGHKLNOPQRSTUVXYZ+=<>~#": 0.86,
}
_KNOWN = {letter: width for letters, width in _WIDTHS.items() for letter in letters}


def clean(text: str) -> str:
    """A text on one line, without what cannot be shown: controls, marks of direction, what is no character."""
    kept = "".join(" " if letter.isspace() else letter for letter in text)
    return " ".join("".join(letter for letter in kept if unicodedata.category(letter)[0] != "C").split())


def counted(counts: Iterable[tuple[str, int]]) -> str:
    """Live numbers as people read them: `1,234 received · 12 in flight`."""
    return " · ".join(f"{number:,} {word}" for word, number in counts)


def width(text: str, size: float, *, bold: bool = False) -> float:
    """The pixels that a text takes at most. Generous: whoever looks has a font that we do not know.

    The numbers are those of DejaVu Sans, which is wider than what browsers choose, rounded up.
    """
    letters = sum(_wide(letter) for letter in text)
    return letters * size * (BOLD if bold else 1.0)


def fit(text: str, limit: float, size: float, *, bold: bool = False) -> str:
    """A text that takes no more than `limit` pixels, shortened if it has to be."""
    text = clean(text)
    if width(text, size, bold=bold) <= limit:
        return text
    while text and width(text + ELLIPSIS, size, bold=bold) > limit:
        text = text[:-1]
    return text.rstrip() + ELLIPSIS


def broken(text: str, limit: float, lines: int, size: float) -> list[str]:
    """A text on some lines, broken between words; what does not fit stands on the last one."""
    found: list[str] = []
    rest = text.split(" ")
    while rest and len(found) < lines - 1:
        taken = 1
        while taken < len(rest) and width(" ".join(rest[: taken + 1]), size) <= limit:
            taken += 1
        found.append(" ".join(rest[:taken]))
        rest = rest[taken:]
    return [*found, *([" ".join(rest)] if rest else [])]


@cache
def _wide(letter: str) -> float:
    if unicodedata.category(letter) in ("Mn", "Me"):
        return 0.0
    if unicodedata.east_asian_width(letter) in "WF":
        return 1.4
    if letter.isascii():
        return _KNOWN.get(letter, 0.66)
    plain = unicodedata.normalize("NFD", letter)[0]
    return _KNOWN.get(plain, 0.7) if plain.isascii() else 1.2
