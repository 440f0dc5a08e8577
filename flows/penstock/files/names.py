"""Are the names right that steps call? Looked at in the document itself, so that no other mistake hides these."""

from __future__ import annotations

from collections.abc import Iterator

from penstock.files.mistakes import Mistakes
from penstock.files.node import Node


class StepNames:
    """The services and templates that steps may name."""

    def __init__(self, services: frozenset[str], templates: frozenset[str], mistakes: Mistakes) -> None:
        self._services = services
        self._templates = templates
        self._mistakes = mistakes

    def check(self, steps: Node | None) -> None:
        """Note every name in a list of steps that there is nothing of."""
        for step in () if steps is None or steps.kind != "list" else steps.value:
            for kind, value in step.items():
                self._check_step(kind, value)

    def _check_step(self, kind: str, value: Node) -> None:
        if kind == "apply":
            self._known(value, self._templates, "template")
        elif kind == "route":
            for branch in value.values():
                self.check(branch.get("steps"))
        elif kind in ("enrich", "map_async", "batch"):
            for name in _services_in(kind, value):
                self._known(name, self._services, "service")

    def _known(self, name: Node, known: frozenset[str], what: str) -> None:
        if name.kind == "text" and name.value not in known:
            sentence = f"there is no {what} {name.shown()}"
            hint = None if known else f"describe it under {what}s:"
            self._mistakes.add(name, sentence, allowed=sorted(known), nearest=name.value, hint=hint)


def _services_in(kind: str, value: Node) -> Iterator[Node]:
    """The nodes that name services."""
    if value.kind == "text":
        yield value
    elif value.kind == "list":
        yield from value.value
    elif kind == "enrich":
        yield from value.values()
    elif (service := value.get("service")) is not None:
        yield service
