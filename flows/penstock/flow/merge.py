"""How `enrich` merges responses: into a type, or by a function that gets each response as an argument."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import msgspec

from penstock.core.operators import callable_name
from penstock.errors import FlowDefinitionError
from penstock.flow.item_type import field_hint, fields_of, item_type_error
from penstock.services.service import is_service
from penstock.steps.enrich import Merge


def services_and_merge(
    services: Sequence[Any], named: Mapping[str, Any], merge: Callable[..., Any] | None
) -> tuple[dict[str, Any], Merge | None]:
    """Return the services of a step `enrich` by name, and its merge function.

    `services` are one mapping, or services without names, which are called as themselves.
    """
    if services[0] is None or isinstance(services[0], Mapping):
        if len(services) > 1:
            raise FlowDefinitionError("enrich: expected one mapping of services, or services without names")
        return {**(services[0] or {}), **named}, merge
    if merge is None:
        raise FlowDefinitionError(
            "enrich: each service needs a name for its response: enrich(pricing=price_of); or pass a function that "
            "gets the responses: enrich(price_of, merge=lambda order, price: …)"
        )
    if named:
        raise FlowDefinitionError("enrich: expected either services with names or services without, got both")
    by_name: dict[str, Any] = {}
    for service in services:
        name = service.name if is_service(service) else callable_name(service, "service")
        by_name[name if name not in by_name else f"{name}-{len(by_name) + 1}"] = service
    return by_name, MergeArguments(merge)


def merge_into(into: Any, named: Mapping[str, Any], merge: Merge | None) -> MergeInto:
    """Return the merge function for a type. Raise `FlowDefinitionError` if it has no field for a response."""
    if merge is not None:
        raise FlowDefinitionError("enrich: into and merge exclude each other")
    error = item_type_error(into) if isinstance(into, Hashable) else "not a type"
    if error is not None:
        raise FlowDefinitionError(
            f"enrich: into: expected a type such as a TypedDict or a Struct, got {into!r}: {error}"
        )
    fields = fields_of(into)
    for name in named:
        if fields is not None and name not in fields:
            raise FlowDefinitionError(
                f"enrich: {into.__name__} has no field {name!r} for the response{field_hint(name, fields)}"
            )
    return MergeInto(cast("type[Any]", into))


@dataclass(frozen=True)
class MergeArguments:
    """Calls a function with the value and each response."""

    function: Callable[..., Any]

    def __call__(self, value: Any, responses: dict[str, Any]) -> Any:
        return self.function(value, *responses.values())


@dataclass(frozen=True)
class MergeInto:
    """Converts the fields of the value and the responses to a type."""

    type: type[Any]

    def __call__(self, value: Any, responses: dict[str, Any]) -> Any:
        return msgspec.convert({**_fields(value), **responses}, self.type, from_attributes=True)


def _fields(value: Any) -> Mapping[str, Any]:
    if isinstance(value, Mapping):
        return cast("Mapping[str, Any]", value)
    if isinstance(value, msgspec.Struct):
        return msgspec.structs.asdict(value)
    return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
