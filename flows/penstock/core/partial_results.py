"""The results of the steps `enrich` that an element has when it fails: kept with the dead letter, reused by a redrive.

In a dead letter they are named after the service: `pricing`. For a step that has another name than `enrich`, that
name stands in front: `offer: pricing`. A result that cannot be reused ends with ` (not reused)`: a Struct, a time, or
anything else that JSON does not return as it was, and a result from which fields were redacted.
"""

from __future__ import annotations

import marshal
from collections.abc import Iterable, Mapping, Sequence
from itertools import repeat
from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from penstock.core.element import Element

DEFAULT_STEP = "enrich"
"""The step whose results are named after the service alone. Names of steps are unique within a flow."""

NOT_REUSED = " (not reused)"
"""The end of the name of a result that a redrive cannot reuse."""

_SEPARATOR = ": "

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder().decode


def name_results(step: str, results: Mapping[str, Any]) -> dict[str, Any]:
    """Return results by service as partial results of a step. Marks those that cannot be reused."""
    prefix = _prefix(step)
    return {f"{prefix}{service}{'' if is_plain(result) else NOT_REUSED}": result for service, result in results.items()}


def results_of(step: str, services: Iterable[str], partial_results: Mapping[str, Any]) -> dict[str, Any]:
    """Return the partial results of a step that can be reused, by service."""
    prefix = _prefix(step)
    return {service: partial_results[name] for service in services if (name := f"{prefix}{service}") in partial_results}


def without_results_of(step: str, services: Iterable[str], partial_results: dict[str, Any]) -> dict[str, Any] | None:
    """Return the partial results of other steps, or None."""
    prefix = _prefix(step)
    names = {f"{prefix}{service}{end}" for service in services for end in ("", NOT_REUSED)}
    return {name: result for name, result in partial_results.items() if name not in names} or None


def keep_result(step: str, services: Sequence[str], element: Element[Any], responses: Iterable[Any]) -> None:
    """Keep the responses of the services of a step with an element, for the dead letters of later steps.

    Most elements do not fail, so the responses are not named and not checked yet. One tuple has the step, the names of
    its services, what was kept before, and the responses.
    """
    element.kept_results = (step, services, element.kept_results, *responses)


def keep_results(
    step: str, services: Sequence[str], elements: Sequence[Element[Any]], columns: Sequence[Sequence[Any]]
) -> None:
    """Keep the responses of several elements; a column has those of one service. See `keep_result`."""
    earlier = [element.kept_results for element in elements]
    records = zip(repeat(step), repeat(services), earlier, *columns, strict=False)
    for element, record in zip(elements, records, strict=True):
        element.kept_results = record


def results_of_letter(element: Element[Any]) -> dict[str, Any] | None:
    """Return all partial results for the dead letter of an element; None without any.

    A part has those that its root had before it was divided. Its own are marked: a redrive divides again, and the parts
    may be others.
    """
    if element.parent is None:
        return _with_kept(element.kept_results, element.partial_results)
    root = element.root
    results = _with_kept(root.kept_results, root.partial_results) or {}
    reused = {name: result for name, result in results.items() if not name.endswith(NOT_REUSED)}
    own = _with_kept(element.kept_results, element.partial_results) or {}
    return reused | {not_reused(name): result for name, result in own.items()} or None


def _with_kept(kept: tuple[Any, ...] | None, results: dict[str, Any] | None) -> dict[str, Any] | None:
    """Return partial results with those kept before, in the order of the steps."""
    while kept is not None:
        step, services, kept, *responses = kept
        results = name_results(step, dict(zip(services, responses, strict=True))) | (results or {})
    return results


def service_of(name: str) -> str:
    """Return the service that returned a partial result, from the name of the result."""
    return name.removesuffix(NOT_REUSED).rpartition(_SEPARATOR)[2]


def not_reused(name: str) -> str:
    """Return the name of a partial result that cannot be reused."""
    return name if name.endswith(NOT_REUSED) else name + NOT_REUSED


def is_plain(value: Any) -> bool:
    """Return whether JSON returns a value as it was: the same values of the same types.

    `marshal` only serves as a check: it rejects subclasses of the built-in types, such as an Enum of texts. Both run in
    C, which takes two thirds of the time of a visit to all values (1 µs for a small response).
    """
    try:
        marshal.dumps(value)
        return bool(_decode(_encode(value)) == value)
    except Exception:  # other types, lone surrogates, too many levels
        return False


def _prefix(step: str) -> str:
    return "" if step == DEFAULT_STEP else f"{step}{_SEPARATOR}"
