"""Reject values: fail those for which a condition is true, with a reason."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, cast

from penstock.core.element import FAILED, Element, Failure, Operator
from penstock.core.operators import ERRORS, callable_name, sync_operator
from penstock.errors import InvalidItem, describe
from penstock.expressions import as_predicate
from penstock.services.template import Text, parse_fields
from penstock.steps.slices import in_slices
from penstock.steps.step import Step, check_function, describe_function
from penstock.support.environment import variable_names
from penstock.support.json_encoding import encode_json
from penstock.support.tasks import reject_awaitable

DEFAULT_TYPE = "Rejected"
"""Default of `type`."""

TYPE_PATTERN = "[A-Za-z_][A-Za-z0-9_]{0,63}"
"""The pattern of a type of failures."""


@dataclass(frozen=True)
class Fail(Step):
    """Fail the values for which a plain, quick condition is true; without a condition, fail all values.

    `reason` becomes the message of the failure. A text is taken literally, except that `{field}` stands for a field of
    the value (`{card.number}` for a field of a field) and `{{` for a brace; a function computes it from the value.
    If the reason cannot be computed, the value fails with the same type, and the message says so.

    **Accepts** elements. **Backpressures when** never. **Emits** each element; rejected ones as failed.
    **Completes when** its input completes.

    >>> step = Fail(lambda order: order["quantity"] < 1, reason="quantity {quantity} is below 1", type="BadQuantity")
    """

    when: Callable[[Any], object] | None = None
    reason: str | Callable[[Any], object] = field(kw_only=True)
    type: str = field(default=DEFAULT_TYPE, kw_only=True)

    kind = "fail"

    def __post_init__(self) -> None:
        if self.when is not None:
            check_function("fail: when", self.when)
        if isinstance(self.reason, str):
            Template(self.reason)
        else:
            check_function("fail: reason", self.reason)
        if not re.fullmatch(TYPE_PATTERN, self.type):
            raise ValueError(f"type: expected a name of at most 64 letters, digits and _, got {self.type!r}")
        super().__post_init__()

    def operator(self) -> Operator[Any, Any]:
        name = self.name
        message = Template(self.reason) if isinstance(self.reason, str) else self.reason
        reject = _Rejection(name, self.type, message)

        def work_all(elements: list[Element[Any]]) -> None:
            for element in elements:
                if element.outcome is None:
                    reject(element)

        if self.when is None:
            return in_slices(name, sync_operator(name, work_all), self.reason)
        condition = as_predicate(self.when)

        def work(elements: list[Element[Any]]) -> None:
            for element in elements:
                if element.outcome is None:
                    try:
                        verdict = condition(element.value)
                        if not verdict:
                            continue
                        if verdict is not True:
                            reject_awaitable(verdict, "the condition")
                    except ERRORS as error:
                        element.fail(name, error)
                    else:
                        reject(element)

        return in_slices(name, sync_operator(name, work), self.when, self.reason)

    @property
    def default_name(self) -> str:
        return "fail" if self.when is None else callable_name(self.when, "fail")

    def summary(self) -> tuple[str, ...]:
        condition = () if self.when is None else describe_function(self.when, self.name)
        message = f"{self.type}: {self.reason}" if isinstance(self.reason, str) else self.type
        return (*(f"if {text}" for text in condition), message)


class Template:
    """A text with placeholders for fields: `quantity {quantity} is below 1`. Raises `ValueError` if it is invalid."""

    __slots__ = ("_pieces", "text")

    def __init__(self, text: str) -> None:
        if not text.strip():
            raise ValueError("reason: expected a text that is not empty")
        if variable_names(text):
            raise ValueError(
                f"reason: ${{{variable_names(text)[0]}}} is not filled in, because reasons are stored "
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
            reject_awaitable(reason, "the reason")
            failure = Failure.rejected(self._name, self._type, _shown(reason) or self._type)
        except ERRORS as error:
            text = getattr(self._reason, "text", None) or callable_name(self._reason, "reason")
            failure = Failure.rejected(self._name, self._type, f"{text} (cannot be computed: {describe(error)})", error)
        element.outcome = FAILED
        element.failure = failure


def _field_of(value: Any, path: str) -> Any:
    """Return a key of a mapping or an attribute, by its path. Raises `InvalidItem` if it is missing."""
    found = value
    for part in path.split("."):
        try:
            found = cast("Mapping[str, Any]", found)[part] if isinstance(found, Mapping) else getattr(found, part)
        except (KeyError, AttributeError):
            raise InvalidItem(f"the value has no field {path}") from None
    return found


def _shown(value: object) -> str:
    """Return a text as it is, any other value as JSON."""
    return value if isinstance(value, str) else encode_json(value).decode()
