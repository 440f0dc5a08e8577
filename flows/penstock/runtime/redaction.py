"""What dead letters do not keep: fields that are secret, in what came in and in what services had found."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, cast

import msgspec

from penstock.any_json import as_json
from penstock.element import Element, Failure
from penstock.errors import SERVICE_MESSAGE_LIMIT

REDACTED = "[redacted]"
"""Stands where a value was."""

UNREADABLE = b"[redacted: this input is no JSON]"
"""Stands for an input in which the secret fields cannot be told from the others."""


class Kept(bytes):
    """An input as it is kept, without its secret fields."""

    length: int
    """How many bytes came in."""

    @classmethod
    def of(cls, value: bytes, original: Any) -> Kept:
        """What is kept of an input: the number of its bytes is no secret."""
        came = original if isinstance(original, bytes) else as_json(original)
        kept = cls(value)
        kept.length = getattr(came, "length", len(came))
        return kept


def redacted(element: Element[Any], paths: Sequence[str]) -> Element[Any]:
    """A copy of an element for its letter, without the fields at some paths (`card.number`); lists are gone through.

    The paths are those of the input, of all that was found (`card.number` in the answer of `card`), and of each answer.
    Where the key, the error's text or an answer says what stood in one of them, it does not say it any more. Where that
    cannot be told, because it is nested too deeply, nothing is kept.
    """
    try:
        return _redacted(element, [path.split(".") for path in paths])
    except Exception:
        return msgspec.structs.replace(
            element,
            input=Kept.of(UNREADABLE, element.root.input),
            found=None,
            key=REDACTED,
            failure=element.failure and _with_texts(element.failure, REDACTED, REDACTED),
            parent=None,
        )


def _redacted(element: Element[Any], paths: list[list[str]]) -> Element[Any]:
    original = _plain(element.root.input)
    found = None if element.found is None else {name: _answer(answer) for name, answer in element.found.items()}
    places = [original, _plain(element.value), found, *(found or {}).values()]
    known = {text for place in places for text in _texts_at(place, paths)}
    secrets = sorted(known, key=len, reverse=True)
    failure = element.failure
    return msgspec.structs.replace(
        element,
        input=_input(element.root.input, original, paths),
        found=found and _silent_within(_without_in_answers(found, paths), secrets),
        key=REDACTED if str(element.key) in secrets else element.key,
        failure=failure
        and _with_texts(failure, _silent(failure.message, secrets), failure.cause and _silent(failure.cause, secrets)),
        parent=None,
    )


def _with_texts(failure: Failure, message: str, cause: str | None) -> Failure:
    return msgspec.structs.replace(failure, message=message, cause=cause)


def _input(original: Any, plain: Any, paths: list[list[str]]) -> Any:
    """An input without its secret fields; as it came if it has none of them."""
    if plain is UNREADABLE:
        return Kept.of(UNREADABLE, original)
    kept = _without(plain, paths)
    return original if kept == plain and isinstance(original, bytes) else Kept.of(as_json(kept), original)


def _without_in_answers(found: dict[str, Any], paths: list[list[str]]) -> dict[str, Any]:
    """What was found, without the ends of the paths in all of it, and in each answer."""
    return {name: _without(answer, paths) for name, answer in _without(found, paths).items()}


def _silent_within(value: Any, secrets: Sequence[str]) -> Any:
    """A value whose texts and numbers say none of the secrets, however deep in it; its keys too."""
    if isinstance(value, str):
        return _without_forms(value, secrets)
    if isinstance(value, list | tuple):
        return [_silent_within(item, secrets) for item in cast(Any, value)]
    if isinstance(value, dict):
        fields = cast("dict[str, Any]", value)
        return {_silent_within(name, secrets): _silent_within(inner, secrets) for name, inner in fields.items()}
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return REDACTED if is_number and str(value) in secrets else value


def _texts_at(value: Any, paths: list[list[str]]) -> set[str]:
    """What stands at the ends of the paths, as texts."""
    if isinstance(value, list | tuple):
        return {text for item in cast(Any, value) for text in _texts_at(item, paths)}
    at_end = [] in paths
    if not isinstance(value, dict):
        return {str(value)} - {""} if at_end else set()
    return {
        text
        for name, inner in cast("dict[str, Any]", value).items()
        for text in _texts_at(inner, [[]] if at_end else [path[1:] for path in paths if path[0] == name])
    }


def _silent(text: str, secrets: Sequence[str]) -> str:
    """A text that says none of the secrets; the longest first, for one may be a part of another.

    Errors quote values as they are, as Python writes them, or as JSON; and the end of a long text is cut off.
    """
    cut = len(text) >= SERVICE_MESSAGE_LIMIT
    for secret in secrets:
        text = _without_forms(text, (secret,))
        if cut:
            for form in _forms(secret):
                text = _without_end(text, form)
    return text


def _without_forms(text: str, secrets: Sequence[str]) -> str:
    """A text in which no secret stands whole."""
    for secret in secrets:
        for form in _forms(secret):
            text = text.replace(form, REDACTED)
    return text


def _forms(secret: str) -> dict[str, None]:
    """The ways in which a text is quoted, each once."""
    quoted = (repr(secret), json.dumps(secret), json.dumps(secret, ensure_ascii=False))
    return dict.fromkeys((secret, *(form[1:-1] for form in quoted)))


def _without_end(text: str, secret: str) -> str:
    """A text that does not end with a beginning of the secret."""
    kept = next((n for n in range(len(secret) - 1, 0, -1) if text.endswith(secret[:n])), 0)
    return text[: len(text) - kept] + REDACTED if kept else text


def _plain(value: Any) -> Any:
    """A value as dicts and lists, what has no fields to look at as `REDACTED`; `UNREADABLE` if it cannot be."""
    try:
        if isinstance(value, bytes):
            return msgspec.json.decode(value)
        return msgspec.to_builtins(value, enc_hook=_unknown)
    except Exception:  # what is no JSON, in whichever way
        return UNREADABLE


def _answer(value: Any) -> Any:
    """What a service answered, as dicts and lists; one that cannot be so is not kept."""
    return REDACTED if (known := _plain(value)) is UNREADABLE else known


def _unknown(_: Any) -> str:
    return REDACTED


def _without(value: Any, paths: list[list[str]]) -> Any:
    """A value with something else at the ends of the paths."""
    if isinstance(value, list | tuple):
        return [_without(item, paths) for item in cast(Any, value)]
    if not isinstance(value, dict):
        return value
    fields = cast("dict[str, Any]", value)
    kept: dict[str, Any] = {}
    for name, inner in fields.items():
        deeper = [path[1:] for path in paths if path[0] == name]
        kept[name] = REDACTED if [] in deeper else _without(inner, deeper) if deeper else inner
    return kept
