"""A flow file with mistakes, made whole as far as it goes: what is wrong in one part hides nothing in the others."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from penstock.flowfile.diagnostics import Diagnostics
from penstock.flowfile.document import Node
from penstock.flowfile.forms.form import MISSING
from penstock.flowfile.forms.record import Read
from penstock.flowfile.models import WORKER
from penstock.support.environment import Placeholder


def with_substitutes(read: Read) -> Read:
    """What could be read of a flow, with something in the place of what others refer to: nobody is to miss it.

    A flow is made of it only to find further mistakes, and never given out.
    """
    values = {**read.values, "flow": read["flow"] or "flow"}
    if "samples" in read and read["samples"] is None:
        values["samples"] = _sample
    if "workers" in read and read["workers"] is None:
        values["workers"] = dict(workers_in(read.at("workers")))
    return Read(read.node, values)


def workers_in(node: Node) -> list[tuple[str, Read]]:
    """Those workers that can be read; what is wrong with the others has been told."""
    read: list[tuple[str, Any]] = [(name, WORKER.read(worker, Diagnostics())) for name, worker in node.items()]
    return [(name, worker) for name, worker in read if worker is not MISSING]


def _sample(number: int) -> int:
    return number


PLACEHOLDER = Placeholder("http://unset")
"""It can stand for an address, for a part of one, and for any text."""


class PlaceholderEnvironment(Mapping[str, str]):
    """An environment in which every variable is set."""

    def __init__(self, known: Mapping[str, str]) -> None:
        self._known = known

    def __getitem__(self, name: str) -> str:
        return self._known.get(name) or PLACEHOLDER

    def __iter__(self) -> Iterator[str]:
        return iter(self._known)

    def __len__(self) -> int:
        return len(self._known)
