"""Remove secret fields from dead letters: from the input and from service responses."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, cast

import msgspec

from penstock.core.element import Element, Failure
from penstock.core.partial_results import not_reused, results_of_letter, service_of
from penstock.errors import SERVICE_MESSAGE_LIMIT
from penstock.support.json_encoding import encode_json

REDACTED = "[redacted]"
"""Replaces a secret value."""

UNREADABLE = b"[redacted: this input is not JSON]"
"""Replaces an input in which the secret fields cannot be identified."""


class RedactedInput(bytes):
    """An input without its secret fields."""

    length: int
    """The size of the original input in bytes."""

    @classmethod
    def of(cls, value: bytes, original: Any) -> RedactedInput:
        """Create the stored input. The size of the original is not secret."""
        raw = original if isinstance(original, bytes) else encode_json(original)
        length = getattr(raw, "length", len(raw))
        # Of another size than the original, because only then the letter is known to be incomplete.
        redacted = cls(value + b" " if len(value) == length else value)
        redacted.length = length
        return redacted


def redact(element: Element[Any], paths: Sequence[str]) -> Element[Any]:
    """Copy an element for its letter, without the fields at some paths (`card.number`), also inside lists.

    The paths are looked up in the input, in all partial results (`card.number` in the response of `card`), and in each
    partial result. A partial result from which something was removed cannot be reused. The secret values are also
    removed from the key, the error texts and the partial results. If that fails, because a value is nested too deeply,
    nothing of them is stored.
    """
    try:
        return _redact(element, [path.split(".") for path in paths])
    except Exception:
        return msgspec.structs.replace(
            element,
            input=RedactedInput.of(UNREADABLE, element.root.input),
            partial_results=None,
            kept_results=None,
            key=REDACTED,
            failure=element.failure and _with_texts(element.failure, REDACTED, REDACTED),
            parent=None,
        )


def _redact(element: Element[Any], paths: list[list[str]]) -> Element[Any]:
    original = _to_plain(element.root.input)
    kept = results_of_letter(element)
    results = None if kept is None else {name: _plain_result(result) for name, result in kept.items()}
    by_service = ({service_of(name): result} for name, result in (results or {}).items())
    roots = [original, _to_plain(element.value), *by_service, *(results or {}).values()]
    texts = {text for root in roots for text in _texts_at(root, paths)}
    secrets = sorted(texts, key=len, reverse=True)  # the longest first, because one may be a part of another
    failure = element.failure
    return msgspec.structs.replace(
        element,
        input=_redact_input(element.root.input, original, paths),
        partial_results=results and _redact_results(results, paths, secrets),
        kept_results=None,
        key=REDACTED if str(element.key) in secrets else element.key,
        failure=failure
        and _with_texts(
            failure, _mask_text(failure.message, secrets), failure.cause and _mask_text(failure.cause, secrets)
        ),
        parent=None,
    )


def _with_texts(failure: Failure, message: str, cause: str | None) -> Failure:
    return msgspec.structs.replace(failure, message=message, cause=cause)


def _redact_input(original: Any, plain: Any, paths: list[list[str]]) -> Any:
    """Remove the secret fields from an input; returns the original if it has none."""
    if plain is UNREADABLE or getattr(original, "header", None) is not None:  # a cell of a row may look like JSON
        return RedactedInput.of(UNREADABLE, original)
    redacted = _without_paths(plain, paths)
    if redacted == plain and isinstance(original, bytes):
        return original
    return RedactedInput.of(encode_json(redacted), original)


def _redact_results(results: dict[str, Any], paths: list[list[str]], secrets: Sequence[str]) -> dict[str, Any]:
    """Remove the fields at the paths, looked up by the service and in each result, and mark what was changed."""
    redacted: dict[str, Any] = {}
    for name, result in results.items():
        service = service_of(name)
        kept = _mask_value(_without_paths(_without_paths({service: result}, paths)[service], paths), secrets)
        shown = _replace_secrets(name, secrets)
        redacted[shown if kept == result else not_reused(shown)] = kept
    return redacted


def _mask_value(value: Any, secrets: Sequence[str]) -> Any:
    """Remove the secrets from all texts, numbers and keys in a value."""
    if isinstance(value, str):
        return _replace_secrets(value, secrets)
    if isinstance(value, list | tuple):
        return [_mask_value(item, secrets) for item in cast(Any, value)]
    if isinstance(value, dict):
        fields = cast("dict[str, Any]", value)
        return {_mask_value(name, secrets): _mask_value(inner, secrets) for name, inner in fields.items()}
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return REDACTED if is_number and str(value) in secrets else value


def _texts_at(value: Any, paths: list[list[str]]) -> set[str]:
    """Collect the values at the paths, as texts."""
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


def _mask_text(text: str, secrets: Sequence[str]) -> str:
    """Remove the secrets from an error text, which quotes values as they are, as Python literals or as JSON."""
    # The lowest length to which messages are cut: a longer text may end in the middle of a secret.
    may_be_cut = len(text) >= SERVICE_MESSAGE_LIMIT
    for secret in secrets:
        text = _replace_secrets(text, (secret,))
        if may_be_cut:
            for form in _quoted_forms(secret):
                text = _mask_truncated(text, form)
    return text


def _replace_secrets(text: str, secrets: Sequence[str]) -> str:
    """Replace all complete occurrences of secrets."""
    for secret in secrets:
        for form in _quoted_forms(secret):
            text = text.replace(form, REDACTED)
    return text


def _quoted_forms(secret: str) -> dict[str, None]:
    """Return the forms in which a text may be quoted, each once."""
    quoted = (repr(secret), json.dumps(secret), json.dumps(secret, ensure_ascii=False))
    return dict.fromkeys((secret, *(form[1:-1] for form in quoted)))


def _mask_truncated(text: str, secret: str) -> str:
    """Replace the beginning of a secret at the end of a text."""
    length = next((n for n in range(len(secret) - 1, 0, -1) if text.endswith(secret[:n])), 0)
    return text[: len(text) - length] + REDACTED if length else text


def _to_plain(value: Any) -> Any:
    """Convert a value to dicts and lists, with `REDACTED` for foreign objects; `UNREADABLE` if that fails."""
    try:
        if isinstance(value, bytes):
            return msgspec.json.decode(value)
        return msgspec.to_builtins(value, enc_hook=_foreign_object)
    except Exception:  # not JSON, for whatever reason
        return UNREADABLE


def _plain_result(value: Any) -> Any:
    """Convert a service response to dicts and lists; `REDACTED` if that fails."""
    return REDACTED if (plain := _to_plain(value)) is UNREADABLE else plain


def _foreign_object(_: Any) -> str:
    return REDACTED


def _without_paths(value: Any, paths: list[list[str]]) -> Any:
    """Replace the values at the paths."""
    if isinstance(value, list | tuple):
        return [_without_paths(item, paths) for item in cast(Any, value)]
    if not isinstance(value, dict):
        return value
    fields = cast("dict[str, Any]", value)
    redacted: dict[str, Any] = {}
    for name, inner in fields.items():
        deeper = [path[1:] for path in paths if path[0] == name]
        redacted[name] = REDACTED if [] in deeper else _without_paths(inner, deeper) if deeper else inner
    return redacted
