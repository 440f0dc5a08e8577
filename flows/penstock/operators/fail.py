"""Reject values: fail those for which a condition is true, with a reason."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, TypeVar, cast

from penstock.any_json import as_json
from penstock.awaitables import refuse_awaitable
from penstock.element import FAILED, Element, Failure, Step
from penstock.environment import variables
from penstock.errors import Invalid, describe
from penstock.operators.each import ERRORS, each, name_of
from penstock.services.template import Text, parse_fields

A = TypeVar("A")

REJECTED = "Rejected"
"""The type of the failures, unless the step names another one."""

TYPE = "[A-Za-z_][A-Za-z0-9_]{0,63}"
"""The pattern of a type of failures."""


def fail(
    when: Callable[[A], object] | None = None,
    *,
    reason: str | Callable[[A], object],
    type: str = REJECTED,
    name: str | None = None,
) -> Step[A, A]:
    """Fail the values for which a plain, quick condition is true; without a condition, fail all values.

    `reason` becomes the message of the failure. A text is taken literally, except that `{field}` stands for a field of
    the value (`{card.number}` for a field of a field) and `{{` for a brace; a function computes it from the value.
    A reason that cannot be computed does not save the value: it fails with the same type, and the message says so.

    **Accepts** elements. **Backpressures when** never. **Emits** each element; rejected ones as failed.
    **Completes when** its input completes.

    >>> step = fail(lambda order: order["quantity"] < 1, reason="quantity {quantity} is below 1", type="BadQuantity")
    """
    name = name or (name_of(when, "fail") if when is not None else "fail")
    if not re.fullmatch(TYPE, type):
        raise ValueError(f"type: expected a name of at most 64 letters, digits and _, got {type!r}")
    message = Template(reason) if isinstance(reason, str) else reason
    reject = _Rejection(name, type, message)

    def work_all(elements: list[Element[Any]]) -> None:
        for element in elements:
            if element.outcome is None:
                reject(element)

    if when is None:
        return each(name, work_all)
    condition = when

    def work(elements: list[Element[Any]]) -> None:
        for element in elements:
            if element.outcome is None:
                try:
                    verdict = condition(element.value)
                    if not verdict:
                        continue
                    if verdict is not True:
                        refuse_awaitable(verdict, "the condition")
                except ERRORS as error:
                    element.fail(name, error)
                else:
                    reject(element)

    return each(name, work)


class Template:
    """A text with places for fields: `quantity {quantity} is below 1`. Raises `ValueError` if it is wrong."""

    __slots__ = ("_pieces", "text")

    def __init__(self, text: str) -> None:
        if not text.strip():
            raise ValueError("reason: expected a text that is not empty")
        if variables(text):
            raise ValueError(
                f"reason: variables such as ${{{variables(text)[0]}}} are not filled in, because reasons are stored "
                "with dead letters and sent to clients; {field} stands for a field of the value"
            )
        self.text = text
        try:
            self._pieces = list(parse_fields(text))
        except ValueError as error:
            raise ValueError(f"reason: {error}") from None

    def __call__(self, value: Any) -> str:
        return "".join(
            piece.text if isinstance(piece, Text) else _shown(_field_of(value, piece.name)) for piece in self._pieces
        )


class _Rejection:
    """Marks elements as failed, with the reason for each."""

    __slots__ = ("_name", "_reason", "_type")

    def __init__(self, name: str, type: str, reason: Callable[[Any], object]) -> None:
        self._name = name
        self._type = type
        self._reason = reason

    def __call__(self, element: Element[Any]) -> None:
        try:
            reason = self._reason(element.value)
            refuse_awaitable(reason, "the reason")
            failure = Failure.rejected(self._name, self._type, _shown(reason) or self._type)
        except ERRORS as error:
            text = getattr(self._reason, "text", None) or name_of(self._reason, "reason")
            failure = Failure.rejected(self._name, self._type, f"{text} (cannot be computed: {describe(error)})", error)
        element.outcome = FAILED
        element.failure = failure


def _field_of(value: Any, path: str) -> Any:
    """A field of a mapping or an attribute, or a field of a field; raises `Invalid` if there is none."""
    found = value
    for part in path.split("."):
        try:
            found = cast("Mapping[str, Any]", found)[part] if isinstance(found, Mapping) else getattr(found, part)
        except (KeyError, AttributeError):
            raise Invalid(f"the value has no field {path}") from None
    return found


def _shown(value: object) -> str:
    """A text as it is, anything else as JSON."""
    return value if isinstance(value, str) else as_json(value).decode()
