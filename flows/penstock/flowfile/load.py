"""Flow files become flows: everything that is wrong is said at once, each at its place."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from penstock.errors import FlowDefinitionError
from penstock.flow.flow import Flow, check_item
from penstock.flowfile.build import FlowBuilder, check_schedules
from penstock.flowfile.diagnostics import Diagnostics
from penstock.flowfile.document import Node, quoted
from penstock.flowfile.field_types import importing_from
from penstock.flowfile.forms.choices import Chosen
from penstock.flowfile.forms.record import Read
from penstock.flowfile.item_types import item_type, key_of
from penstock.flowfile.placeholders import with_substitutes
from penstock.flowfile.reader import NOTHING, FileReader, tests_beside, text_of
from penstock.flowfile.references import ReferenceChecker, check_circles
from penstock.flowfile.services import service_of
from penstock.flowtests.load import load_tests
from penstock.flowtests.models import FlowTest
from penstock.services import Service


@dataclass(frozen=True, slots=True)
class FlowFile:
    """A flow, and the file that it was read from."""

    flow: Flow[Any]
    path: Path
    text: str
    files: tuple[Path, ...]
    """All files that were read: the file itself, and those that it uses."""
    declared: frozenset[str]
    """What the file says itself, by the names at its top; the rest are defaults."""

    digest: str
    """A short text that tells this content from any other, that of the used files included."""

    tests: tuple[FlowTest, ...] = ()
    """The tests in the file, and in the one beside it: `NAME.test.yaml`."""


def load(path: str | Path, *, environment: Mapping[str, str] = os.environ) -> FlowFile:
    """The flow in a file of YAML or JSON. Raises `FlowFileError` with every mistake."""
    path = Path(path)
    beside = tests_beside(path)
    tests = beside if beside.exists() else None
    return loads(text_of(path), path, environment=environment, tests=tests)


def loads(
    text: str,
    path: str | Path,
    *,
    environment: Mapping[str, str] = os.environ,
    tests: Path | None = None,
) -> FlowFile:
    """The flow in a text; `path` is the name that mistakes carry, and files that it uses lie beside it.

    `tests` is a file with further tests.
    """
    path = Path(path)
    mistakes = Diagnostics()
    with importing_from(path.parent):
        reading = _Reading(environment, mistakes)
        flow, read = reading.flow(text, path, tests)
    mistakes.check()
    assert flow is not None
    digest = hashlib.sha256("\0".join(reading.documents.texts).encode()).hexdigest()[:12]
    return FlowFile(flow, path, text, tuple(reading.documents.files), frozenset(read), digest, reading.tests)


class _Reading:
    """The reading of a flow file and of the files that it uses."""

    def __init__(self, environment: Mapping[str, str], mistakes: Diagnostics) -> None:
        self._environment = environment
        self._mistakes = mistakes
        self.documents = FileReader(environment, mistakes)
        self.tests: tuple[FlowTest, ...] = ()

    def flow(self, text: str, path: Path, tests: Path | None) -> tuple[Flow[Any] | None, Iterable[str]]:
        """The flow, if it has no mistake, and what is said in its file."""
        node, read, complete = self.documents.flow(text, path)
        used = [self.documents.shared(path.parent, name) for name in self._used(node.get("include"))]
        self._check_names([node, *(shared for shared, _ in used)])
        check_schedules(node.get("workers"), self._mistakes)
        beside = None if tests is None else self.documents.tests(tests)
        if read is None:
            return None, ()
        if not complete:
            read = with_substitutes(read)
        parts = [part for _, part in used if isinstance(part, Read)]
        services = self._services([*parts, read])
        templates = self._all("templates", [*parts, read])
        item = item_type(read["item"]) if isinstance(read["item"], Mapping) else read["item"]
        try:
            check_item(item)
        except FlowDefinitionError as error:
            self._mistakes.add(read.at("item"), str(error))
            item = None
        building = FlowBuilder(services, templates, self._mistakes)
        try:
            flow = building.flow(read, item, key_of(read, item, self._mistakes))
        except (FlowDefinitionError, ValueError, TypeError) as error:
            self._mistakes.add(read.node, str(error))
            return None, ()
        self._check_apart(flow, services, self._all("services", [*parts, read]))
        self.tests = tuple(
            case
            for part in (read["tests"], beside)
            for case in load_tests(part if complete else None, self._mistakes, flow, complete=building.complete)
        )
        return flow, [name for name, _ in read.node.items()]

    def _used(self, uses: Node | None) -> Iterator[Node]:
        """The names of the files that are used, each once."""
        seen: set[str] = set()
        for name in uses.value if uses is not None and uses.kind == "list" else ():
            plain = os.path.normpath(str(name.value))
            if plain in seen:
                self._mistakes.add(name, f"{name.shown()} is named twice", hint="name it once")
                continue
            seen.add(plain)
            yield name

    def _check_names(self, nodes: list[Node]) -> None:
        """Look at the names that steps call, in all files."""
        services, templates = (
            frozenset(name for node in nodes for name, _ in (node.get(what) or NOTHING).items())
            for what in ("services", "templates")
        )
        names = ReferenceChecker(services, templates, self._mistakes)
        for node in nodes:
            names.check(node.get("steps"))
            for steps in (node.get("templates") or NOTHING).values():
                names.check(steps)
        written = {name: steps for node in nodes for name, steps in (node.get("templates") or NOTHING).items()}
        check_circles(nodes[0].get("steps"), written, self._mistakes)

    def _services(self, parts: list[Read]) -> dict[str, Service]:
        made: dict[str, Service] = {}
        for name, chosen in self._all("services", parts).items():
            try:
                made[name] = service_of(name, chosen, self._environment)
            except (FlowDefinitionError, ValueError, TypeError) as error:
                self._mistakes.add(chosen.at, str(error))
        return made

    def _check_apart(self, flow: Flow[Any], services: Mapping[str, Service], written: Mapping[str, Chosen]) -> None:
        """Note services that the steps call and that have one name: metrics and tests could not tell them apart."""
        called, names = flow.all_services, dict[str, str]()
        for key, service in services.items():
            if service not in called:
                continue
            first = names.setdefault(service.name, key)
            if services[first] != service:
                chosen = written[key]
                where = chosen.beside.at("name") if "name" in chosen.beside else chosen.at
                said = f"{quoted(key)} and {quoted(first)} are both called {quoted(service.name)}"
                self._mistakes.add(where, said, hint="name them apart")

    def _all(self, name: str, parts: list[Read]) -> dict[str, Any]:
        """The services or templates of all files."""
        found: dict[str, Any] = {}
        for part in parts:
            for key, value in part.mapping(name).items():
                if key in found:
                    self._mistakes.add(
                        part.at(name).key(key) or part.node, f"{quoted(key)} is in a file that is used, too"
                    )
                found[key] = value
        return found
