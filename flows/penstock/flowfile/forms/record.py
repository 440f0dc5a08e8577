"""Forms of mappings with named keys, read as frozen dataclasses."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar, cast

from penstock.flowfile.diagnostics import Diagnostics, SourceLocation
from penstock.flowfile.document import Kind, Node, node_of, quoted
from penstock.flowfile.forms.form import MISSING, Form, Missing, Schema, joined

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Key:
    """A key of a record: its form, and the value that stands for it when it is left out, as one would write it."""

    form: Form[Any]
    required: bool = False
    description: str = ""
    default: Any = None
    name: str = ""
    """The key in the file, if it differs from the name of the attribute."""

    def read(self, name: str, node: Node, diagnostics: Diagnostics) -> Any:
        """Return the value of this key in a mapping."""
        value = node.get(name)
        if value is not None:
            subject, diagnostics.subject = diagnostics.subject, name
            read = self.form.read(value, diagnostics)
            diagnostics.subject = subject
            return read
        if self.required:
            expected = self.form.expected
            diagnostics.add(node, f"missing {quoted(name)}: expected {expected}", expected=expected)
            return MISSING
        return self.left_out()

    def left_out(self) -> Any:
        """Return the value of a key that is left out."""
        if self.default is None:
            return None
        diagnostics = Diagnostics()
        value = self.form.read(node_of(self.default, SourceLocation("default", 1, 1)), diagnostics)
        if diagnostics:
            raise ValueError(f"invalid default {self.default!r}: {next(iter(diagnostics))}")
        return value

    def schema_part(self, definitions: dict[str, Schema]) -> Schema:
        """Return the schema of the value, with its description and default."""
        part = self.form.schema_part(definitions)
        part |= {"description": self.description} if self.description else {}
        return part | ({"default": self.default} if self.default is not None else {})


def required(form: Form[T], description: str = "", *, key: str = "") -> T:
    """Declare a key that must be there. `key` is its name, if that is not the name of the attribute."""
    declared: T = _declared(Key(form, required=True, description=description, name=key))
    return declared


def optional(form: Form[T], description: str = "", *, key: str = "") -> T | None:
    """Declare a key that may be left out; the attribute is None then."""
    declared: T | None = _declared(Key(form, description=description, name=key))
    return declared


def defaulted(form: Form[T], default: Any, description: str = "", *, key: str = "") -> T:
    """Declare a key with a default, written as in a file."""
    declared: T = _declared(Key(form, description=description, default=default, name=key))
    return declared


def _declared(key: Key) -> Any:
    return dataclasses.field(default=key.left_out(), metadata={"key": key})


@dataclass(frozen=True, slots=True, kw_only=True)
class Located:
    """The base of records that are read from a mapping: they know its node, for the locations of later errors."""

    node: Node = dataclasses.field(default=Node("mapping", (), SourceLocation("", 0, 0)), compare=False, repr=False)

    def has(self, key: str) -> bool:
        """Return whether a key is in the file."""
        return self.node.get(key) is not None

    def at(self, key: str) -> Node:
        """Return the node of a key's value, or of the mapping if the key is left out."""
        return self.node.get(key) or self.node


R = TypeVar("R", bound=Located, covariant=True)


_KEYS: dict[type[Located], Mapping[str, tuple[str, Key]]] = {}


def keys_of(model: type[Located]) -> Mapping[str, tuple[str, Key]]:
    """Return the declared keys of a record, with the attribute of each."""
    if model in _KEYS:
        return _KEYS[model]
    declared = [(field.name, field.metadata["key"]) for field in dataclasses.fields(model) if "key" in field.metadata]
    _KEYS[model] = {key.name or attribute: (attribute, key) for attribute, key in declared}
    return _KEYS[model]


