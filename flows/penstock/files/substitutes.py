"""A flow file with mistakes, made whole as far as it goes: what is wrong in one part hides nothing in the others."""

from __future__ import annotations

from typing import Any

from penstock.files.mistakes import Mistakes
from penstock.files.model import WORKER
from penstock.files.node import Node
from penstock.files.records import Read
from penstock.files.shapes import MISSING


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
    read: list[tuple[str, Any]] = [(name, WORKER.read(worker, Mistakes())) for name, worker in node.items()]
    return [(name, worker) for name, worker in read if worker is not MISSING]


def _sample(number: int) -> int:
    return number
