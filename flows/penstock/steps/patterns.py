"""Match patterns of fields in linear time.

Python's `re` and msgspec, which uses it, try all ways in which a pattern may match: `^([a-z0-9]+[._-]?)+@x$` takes a
minute for 28 times `a` and a `!`. RE2 (https://github.com/google/re2) goes through the text once. So the patterns of
flow files are matched here, after msgspec has checked everything else. A `Meta(pattern=…)` in a type that was written
in Python is still matched by `re`: it is as safe as its author made it.
"""

from __future__ import annotations

import typing
from collections.abc import Callable
from importlib import import_module
from typing import Any, NamedTuple

import msgspec
from msgspec import Meta

KEY = "penstock_pattern"
"""The key of the pattern in `Meta.extra`."""

SECONDS_PER_STATE = 25e-9
"""Seconds that RE2 takes at most for a character of the text and a state of the pattern."""

MAX_SECONDS = 0.4
"""Seconds that one text may take. Only patterns of many states limit its length: one of 16 takes 1,000,000 bytes."""


class Unmatched(NamedTuple):
    """What is expected of a text, and where it is."""

    expected: str
    path: str


Check = Callable[[Any], Unmatched | None]
"""Finds a text that does not match its pattern, in a value that is valid otherwise."""


def pattern(text: str) -> Meta:
    """Return the annotation of a text that must match a pattern. It is in the JSON Schema of the type, too.

    Raises `ValueError` for a pattern that RE2 does not know, and if RE2 is not installed.
    """
    _matcher(text)
    return Meta(extra_json_schema={"pattern": text}, extra={KEY: text})


def check_patterns(item: Any) -> Check | None:
    """Return the check of the patterns of a type; None if the type has no patterns."""
    if (found := _pattern_of(item)) is not None:
        return _matcher(found)
    hint = item
    while typing.get_origin(hint) in (typing.Required, typing.NotRequired, typing.Annotated):
        hint = typing.get_args(hint)[0]
    if typing.get_origin(hint) is list:
        check = check_patterns(typing.get_args(hint)[0])
        return None if check is None else _in_list(check)
    if typing.is_typeddict(hint):
        hints = typing.get_type_hints(hint, include_extras=True)
        checks = {field: check for field, inner in hints.items() if (check := check_patterns(inner)) is not None}
        return _in_fields(checks) if checks else None
    return None


def reject_unmatched(check: Check, value: Any) -> None:
    """Raise `msgspec.ValidationError` if a text does not match."""
    if (found := check(value)) is not None:
        raise msgspec.ValidationError(f"Expected {found.expected} - at `${found.path}`")


def _pattern_of(hint: Any) -> str | None:
    while (origin := typing.get_origin(hint)) in (typing.Required, typing.NotRequired, typing.Annotated):
        if origin is typing.Annotated:
            for meta in hint.__metadata__:
                if isinstance(meta, Meta) and meta.extra and KEY in meta.extra:
                    return str(meta.extra[KEY])
        hint = typing.get_args(hint)[0]
    return None


def _matcher(text: str) -> Check:
    try:
        re2: Any = import_module("re2")  # with the first pattern: most flows have none
    except ImportError as error:
        raise ValueError(
            f"pattern: it needs the package google-re2, which cannot be imported ({error}); install it: pip install "
            '"google-re2<2". It has no wheels for musl (Alpine) and free-threaded Python: there, use min_length, '
            "max_length, enum, or a function in Python"
        ) from None
    options = re2.Options()
    options.log_errors = False
    options.never_capture = True
    try:
        compiled: Any = re2.compile(text, options)
    except re2.error as error:
        reason = error.args[0].decode(errors="replace") if isinstance(error.args[0], bytes) else str(error)
        raise ValueError(
            f"pattern: not a regular expression of RE2: {reason}; RE2 has no lookaround, no backreferences, no "
            f"possessive repetitions, and none of more than 1000 times, see https://github.com/google/re2/wiki/Syntax"
        ) from None
    search: Callable[[bytes], Any] = compiled.search
    unmatched = Unmatched(f"`str` matching regex {text!r}", "")
    longest = int(MAX_SECONDS / SECONDS_PER_STATE / compiled.programsize)
    too_long = Unmatched(f"`str` of at most {longest} bytes, for more would take too long with regex {text!r}", "")

    def check(value: Any) -> Unmatched | None:
        content = value.encode("utf-8", "replace")
        if len(content) > longest:
            return too_long
        return None if search(content) is not None else unmatched

    return check


def _in_list(check: Check) -> Check:
    def each_of_list(value: Any) -> Unmatched | None:
        for number, inner in enumerate(value):
            if (found := check(inner)) is not None:
                return found._replace(path=f"[{number}]{found.path}")
        return None

    return each_of_list


def _in_fields(checks: dict[str, Check]) -> Check:
    def each_of_fields(value: Any) -> Unmatched | None:
        for field, check in checks.items():
            if field in value and (found := check(value[field])) is not None:
                return found._replace(path=f".{field}{found.path}")
        return None

    return each_of_fields