@dataclass(frozen=True, slots=True)
class Record(Form[R], Generic[R]):
    """A mapping with the keys that a dataclass declares and no others.

    `short` is the key whose value may be written alone: with `short="rate"`, `10/s` is read as `{rate: 10/s}`.
    `replaced` are other forms for some keys.
    """

    model: type[R]
    short: str | None = None
    replaced: Mapping[str, Form[Any]] = dataclasses.field(default_factory=dict[str, Form[Any]])

    @property
    def keys(self) -> dict[str, Key]:
        """The keys, by name."""
        return {name: key for name, (_, key) in self._declared.items()}

    @property
    def _declared(self) -> Mapping[str, tuple[str, Key]]:
        declared = keys_of(self.model)
        if not self.replaced:
            return declared
        return {
            name: (attribute, dataclasses.replace(key, form=self.replaced[name]) if name in self.replaced else key)
            for name, (attribute, key) in declared.items()
        }

    @property
    def json_types(self) -> frozenset[Kind]:
        mapping = frozenset[Kind]({"mapping"})
        return mapping if self.short is None else mapping | self._short_form.json_types

    @property
    def expected(self) -> str:
        return "a mapping" if self.short is None else f"{self._short_form.expected} or a mapping"

    @property
    def _short_form(self) -> Form[Any]:
        assert self.short is not None
        return keys_of(self.model)[self.short][1].form

    def read(self, node: Node, diagnostics: Diagnostics, /) -> R | Missing:
        if node.kind == "mapping":
            record, complete = self.parts(node, diagnostics)
            return record if complete else MISSING

        if node.kind not in self.json_types:
            return self.reject(node, diagnostics)
        assert self.short is not None
        value = self._short_form.read(node, diagnostics)
        if value is MISSING:
            return MISSING
        values = {attribute: key.left_out() for attribute, key in keys_of(self.model).values()}
        return self.model(**values | {keys_of(self.model)[self.short][0]: value}, node=node)

    def parts(self, node: Node, diagnostics: Diagnostics) -> tuple[R, bool]:
        """Return the readable parts of a mapping, and whether that is all; an invalid value is left out."""
        declared = self._declared
        unknown = report_unknown(node, declared, diagnostics)
        values = {attribute: key.read(name, node, diagnostics) for name, (attribute, key) in declared.items()}
        complete = not unknown and not any(value is MISSING for value in values.values())
        known = {name: None if value is MISSING else value for name, value in values.items()}
        return self.model(**known, node=node), complete

    def json_schema(self, definitions: dict[str, Schema], /) -> Schema:
        rules = mapping_rules(self.keys, definitions)
        return rules if self.short is None else joined([self._short_form.schema_part(definitions), rules])


@dataclass(frozen=True, slots=True)
class OpenRecord(Form[R], Generic[R]):
    """A mapping with the keys that a dataclass declares and any others, whose plain values go into `others`."""

    model: type[R]

    @property
    def keys(self) -> dict[str, Key]:
        """The declared keys, by name."""
        return Record(self.model).keys

    @property
    def json_types(self) -> frozenset[Kind]:
        return frozenset({"mapping"})

    @property
    def expected(self) -> str:
        return "a mapping"

    def read(self, node: Node, diagnostics: Diagnostics, /) -> R | Missing:
        if node.kind != "mapping":
            return self.reject(node, diagnostics)
        declared = keys_of(self.model)
        values = {attribute: key.read(name, node, diagnostics) for name, (attribute, key) in declared.items()}
        if any(value is MISSING for value in values.values()):
            return MISSING
        others = {name: value.plain() for name, value in node.items() if name not in declared}
        made: R = cast("Any", self.model)(**values, others=others, node=node)
        return made

    def json_schema(self, definitions: dict[str, Schema], /) -> Schema:
        return {**mapping_rules(self.keys, definitions), "additionalProperties": True}


def report_unknown(node: Node, known: Iterable[str], diagnostics: Diagnostics) -> bool:
    """Add an error for each key of a mapping that is not known. Returns whether there are any."""
    known = list(known)
    unknown = [key for key, _ in node.value if key.value not in known]
    for key in unknown:
        diagnostics.unknown(key, "key", known)
    return bool(unknown)


def mapping_rules(keys: Mapping[str, Key], definitions: dict[str, Schema]) -> Schema:
    """Return the schema of a mapping with these keys and no others."""
    needed = [name for name, key in keys.items() if key.required]
    return {
        "type": "object",
        "properties": {name: key.schema_part(definitions) for name, key in keys.items()},
        **({"required": needed} if needed else {}),
        "additionalProperties": False,
    }
