"""What a word of YAML is that stands without quotes: the core schema of YAML 1.2.

See https://yaml.org/spec/1.2.2/#1032-tag-resolution. YAML 1.1, which PyYAML follows, takes `no` for false, `1:30` for
90 and `12_000` for a number; here they are texts.
"""

from __future__ import annotations

import re
from typing import Any

from penstock.files.node import Kind

_INTEGER = re.compile(r"[-+]?[0-9]{1,400}|0o[0-7]{1,400}|0x[0-9a-fA-F]{1,400}")
_NUMBER = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?")
_WORDS: dict[str, tuple[Kind, Any]] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL"), ("null", None)),
    **dict.fromkeys(("true", "True", "TRUE"), ("boolean", True)),
    **dict.fromkeys(("false", "False", "FALSE"), ("boolean", False)),
    **{
        f"{sign}{word}": ("number", float(f"{sign}inf")) for sign in ("", "+", "-") for word in (".inf", ".Inf", ".INF")
    },
    **{word: ("number", float("nan")) for word in (".nan", ".NaN", ".NAN")},
}


def resolve(word: str) -> tuple[Kind, Any]:
    """The kind and the value of a plain word."""
    if word in _WORDS:
        return _WORDS[word]
    if _INTEGER.fullmatch(word):
        return "integer", int(word, {"0o": 8, "0x": 16}.get(word[:2], 10))
    if _NUMBER.fullmatch(word):
        return "number", float(word)
    return "text", word
