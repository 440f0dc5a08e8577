"""The memory bound of a flow: how many elements, and how many bytes, one run of it can hold at the most.

Elements are counted exactly, and a run that ever held more would be reported as a bug. Bytes are those of values as
JSON: what came in, and what services answered. What Python needs around them (some five times as much) and what
functions of your own make is not in it; those functions are named.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from penstock.services import Service
from penstock.services.http_service import HttpRequestSpec
from penstock.steps.step import NamedStep, walk


@dataclass(frozen=True, slots=True)
class MemoryUse:
    """What one step adds: elements that are parts of others, and bytes."""

    step: str
    elements: int
    bytes: int
    why: str
    open: tuple[str, ...] = ()
    """Functions whose results have no limit in bytes."""


@dataclass(frozen=True, slots=True)
class MemoryBound:
    """The worst case of one run."""

    parts: tuple[MemoryUse, ...]

    @property
    def elements(self) -> int:
        """Elements in all."""
        return sum(part.elements for part in self.parts)

    @property
    def bytes(self) -> int:
        """Bytes in all."""
        return sum(part.bytes for part in self.parts)

    @property
    def open(self) -> tuple[str, ...]:
        """The functions whose results have no limit, each once."""
        return tuple(dict.fromkeys(name for part in self.parts for name in part.open))


def bound_of(steps: Iterable[NamedStep], *, elements: int, bytes: int) -> MemoryBound:
    """The bound of a flow with these steps and this window, in whichever order its results come."""
    parts = [MemoryUse("source", elements, bytes, f"the window: {elements} elements, and their input")]
    held = elements
    for step in walk(steps):
        added = _part_of(step, held)
        if added is not None:
            parts.append(added)
            held += added.elements
    return MemoryBound(tuple(parts))


def _part_of(step: NamedStep, held: int) -> MemoryUse | None:
    """What a step adds when up to `held` elements reach it."""
    match step.kind:
        case "flat_map":
            most: int = step.options["max_parts"]
            why = f"max_parts: {most}, and in order one for each of {held} that may wait for their turn"
            return MemoryUse(step.name, most + held, 0, why, (step.name,))
        case "through":
            most = step.options["max_parts"]
            return MemoryUse(step.name, held * most, 0, f"max_parts: {most} of each", (step.name,))
        case "step":
            return MemoryUse(
                step.name, step.options["max_parts"], 0, "max_parts of an operator of your own", (step.name,)
            )
        case "map_async" | "enrich" | "batch":
            limited = [service for service in step.services if isinstance(service.function, HttpRequestSpec)]
            size = sum(held * limit_of(service) for service in limited)
            names = tuple(service.name for service in step.services if service not in limited)
            why = f"an answer for each of {held}" if limited else "answers of functions"
            return MemoryUse(step.name, 0, size, why, names)
        case _:
            return None


def limit_of(service: Service) -> int:
    """Bytes that an answer of a service over HTTP may have."""
    call = service.function
    return call.limit if isinstance(call, HttpRequestSpec) else 0
