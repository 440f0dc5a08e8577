"""How large a flow file may be. Whatever stays within these limits is checked in about a second."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from penstock.flowfile.diagnostics import Diagnostics, SourceLocation
from penstock.flowfile.document import Node

MAX_BYTES = 1 << 20
"""Bytes of a flow file, together with the files that it uses and its tests."""

MAX_STEPS = 1_000
"""Steps of a flow; those on branches and in templates count, and those of a template each time it is applied."""

MAX_NESTING = 25
"""Branches and templates within one another."""

MAX_EXPRESSION = 10_000
"""Characters of one expression."""

MAX_SERVICES = 200
MAX_TEMPLATES = 100
MAX_WORKERS = 50
MAX_TESTS = 1_000
MAX_USED_FILES = 20

_LIMITS = {
    "services": MAX_SERVICES,
    "templates": MAX_TEMPLATES,
    "workers": MAX_WORKERS,
    "tests": MAX_TESTS,
    "include": MAX_USED_FILES,
}
"""The limits of the sections of a file."""

_COUNTED = {"include": "files that are used"}


class Limits:
    """Counts what the files of one flow hold together. Raises `FlowFileError` as soon as it is too much."""

    def __init__(self, mistakes: Diagnostics) -> None:
        self._mistakes = mistakes
        self._bytes = 0
        self._counts = dict.fromkeys([*_LIMITS, "steps"], 0)

    def add_text(self, text: str, file: str) -> None:
        """Count the text of a file."""
        self._bytes += len(text.encode("utf-8", "replace"))
        if self._bytes > MAX_BYTES:
            place = SourceLocation(file, 1, 1)
            found = f"found {self._bytes} bytes in the flow file, the files that it uses and its tests together"
            self._refuse(place, found, MAX_BYTES, "bytes")

    def add_document(self, node: Node) -> None:
        """Count the values, steps, services … in a document."""
        self._mistakes.values.add(sum(1 for _ in _nodes(node)), node.place)
        for name, limit in _LIMITS.items():
            section = node.get(name)
            parts: Sequence[Node] = () if section is None else _parts(section)
            before = self._counts[name]
            self._counts[name] = before + len(parts)
            if self._counts[name] > limit:
                what = _COUNTED.get(name, name)
                self._refuse(parts[limit - before].place, f"found {self._counts[name]} {what}", limit, what)
        for steps in (node.get("steps"), *(node.get("templates") or _NONE).values()):
            self._add_steps(steps)

    def _add_steps(self, steps: Node | None) -> None:
        for step in steps.value if steps is not None and steps.kind == "list" else ():
            self._counts["steps"] += 1
            if self._counts["steps"] > MAX_STEPS:
                self._refuse(step.place, f"found step number {MAX_STEPS + 1}", MAX_STEPS, "steps")
            for branch in (step.get("route") or _NONE).values():
                self._add_steps(branch.get("steps"))

    def _refuse(self, place: SourceLocation, found: str, limit: int, what: str) -> None:
        self._mistakes.add(place, found, wanted=f"at most {limit} {what}", hint="split the flow into several")
        self._mistakes.check()


_NONE = Node("mapping", (), SourceLocation("", 1, 1))


def _parts(section: Node) -> Sequence[Node]:
    """The keys of a mapping, or the items of a list."""
    if section.kind == "mapping":
        return [key for key, _ in section.value]
    return section.value if section.kind == "list" else ()


def _nodes(node: Node) -> Iterator[Node]:
    """A node and all within it."""
    yield node
    for inner in node.value if node.kind == "list" else ():
        yield from _nodes(inner)
    for key, value in node.value if node.kind == "mapping" else ():
        yield key
        yield from _nodes(value)
