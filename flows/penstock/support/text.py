"""Escape text that cannot be encoded or printed, format durations, and suggest the name that was meant."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from difflib import get_close_matches

_UNPRINTABLE = re.compile(r"\r(?!\n)|[^\r\n\t -~]")
"""Characters that may be unprintable. A carriage return alone would let a text overwrite its line."""

_LONGEST_NAME = 64
"""Characters of a name that is compared with others. A comparison takes some 30 µs, and longer ones far more."""


def sanitize(text: str) -> str:
    r"""Replace lone surrogates, which UTF-8 cannot encode, by escapes.

    Input in JSON may contain them (`"\ud800"`), and so may variables, arguments and file names that are not UTF-8. They
    are kept inside a flow, and replaced where text leaves it: in a terminal, a log, a database, a label, an error
    message. The escapes are those of JSON: JSON text that is sanitized is still the same value.

    >>> sanitize("no \ud800")
    'no \\ud800'
    """
    return text if text.isascii() else text.encode(errors="backslashreplace").decode()


def printable(text: str) -> str:
    """Return the text as one line that cannot control a terminal: unprintable characters become escapes."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def for_terminal(text: str) -> str:
    """Return text of several lines that cannot control a terminal: other unprintable characters become escapes.

    The escapes are those of JSON: a JSON document is still the same value.

    >>> for_terminal('{"name": "\\u202etxt.exe"}')
    '{"name": "\\\\u202etxt.exe"}'
    """
    if text.isprintable():
        return text
    return _UNPRINTABLE.sub(_escape, text)


def bytes_for_terminal(data: bytes) -> bytes:
    """Do the same for complete lines in UTF-8."""
    return for_terminal(data.decode(errors="backslashreplace")).encode()


def suggest(name: str, known: Iterable[str]) -> str | None:
    """Return the known name that is spelled most like a mistyped one; None if none is similar.

    Case, hyphens and underscores do not count: `maxInFlight` is like `max_in_flight`.
    """
    if len(name) > _LONGEST_NAME:
        return None
    spelled = {_spelling(one): one for one in known}
    close = get_close_matches(_spelling(name), spelled, 1)
    return spelled[close[0]] if close else None


def format_duration(seconds: float) -> str:
    """Format a duration.

    >>> format_duration(0.02), format_duration(2), format_duration(90)
    ('20ms', '2s', '1m 30s')
    """
    if seconds < 1:
        return f"{seconds * 1000:g}ms"
    if seconds < 60 or seconds != int(seconds):
        return f"{seconds:g}s"
    parts = ((int(seconds) // 3600, "h"), (int(seconds) // 60 % 60, "m"), (int(seconds) % 60, "s"))
    return " ".join(f"{number}{unit}" for number, unit in parts if number)


def _escape(found: re.Match[str]) -> str:
    character = found[0]
    return character if character.isprintable() else json.dumps(character)[1:-1]


def _spelling(name: str) -> str:
    return name.lower().replace("_", "").replace("-", "")
