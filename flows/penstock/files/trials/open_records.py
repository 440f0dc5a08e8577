"""The shape of a mapping that has fields of its own and, beside them, whatever a user puts there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from penstock.files.mistakes import Mistakes
from penstock.files.node import Kind, Node
from penstock.files.records import Field, Read, Record
from penstock.files.shapes import MISSING, Missing, Schema, Shape


@dataclass(frozen=True, slots=True)
class OpenRead:
    """A record that was read, and what stands beside its fields."""

    fields: Read
    others: Mapping[str, Any]
    node: Node


@dataclass(frozen=True, slots=True)
class OpenRecord(Shape):
    """A mapping with these fields, and beside them any others, which are plain values."""

    fields: Mapping[str, Field]

    @property
    def kinds(self) -> frozenset[Kind]:
        return frozenset({"mapping"})

    @property
    def wanted(self) -> str:
        return "a mapping"

    def read(self, node: Node, mistakes: Mistakes, /) -> OpenRead | Missing:
        if node.kind != "mapping":
            return self.refuse(node, mistakes)
        own = Node("mapping", tuple(pair for pair in node.value if pair[0].value in self.fields), node.place)
        read = Record(self.fields).read(own, mistakes)
        others = {name: value.plain() for name, value in node.items() if name not in self.fields}
        return MISSING if read is MISSING else OpenRead(read, others, node)

    def rules(self, definitions: dict[str, Schema], /) -> Schema:
        return {**Record(self.fields).rules(definitions), "additionalProperties": True}
