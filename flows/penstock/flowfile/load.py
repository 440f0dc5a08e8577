"""Load flow files. All errors are reported at once, each at its location."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from penstock.errors import FlowDefinitionError
from penstock.flow.flow import Flow, check_item
from penstock.flowfile.build import FlowBuilder, check_schedules
from penstock.flowfile.diagnostics import Diagnostics
from penstock.flowfile.document import Node, quoted
from penstock.flowfile.field_types import importing_from
from penstock.flowfile.forms.choices import Chosen
from penstock.flowfile.item_types import check_key, item_type
from penstock.flowfile.models import FlowModel, Shared
from penstock.flowfile.placeholders import with_placeholders
from penstock.flowfile.reader import NO_TEXTS, NOTHING, FileReader, text_of
from penstock.flowfile.references import ReferenceChecker, check_cycles
from penstock.flowfile.services import ServiceOptions, make_service
from penstock.flowfile.steps import ReadStep
from penstock.services import Service


@dataclass(frozen=True, slots=True)
class FlowFile:
    """A flow, and the file from which it was loaded."""

    flow: Flow[Any]
    path: Path
    text: str
    files: tuple[Path, ...]
    """All files that were read: the file itself, and those that it includes."""
    declared: frozenset[str]
    """The keys at the top of the file; the others have defaults."""

    digest: str
    """A short hash of the content, including that of the included files."""

    texts: Mapping[Path, str]
    """The text of each of these files."""

    tests: Node | None = None
    """The tests in the file, not yet read; see `penstock.flowtests.load`."""


def load(path: str | Path, *, environment: Mapping[str, str] = os.environ) -> FlowFile:
    """Load the flow in a file of YAML or JSON. Raises `FlowFileError` with all errors."""
    path = Path(path)
    return loads(text_of(path), path, environment=environment)


def loads(
    text: str,
    path: str | Path,
    *,
    environment: Mapping[str, str] = os.environ,
    texts: Mapping[Path, str] = NO_TEXTS,
) -> FlowFile:
    """Load the flow in a text. `path` is the name in locations, and included files are found relative to it.

    Included files that are in `texts` are not read. Raises `FlowFileError` with all errors.
    """
    return FlowReading(text, Path(path), environment, texts).file()


class FlowReading:
    """Reads a flow file and its included files, and collects their errors in `diagnostics`.

    Raises `FlowFileError` at once for errors after which nothing can be checked, such as a syntax error.
    """

    def __init__(
        self, text: str, path: Path, environment: Mapping[str, str], texts: Mapping[Path, str] = NO_TEXTS
    ) -> None:
        self.diagnostics = Diagnostics()
        self.reader = FileReader(environment, self.diagnostics, texts)
        self.flow: Flow[Any] | None = None
        """The flow, as far as it could be built."""
        self.valid = False
        """Whether all values in the file could be read."""
        self.complete = False
        """Whether the flow has all its steps."""
        self.tests: Node | None = None
        self._text = text
        self._path = path
        self._environment = environment
        self._declared: frozenset[str] = frozenset()
        with importing_from(path.parent):
            self._read()

    def file(self) -> FlowFile:
        """Return the flow file. Raises `FlowFileError` if there are errors."""
        self.diagnostics.check()
        assert self.flow is not None
        digest = hashlib.sha256("\0".join(self.reader.texts).encode()).hexdigest()[:12]
        files = tuple(self.reader.files)
        texts = dict(zip(files, self.reader.texts, strict=False))  # files of tests have no text
        return FlowFile(self.flow, self._path, self._text, files, self._declared, digest, texts, self.tests)

    def _read(self) -> None:
        node, read, self.valid = self.reader.flow(self._text, self._path)
        included = [self.reader.shared(self._path.parent, name) for name in self._included(node.get("include"))]
        self._check_names([node, *(shared for shared, _ in included)])
        check_schedules(node.get("workers"), self.diagnostics)
        if read is None:
            return
        self.tests = read.tests
        self._declared = frozenset(name for name, _ in read.node.items())
        if not self.valid:
            read = with_placeholders(read)
        self._build(read, [*(part for _, part in included if part is not None), read])

    def _build(self, read: FlowModel, parts: Sequence[Shared | FlowModel]) -> None:
        written = self._all_services(parts)
        services = self._make_services(written)
        rules: object = read.item
        item: Any = item_type(cast("dict[str, Any]", rules)) if isinstance(rules, dict) else rules
        try:
            check_item(item)
        except FlowDefinitionError as error:
            self.diagnostics.add(read.at("item"), str(error))
            item = None
        key = None if read.key is None else check_key(read.at("key"), item, self.diagnostics)
        builder = FlowBuilder(services, self._all_templates(parts), self.diagnostics)
        try:
            self.flow = builder.flow(read, item, key)
        except (FlowDefinitionError, ValueError, TypeError) as error:
            self.diagnostics.add(read.node, str(error))
            return
        self.complete = builder.complete
        self._check_service_names(self.flow, services, written)

    def _included(self, include: Node | None) -> Iterator[Node]:
        """Yield the names of the included files, each once."""
        seen: set[str] = set()
        for name in include.value if include is not None and include.kind == "list" else ():
            path = os.path.normpath(str(name.value))
            if path in seen:
                self.diagnostics.add(name, f"{name.shown()} is included twice", hint="remove one")
                continue
            seen.add(path)
            yield name

    def _check_names(self, nodes: list[Node]) -> None:
        """Check the names that steps use, in all files."""
        services, templates = (
            frozenset(name for node in nodes for name, _ in (node.get(section) or NOTHING).items())
            for section in ("services", "templates")
        )
        names = ReferenceChecker(services, templates, self.diagnostics)
        for node in nodes:
            names.check(node.get("steps"))
            for steps in (node.get("templates") or NOTHING).values():
                names.check(steps)
        written = {name: steps for node in nodes for name, steps in (node.get("templates") or NOTHING).items()}
        check_cycles(nodes[0].get("steps"), written, self.diagnostics)

    def _make_services(self, written: Mapping[str, Chosen[ServiceOptions]]) -> dict[str, Service]:
        made: dict[str, Service] = {}
        for name, chosen in written.items():
            try:
                made[name] = make_service(name, chosen, self._environment)
            except (FlowDefinitionError, ValueError, TypeError) as error:
                self.diagnostics.add(chosen.at, str(error))
        return made

    def _check_service_names(
        self, flow: Flow[Any], services: Mapping[str, Service], written: Mapping[str, Chosen[ServiceOptions]]
    ) -> None:
        """Add errors for services of the flow that share a name: metrics and tests could not distinguish them."""
        called, names = flow.all_services, dict[str, str]()
        for key, service in services.items():
            if service not in called:
                continue
            first = names.setdefault(service.name, key)
            if services[first] != service:
                chosen = written[key]
                where = chosen.beside.at("name") if chosen.beside.has("name") else chosen.at
                message = f"{quoted(key)} and {quoted(first)} have the same name {quoted(service.name)}"
                self.diagnostics.add(where, message, hint="give them different names")

    def _all_services(self, parts: Sequence[Shared | FlowModel]) -> dict[str, Chosen[ServiceOptions]]:
        """Return the services of all files."""
        found: dict[str, Chosen[ServiceOptions]] = {}
        for part in parts:
            for name, service in (part.services or {}).items():
                self._check_new(part, "services", name, found)
                found[name] = service
        return found

    def _all_templates(self, parts: Sequence[Shared | FlowModel]) -> dict[str, tuple[ReadStep, ...]]:
        """Return the templates of all files."""
        found: dict[str, tuple[ReadStep, ...]] = {}
        for part in parts:
            for name, steps in (part.templates or {}).items():
                self._check_new(part, "templates", name, found)
                found[name] = steps
        return found

    def _check_new(self, part: Shared | FlowModel, section: str, name: str, found: Mapping[str, object]) -> None:
        if name in found:
            key = part.at(section).key(name) or part.node
            self.diagnostics.add(key, f"{quoted(name)} is already defined in an included file")
