"""Replace invalid parts of a flow file by placeholders, so that checking can continue."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

from penstock.flowfile.diagnostics import Diagnostics
from penstock.flowfile.document import Node
from penstock.flowfile.forms.form import MISSING
from penstock.flowfile.models import WORKER, FlowModel, Worker
from penstock.support.environment import Placeholder


def with_placeholders(read: FlowModel) -> FlowModel:
    """Return what was read of a flow, with placeholders for invalid parts that others refer to.

    A flow is built from it only to find further errors, and never used.
    """
    samples = read.samples or (_sample if read.has("samples") else None)
    workers = read.workers
    if workers is None and read.has("workers"):
        workers = dict(valid_workers(read.at("workers")))
    return replace(read, flow=read.flow or "flow", samples=samples, workers=workers)


def valid_workers(node: Node) -> list[tuple[str, Worker]]:
    """Return the workers that can be read; the errors of the others are reported already."""
    read = [(name, WORKER.read(worker, Diagnostics())) for name, worker in node.items()]
    return [(name, worker) for name, worker in read if worker is not MISSING]


def _sample(number: int) -> int:
    return number


PLACEHOLDER = Placeholder("http://unset")
"""It can be a URL, a part of one, and any string."""


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
