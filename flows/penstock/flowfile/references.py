"""Check the names of services and templates in steps, in the document itself, so that other errors hide none."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from penstock.flowfile.diagnostics import Diagnostics
from penstock.flowfile.document import Node, quoted


class ReferenceChecker:
    """The services and templates that steps may use."""

    def __init__(self, services: frozenset[str], templates: frozenset[str], diagnostics: Diagnostics) -> None:
        self._services = services
        self._templates = templates
        self._diagnostics = diagnostics

    def check(self, steps: Node | None) -> None:
        """Add an error for each unknown name in a list of steps."""
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
            hint = None if known else f"describe it under {what}s:"
            self._diagnostics.unknown(name, what, sorted(known), hint=hint)


def _services_in(kind: str, value: Node) -> Iterator[Node]:
    """Yield the nodes with names of services."""
    if value.kind == "text":
        yield value
    elif value.kind == "list":
        yield from value.value
    elif kind == "enrich":
        yield from value.values()
    elif (service := value.get("service")) is not None:
        yield service


def check_cycles(steps: Node | None, templates: Mapping[str, Node], diagnostics: Diagnostics) -> None:
    """Add an error for each cycle of templates, where it closes. Starts with the steps of the flow."""
    _Search(templates, diagnostics).search(steps, ())


class _Search:
    """Follows a list of steps into the templates that it applies."""

    def __init__(self, templates: Mapping[str, Node], diagnostics: Diagnostics) -> None:
        self._templates = templates
        self._diagnostics = diagnostics
        self._seen: set[str] = set()

    def search(self, steps: Node | None, way: tuple[str, ...]) -> None:
        """Search steps that are reached through these templates, and at the end the templates that are not used."""
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
            self.search(self._templates[name], (*way, name))

    def _note(self, where: Node, cycle: tuple[str, ...]) -> None:
        if len(cycle) == 1:
            self._diagnostics.add(where, f"template {quoted(cycle[0])} applies itself")
        else:
            self._diagnostics.add(where, f"templates apply each other in a cycle: {' → '.join([*cycle, cycle[0]])}")


def _applied(steps: Node | None) -> Iterator[tuple[Node, str]]:
    """Yield the templates that steps apply, each with the node of its key `apply`."""
    for step in steps.value if steps is not None and steps.kind == "list" else ():
        for key, value in step.value if step.kind == "mapping" else ():
            if key.value == "apply" and value.kind == "text":
                yield key, value.value
            elif key.value == "route":
                for branch in value.values():
                    yield from _applied(branch.get("steps"))
