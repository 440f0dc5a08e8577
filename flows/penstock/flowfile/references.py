"""Are the names right that steps call? Looked at in the document itself, so that no other mistake hides these."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from penstock.flowfile.diagnostics import Diagnostics
from penstock.flowfile.document import Node, quoted


class ReferenceChecker:
    """The services and templates that steps may name."""

    def __init__(self, services: frozenset[str], templates: frozenset[str], mistakes: Diagnostics) -> None:
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


def check_circles(steps: Node | None, templates: Mapping[str, Node], mistakes: Diagnostics) -> None:
    """Note every circle once, where it closes. What the flow's own steps apply is looked at first."""
    _Search(templates, mistakes).look_at(steps, ())


class _Search:
    """Goes down from a list of steps into the templates that these apply."""

    def __init__(self, templates: Mapping[str, Node], mistakes: Diagnostics) -> None:
        self._templates = templates
        self._mistakes = mistakes
        self._seen: set[str] = set()

    def look_at(self, steps: Node | None, way: tuple[str, ...]) -> None:
        """Look at steps to which these templates lead, and at the end at those that nothing led to."""
        for where, name in _applied(steps):
            self._go_to(name, where, way)
        if not way:
            for name, node in self._templates.items():
                self._go_to(name, node, ())

    def _go_to(self, name: str, where: Node, way: tuple[str, ...]) -> None:
        if name in way:
            self._note(where, way[way.index(name) :])
        elif name in self._templates and name not in self._seen:
            self._seen.add(name)
            self.look_at(self._templates[name], (*way, name))

    def _note(self, where: Node, circle: tuple[str, ...]) -> None:
        if len(circle) == 1:
            self._mistakes.add(where, f"the template {quoted(circle[0])} applies itself")
        else:
            self._mistakes.add(where, f"templates apply each other in a circle: {' → '.join([*circle, circle[0]])}")


def _applied(steps: Node | None) -> Iterator[tuple[Node, str]]:
    """The names of the templates that these steps apply, each with the word `apply` that says so."""
    for step in steps.value if steps is not None and steps.kind == "list" else ():
        for key, value in step.value if step.kind == "mapping" else ():
            if key.value == "apply" and value.kind == "text":
                yield key, value.value
            elif key.value == "route":
                for branch in value.values():
                    yield from _applied(branch.get("steps"))
