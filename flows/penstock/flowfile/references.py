"""Check the names of services and templates in steps. Checks the document itself, so that no other error hides one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from penstock.flowfile.diagnostics import Diagnostics
from penstock.flowfile.document import Node, quoted
from penstock.flowfile.limits import nested_steps
from penstock.flowfile.steps import SYNTAX


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
            for inner in nested_steps(step):
                self.check(inner)

    def _check_step(self, kind: str, value: Node) -> None:
        if kind == "apply":
            self._check_name(value, self._templates, "template")
        elif kind in SYNTAX:
            for name in SYNTAX[kind].services(value):
                self._check_name(name, self._services, "service")

    def _check_name(self, name: Node, known: frozenset[str], noun: str) -> None:
        if name.kind == "text" and name.value not in known:
            hint = None if known else f"describe it under {noun}s:"
            self._diagnostics.unknown(name, noun, sorted(known), hint=hint)


def check_cycles(steps: Node | None, templates: Mapping[str, Node], diagnostics: Diagnostics) -> None:
    """Add an error for each cycle of templates, where it closes. Starts with the steps of the flow."""
    _Search(templates, diagnostics).search(steps, ())


class _Search:
    """Searches steps, and the templates that they apply."""

    def __init__(self, templates: Mapping[str, Node], diagnostics: Diagnostics) -> None:
        self._templates = templates
        self._diagnostics = diagnostics
        self._seen: set[str] = set()

    def search(self, steps: Node | None, path: tuple[str, ...]) -> None:
        """Search steps that are reached through a path of templates; for an empty path also the templates not used."""
        for where, name in _applied(steps):
            self._go_to(name, where, path)
        if not path:
            for name, node in self._templates.items():
                self._go_to(name, node, ())

    def _go_to(self, name: str, where: Node, path: tuple[str, ...]) -> None:
        if name in path:
            self._report(where, path[path.index(name) :])
        elif name in self._templates and name not in self._seen:
            self._seen.add(name)
            self.search(self._templates[name], (*path, name))

    def _report(self, where: Node, cycle: tuple[str, ...]) -> None:
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
        for inner in nested_steps(step):
            yield from _applied(inner)
