"""Flows become flow files: what `load` makes of a dump is equal to the flow that was dumped.

Variables stay variables, so a dump holds no secret. What has no name, such as a lambda, cannot be written down.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from typing import Any, cast

import yaml

from penstock.core.window import BYTES, ELEMENTS
from penstock.errors import FlowDefinitionError, FlowFileError
from penstock.expressions import Assign
from penstock.flow.flow import Flow
from penstock.flow.serving import Worker
from penstock.flowfile.dump_services import (
    Plain,
    drop_none,
    reference_of,
    to_plain_function,
    to_plain_service,
    to_plain_sink,
    to_plain_source,
)
from penstock.flowfile.item_types import rules_of
from penstock.flowfile.load import loads
from penstock.flowfile.placeholders import PlaceholderEnvironment
from penstock.flowfile.quantities import show_duration, show_rate, show_size
from penstock.flowfile.yaml_reader import resolve
from penstock.runtime.schedule import Cron, Every
from penstock.services import Service
from penstock.steps import (
    Batch,
    Branch,
    CustomOperator,
    Enrich,
    Fail,
    Filter,
    FlatMap,
    Map,
    MapAsync,
    Route,
    Step,
    Tap,
    Throttle,
    Through,
    To,
    walk,
)
from penstock.steps.fail import DEFAULT_TYPE
from penstock.steps.flat_map import MAX_PARTS
from penstock.steps.through import MAX_PARTS as THROUGH_PARTS


def dump(flow: Flow[Any], format: str = "yaml") -> str:
    """The text of a flow file. Raises `FlowDefinitionError` for a flow with something in it that no file can say."""
    document = _Dump(flow).document()
    if format == "json":
        text = json.dumps(document, indent=2, ensure_ascii=False) + "\n"
    else:
        # Stubs of PyYAML may name types that the typeshed of an installed pyright does not know yet: `FloatInt` did.
        write = yaml.dump  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
        text = write(document, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100)
    check_same(flow, text, format)
    return text


def check_same(flow: Flow[Any], text: str, format: str) -> None:
    """Raise `FlowDefinitionError` if the text would not be loaded as the flow: its options may be none that files
    know.
    """
    try:
        again = loads(text, f"{flow.name}.{format}", environment=PlaceholderEnvironment(os.environ)).flow
    except FlowFileError as error:
        raise FlowDefinitionError(f"flow {flow.name} cannot be written down: {error.mistakes[0]}") from error
    if again != flow:
        raise FlowDefinitionError(
            f"flow {flow.name} cannot be written down: something in it is said that no flow file can say"
        )


class _Dump:
    """The writing of one flow."""

    def __init__(self, flow: Flow[Any]) -> None:
        self._flow = flow
        self._services: dict[str, Service] = {}
        for step in walk(flow.steps):
            for service in step.services.values():
                self._register(service)

    def document(self) -> dict[str, Plain]:
        """The flow as plain data; defaults are left out."""
        flow = self._flow
        document = {
            "flow": flow.name,
            "description": flow.description or None,
            "item": self._item(),
            "key": flow.key,
            "window": self._window(),
            "services": {name: to_plain_service(name, service) for name, service in self._services.items()} or None,
            "steps": [self._step(step) for step in flow.steps] or None,
            "order": "input" if flow.ordered else None,
            "dead_letters": self._dead_letters(),
            "samples": None if flow.sample_factory is None else to_plain_function(flow.sample_factory, "seq"),
            "serve": self._serve(),
            "workers": {worker.name: self._worker(worker) for worker in flow.workers} or None,
        }
        return drop_none(document)

    def _item(self) -> Plain:
        item = self._flow.item
        return None if item is None else rules_of(item) or reference_of(item)

    def _window(self) -> Plain:
        elements, size = self._flow.elements, self._flow.bytes
        if (elements, size) == (ELEMENTS, BYTES):
            return None
        return elements if size == BYTES else {"elements": elements, "bytes": show_size(size)}

    def _dead_letters(self) -> Plain:
        store, redacted = self._flow.store, list(self._flow.redacted)
        if store is not None and not isinstance(store, str):
            raise FlowDefinitionError(
                f"the dead letters of flow {self._flow.name} are kept in an object; name the store by its URL"
            )
        return {"store": store, "redact": redacted} if redacted else store

    def _serve(self) -> Plain:
        serving = self._flow.serving
        if not serving.http:
            return False
        sizes = {
            name: None if getattr(serving, name) is None else show_size(getattr(serving, name))
            for name in ("max_line", "max_body")
        }
        return (
            drop_none({"name": serving.name, "max_runs": serving.max_runs, **sizes, "max_count": serving.max_count})
            or None
        )

    def _register(self, service: Service) -> None:
        """Give a service a name in the file: its own, or one with a number if another has that."""
        if service in self._services.values():
            return
        plain = "".join(letter if letter.isascii() and letter.isalnum() else "_" for letter in service.name)
        stem = plain if plain[:1].isalpha() or plain[:1] == "_" else f"service_{plain}"
        name, number = stem, 1
        while name in self._services:
            number += 1
            name = f"{stem}_{number}"
        self._services[name] = service

    def _name_of(self, service: Service) -> str:
        return next(name for name, known in self._services.items() if known == service)

    def _step(self, step: Step) -> Plain:
        kind, default_name = step.kind, step.default_name
        options: dict[str, Plain] = {}
        match step:
            case Map() | Tap():
                value: Plain = to_plain_function(step.function)
                if isinstance(step.function, Assign):
                    kind = default_name = "set"
            case Filter():
                value = to_plain_function(step.predicate)
            case FlatMap():
                value = to_plain_function(step.items)
                value = value if step.max_parts == MAX_PARTS else {"items": value, "max_parts": step.max_parts}
            case Fail():
                reason = step.reason
                value = drop_none(
                    {
                        "when": None if step.when is None else to_plain_function(step.when),
                        "reason": reason if isinstance(reason, str) else {"expression": to_plain_function(reason)},
                        "type": None if step.type == DEFAULT_TYPE else step.type,
                    }
                )
            case MapAsync():
                value = self._name_of(step.service)
                value = {"service": value, "ordered": True} if step.ordered else value
            case Enrich():
                named = {field: self._name_of(service) for field, service in step.fields.items()}
                value = list(named) if all(field == name for field, name in named.items()) else dict(named)
                options["merge"] = None if step.merge is None else reference_of(step.merge)
            case Batch():
                max_wait = show_duration(step.max_wait)
                value = {"service": self._name_of(step.service), "size": step.size, "max_wait": max_wait}
            case Throttle():
                value = show_rate(step.rate)
                value = value if step.burst == 1 else {"rate": value, "burst": step.burst}
            case Through() | CustomOperator():
                default = THROUGH_PARTS if isinstance(step, Through) else 0
                kind = "through" if isinstance(step, Through) else "step"
                value = reference_of(step.function)
                value = value if step.max_parts == default else {"operator": value, "max_parts": step.max_parts}
            case To():
                sinks = [to_plain_sink(sink) for sink in step.targets]
                value = sinks[0] if len(sinks) == 1 else sinks
                options["timeout"] = None if step.timeout == 30.0 else show_duration(step.timeout)
            case Route():
                value = {branch.name: self._branch(branch) for branch in step.cases}
            case _:
                raise FlowDefinitionError(f"step {step.name}: flow files have no step {step.kind!r}")
        name = None if step.name == default_name else step.name
        return {kind: value, **drop_none({"name": name, **options})}

    def _branch(self, branch: Branch) -> Plain:
        steps = [self._step(step) for step in branch.steps]
        when = None if branch.when is None else to_plain_function(branch.when)
        return drop_none({"when": when, "steps": steps or None, "final": branch.final or None})

    def _worker(self, worker: Worker) -> Plain:
        when: dict[str, Plain] = {}
        match worker.schedule:
            case Every(seconds):
                when = {"every": show_duration(seconds)}
            case Cron(expression, zone):
                when = {"cron": expression, **({} if zone == "UTC" else {"timezone": zone})}
            case _:
                pass
        return {"source": to_plain_source(worker.source, self._flow.sample_factory), **when}


class _Dumper(yaml.SafeDumper):
    """Quotes every text that flow files would read as something else."""

    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002 - the signature is PyYAML's
        """Nothing is shared."""
        return True


_BREAKS = "\x85\u2028\u2029"
"""What PyYAML takes for line breaks, and YAML 1.2 does not: only as escapes do they come back as they are."""


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    escaped = resolve(text)[0] != "text" or any(character in text for character in _BREAKS)
    style = '"' if escaped else "|" if "\n" in text.strip() else None
    represent: Callable[..., yaml.ScalarNode] = cast(Any, dumper).represent_scalar  # the stubs leave its type open
    return represent("tag:yaml.org,2002:str", text, style)


_Dumper.add_representer(str, _represent_text)
