"""Limits on the size of flow files. A file within these limits is checked in about a second."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from penstock.flowfile.diagnostics import Diagnostics, SourceLocation
from penstock.flowfile.document import Node

MAX_BYTES = 1 << 20
"""Bytes of a flow file, its included files and its tests together."""

MAX_STEPS = 1_000
"""Steps of a flow, including those on branches, and those of a template each time it is applied."""

MAX_NESTING = 25
"""How deep branches and templates may be nested."""

MAX_EXPRESSION = 10_000
"""Characters of one expression."""

MAX_SERVICES = 200
MAX_TEMPLATES = 100
MAX_WORKERS = 50
MAX_TESTS = 1_000
MAX_INCLUDED_FILES = 20

_LIMITS = {
    "services": MAX_SERVICES,
    "templates": MAX_TEMPLATES,
    "workers": MAX_WORKERS,
    "tests": MAX_TESTS,
    "include": MAX_INCLUDED_FILES,
}
"""How many entries the sections of a file may have."""

_UNITS = {"include": "included files"}


class Limits:
    """Counts what the files of one flow contain. Raises `FlowFileError` as soon as a limit is exceeded."""

    def __init__(self, diagnostics: Diagnostics) -> None:
        self._diagnostics = diagnostics
        self._bytes = 0
        self._counts = dict.fromkeys([*_LIMITS, "steps"], 0)

    def add_text(self, text: str, file: str) -> None:
        """Count the bytes of a file."""
        self._bytes += len(text.encode("utf-8", "replace"))
        if self._bytes > MAX_BYTES:
            self._exceed(
                SourceLocation(file, 1, 1), "bytes in the flow file, its included files and its tests", MAX_BYTES
            )

    def add_document(self, node: Node) -> None:
        """Count the values, steps, services and other entries of a document."""
        self._diagnostics.values.add(sum(1 for _ in _nodes(node)), node.location)
        for name, limit in _LIMITS.items():
            section = node.get(name)
            parts: Sequence[Node] = () if section is None else _parts(section)
            before = self._counts[name]
            self._counts[name] = before + len(parts)
            if self._counts[name] > limit:
                self._exceed(parts[limit - before].location, _UNITS.get(name, name), limit)
        for steps in (node.get("steps"), *(node.get("templates") or _NONE).values()):
            self._add_steps(steps)

    def _add_steps(self, steps: Node | None) -> None:
        for step in steps.value if steps is not None and steps.kind == "list" else ():
            self._counts["steps"] += 1
            if self._counts["steps"] > MAX_STEPS:
                self._exceed(step.location, "steps", MAX_STEPS)
            for inner in nested_steps(step):
                self._add_steps(inner)

    def _exceed(self, location: SourceLocation, unit: str, limit: int) -> None:
        self._diagnostics.exceeded(location, unit, limit, hint="split the flow into several")
        self._diagnostics.check()


_NONE = Node("mapping", (), SourceLocation("", 1, 1))


def nested_steps(step: Node) -> Iterator[Node]:
    """Yield the lists of steps inside a step: those of the branches of `route`."""
    for branch in (step.get("route") or _NONE).values():
        if (steps := branch.get("steps")) is not None:
            yield steps


def _parts(section: Node) -> Sequence[Node]:
    """Return the keys of a mapping, or the items of a list."""
    if section.kind == "mapping":
        return [key for key, _ in section.value]
    return section.value if section.kind == "list" else ()


def _nodes(node: Node) -> Iterator[Node]:
    """Yield a node and all nodes inside it."""
    yield node
    for inner in node.value if node.kind == "list" else ():
        yield from _nodes(inner)
    for key, value in node.value if node.kind == "mapping" else ():
        yield key
        yield from _nodes(value)
