"""Let expressions name the fields of an item directly: `amount * 100` instead of `value.amount * 100`.

Names are found in the tokens of the expression: CEL itself cannot be asked, because it rejects unknown names. A name is
a field unless it selects a field (`card.country`), is called (`size(…)`), belongs to a library (`math.greatest(…)`), or
is the variable of a loop (`lines.all(line, line.quantity > 0)`).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

VARIABLE = "value"
"""The item itself."""

_TOKEN = re.compile(
    r"""
    (?P<skip> \s+ | //[^\n]* )
  | (?P<text> [rRbB]{0,2} (?: \"\"\"(?:\\.|.)*?\"\"\" | '''(?:\\.|.)*?''' | "(?:\\.|[^"\\\n])*" | '(?:\\.|[^'\\\n])*' )
           | `[^`\n]*` )
  | (?P<number> (?: 0[xX][0-9a-fA-F]+ | [0-9]+(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)? | \.[0-9]+(?:[eE][+-]?[0-9]+)? ) [uU]? )
  | (?P<name> [A-Za-z_][A-Za-z0-9_]* )
  | (?P<sign> . )
    """,
    re.VERBOSE | re.DOTALL,
)

_RAW_TEXT = re.compile(r"""[bB]?[rR][bB]?(\"\"\"|'''|"|')""")

_LOOPS = frozenset({"all", "exists", "exists_one", "existsOne", "map", "filter", "optMap", "optFlatMap"})
"""Macros whose first argument is a variable."""

_LIBRARIES = frozenset({"math", "optional", "strings"})

_WORDS = frozenset({"true", "false", "null", "in"})


class _Token(NamedTuple):
    kind: str
    text: str
    start: int


def with_fields(text: str) -> tuple[str, list[int]]:
    """Return the expression on `value`, and the positions in the given text at which `value.` was inserted.

    Raises `ValueError` for a loop whose variable is called `value`.
    """
    tokens = _tokens(text)
    scopes: list[tuple[str, int]] = []
    """Loop variables, each with the number of parentheses that were open at its loop."""
    depth = 0
    inserted: list[int] = []
    for number, token in enumerate(tokens):
        if token.text in ("(", "[", "{"):
            depth += 1
        elif token.text in (")", "]", "}"):
            depth -= 1
            scopes = [scope for scope in scopes if scope[1] <= depth]
        if token.kind != "name":
            continue
        before = tokens[max(0, number - 3) : number]
        after = tokens[number + 1 : number + 4]
        if _is_loop_variable(before, after):
            if token.text == VARIABLE:
                raise ValueError(f"{VARIABLE} is the item; give the variable of the loop another name")
            scopes.append((token.text, depth))
        elif _is_field(token, before, after) and all(token.text != name for name, _ in scopes):
            inserted.append(token.start)
    parts = [text[begin:end] for begin, end in zip([0, *inserted], [*inserted, len(text)], strict=True)]
    return f"{VARIABLE}.".join(parts), inserted


def original_offset(offset: int, inserted: Sequence[int]) -> int:
    """Return the position in the given text for a position in the expression on `value`."""
    for position in inserted:
        if offset <= position:
            break
        offset = max(position, offset - len(VARIABLE) - 1)
    return offset


def _tokens(text: str) -> list[_Token]:
    tokens: list[_Token] = []
    position = 0
    while position < len(text):
        end = _end_of_raw_text(text, position)
        if end is not None:
            tokens.append(_Token("text", text[position:end], position))
        else:
            found = _TOKEN.match(text, position)
            assert found is not None
            end = found.end()
            if found.lastgroup != "skip":
                tokens.append(_Token(found.lastgroup or "sign", found[0], position))
        position = end
    return tokens


def _end_of_raw_text(text: str, position: int) -> int | None:
    """Return the end of a text literal in which a backslash is an ordinary character; None for other tokens."""
    found = _RAW_TEXT.match(text, position)
    if found is None:
        return None
    end = text.find(found[1], found.end())
    return len(text) if end < 0 else end + len(found[1])


def _is_loop_variable(before: Sequence[_Token], after: Sequence[_Token]) -> bool:
    """Return whether a name stands after `.map(` and before a comma."""
    texts = [token.text for token in before]
    return len(texts) == 3 and texts[0] == "." and texts[1] in _LOOPS and texts[2] == "(" and _starts(after, ",")


def _is_field(token: _Token, before: Sequence[_Token], after: Sequence[_Token]) -> bool:
    previous = [one.text for one in before[-2:]]
    selects = previous[-1:] == ["."] or previous == [".", "?"]
    called = _starts(after, "(")
    library = token.text in _LIBRARIES and _starts(after, ".") and _starts(after[2:], "(")
    return not (selects or called or library or token.text == VARIABLE or token.text in _WORDS)


def _starts(tokens: Sequence[_Token], text: str) -> bool:
    return bool(tokens) and tokens[0].text == text
