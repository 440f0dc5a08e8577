"""Plain data, as YAML and JSON can represent it, for parts of flows that are dumped."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterable, Mapping
from typing import Any, cast

from penstock.errors import FlowDefinitionError
from penstock.expressions import Assign, Expression, Fields
from penstock.flowfile.field_types import Duration, Size
from penstock.flowfile.forms.form import Form
from penstock.flowfile.forms.record import Located, keys_of
from penstock.flowfile.quantities import show_duration, show_size

Plain = Any
"""Data that YAML and JSON can represent."""


def dump_function(function: Any, variable: str = "value") -> Plain:
    """Return a function as it is written: an expression, a mapping of expressions, or a reference."""
    if isinstance(function, Expression):
        if function.variable != variable:
            raise FlowDefinitionError(
                f"expression {function.text!r}: expected the variable {variable}, got {function.variable}"
            )
        return function.text
    if isinstance(function, (Fields, Assign)):
        return {name: dump_function(expression, variable) for name, expression in function.fields.items()}
    return reference_of(function)


def drop_none(values: Mapping[str, Plain]) -> dict[str, Plain]:
    """Return the values without those that are None."""
    return {name: value for name, value in values.items() if value is not None}


def dump_options(made: Any, options: type[Located], names: Iterable[str]) -> dict[str, Plain]:
    """Return options of a dataclass that was made from keys of a record, without those that have their default."""
    defaults = {field.name: _default_of(field) for field in dataclasses.fields(made)}
    dumped: dict[str, Plain] = {}
    for name in names:
        attribute, key = keys_of(options)[name]
        value = getattr(made, attribute)
        if value is not None and value != defaults[attribute]:
            dumped[name] = _dump_value(key.form, value)
    return dumped


def reference_of(function: Any) -> str:
    """Return the `module:name` of a Python object. Raises `FlowDefinitionError` if it cannot be imported by that."""
    module = str(getattr(function, "__module__", "__main__"))
    name = str(getattr(function, "__qualname__", "?"))
    found: Any = sys.modules.get(module)
    for part in name.split("."):
        found = getattr(found, part, None)
    if found is not function or module == "__main__":
        raise FlowDefinitionError(
            f"{function!r} cannot be imported by its name; define it with def or class at the top of a module, "
            "or write it as an expression"
        )
    return f"{module}:{name}"


def _default_of(field: dataclasses.Field[Any]) -> Any:
    return field.default if field.default_factory is dataclasses.MISSING else field.default_factory()


def _dump_value(form: Form[Any], value: Any) -> Plain:
    match form:
        case Duration():
            return show_duration(value)
        case Size():
            return show_size(value)
        case _ if isinstance(value, Mapping):
            return {name: dump_function(one) for name, one in cast("Mapping[str, Any]", value).items()}
        case _ if isinstance(value, tuple):
            return list(cast("Any", value))
        case _ if callable(value):
            return dump_function(value)
        case _:
            return str(value) if isinstance(value, str) else value  # a member of a StrEnum is not plain
