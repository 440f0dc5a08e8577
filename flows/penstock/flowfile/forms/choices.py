"""Forms of one of several values, distinguished by the kind of the value or by the one key of a mapping."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Generic

from penstock.flowfile.diagnostics import Diagnostics
from penstock.flowfile.document import Kind, Node, quoted
from penstock.flowfile.forms.containers import ListOf
from penstock.flowfile.forms.form import MISSING, Form, Missing, Schema, T, T_co, joined
from penstock.flowfile.forms.record import Key, R, keys_of, mapping_rules


@dataclass(frozen=True, slots=True)
class Either(Form[T_co]):
    """One of several forms, chosen by the kind of the node; so no two of them may accept the same kind.

    `hint` says in messages what to write instead of a value of another kind.
    """

    forms: tuple[Form[T_co], ...]
    hint: str | None = None

    def __init__(self, *forms: Form[T_co], description: str = "", hint: str | None = None) -> None:
        object.__setattr__(self, "forms", forms)
        object.__setattr__(self, "hint", hint)
        object.__setattr__(self, "description", description)

    @property
    def json_types(self) -> frozenset[Kind]:
        all: list[Kind] = [kind for form in self.forms for kind in form.json_types]
        if len(set(all)) < len(all):
            raise ValueError(f"the forms of an Either must differ in kind, got {self.expected}")
        return frozenset(all)

    @property
    def expected(self) -> str:
        return " or ".join(form.expected for form in self.forms)

    def read(self, node: Node, diagnostics: Diagnostics, /) -> T_co | Missing:
        if node.kind not in self.json_types:
            return self.reject(node, diagnostics, self.hint)
        return next(form for form in self.forms if node.kind in form.json_types).read(node, diagnostics)

    def json_schema(self, definitions: dict[str, Schema], /) -> Schema:
        if not self.json_types:
            raise ValueError("an Either needs at least one form")
        return joined([form.schema_part(definitions) for form in self.forms])


def one_or_more(form: Form[T], *, description: str = "") -> Form[tuple[T, ...]]:
    """Return the form of one value or a list of them, read as a tuple."""
    several: ListOf[T] = ListOf(form, min=1)
    alternatives: tuple[Form[T], ...] = form.forms if isinstance(form, Either) else (form,)
    return Either(*(alone.then(_in_tuple) for alone in alternatives), several, description=description)


def _in_tuple(value: T) -> tuple[T, ...]:
    return (value,)


@dataclass(frozen=True, slots=True)
class Chosen(Generic[R]):
    """The value that was read under the one key of a `OneKey`."""

    kind: str
    """The key."""
    key: Node
    value: Any
    at: Node
    """The node of the value."""
    beside: R
    """The other keys of the mapping."""


@dataclass(frozen=True, slots=True)
class OneKey(Form[Chosen[R]], Generic[R]):
    """A mapping with exactly one of several keys, which says what it is, and the keys of a record beside it.

    `noun` is what a key is called in messages. `separate` says how to write two of them. `needs` are the keys beside an
    alternative that must be there.
    """

    alternatives: Mapping[str, Form[Any]]
    beside: type[R]
    noun: str = "key"
    separate: str = "exclude each other: remove one"
    needs: Mapping[str, tuple[str, ...]] = field(default_factory=dict[str, tuple[str, ...]])

    def __post_init__(self) -> None:
        if both := set(self.alternatives) & set(keys_of(self.beside)):
            raise ValueError(f"{', '.join(sorted(both))}: expected either an alternative or a key beside it")

    @property
    def json_types(self) -> frozenset[Kind]:
        return frozenset({"mapping"})

    @property
    def expected(self) -> str:
        return f"a mapping with one of {', '.join(self.alternatives)}"

    def read(self, node: Node, diagnostics: Diagnostics, /) -> Chosen[R] | Missing:
        if node.kind != "mapping":
            return self.reject(node, diagnostics)

        options = keys_of(self.beside)
        pairs: list[tuple[Node, Node]] = [pair for pair in node.value if pair[0].value in self.alternatives]
        unknown = [key for key, _ in node.value if key.value not in self.alternatives and key.value not in options]
        for key in unknown:
            noun, names = ("key", options) if pairs else (self.noun, self.alternatives)
            diagnostics.unknown(key, noun, names, similar=[*self.alternatives, *options])
        values = [Key(self.alternatives[key.value]).read(key.value, node, diagnostics) for key, _ in pairs]
        beside = {attribute: option.read(name, node, diagnostics) for name, (attribute, option) in options.items()}
        if not pairs and not unknown:
            self.reject(node, diagnostics)
        for key, _ in pairs[1:]:
            message = f"{pairs[0][0].shown()} and {key.shown()} {self.separate}"
            diagnostics.add(key, message, expected=f"one {self.noun}")
        missing = [name for name in self._needs_of(pairs) if node.get(name) is None]
        for name in missing:
            expected = options[name][1].form.expected
            diagnostics.add(node, f"missing {quoted(name)}: {pairs[0][0].value} needs {expected}", expected=expected)
        if len(pairs) != 1 or unknown or missing or any(value is MISSING for value in (*values, *beside.values())):
            return MISSING
        key, at = pairs[0]
        return Chosen(key.value, key, values[0], at, self.beside(**beside, node=node))

    def json_schema(self, definitions: dict[str, Schema], /) -> Schema:
        keys = {name: Key(form) for name, form in self.alternatives.items()}
        beside = {name: key for name, (_, key) in keys_of(self.beside).items()}
        message = f"expected {self.expected}"  # without it editors say that the first of the keys is missing
        one = [{"required": [name], "errorMessage": message} for name in self.alternatives]
        needs = {name: list(needed) for name, needed in self.needs.items() if needed}
        return {
            **mapping_rules({**keys, **beside}, definitions),
            "oneOf": one,
            **({"dependentRequired": needs} if needs else {}),
        }

    def _needs_of(self, pairs: list[tuple[Node, Node]]) -> tuple[str, ...]:
        return self.needs.get(pairs[0][0].value, ()) if len(pairs) == 1 else ()
