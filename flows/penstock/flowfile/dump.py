"""Dump flows to flow files. Loading a dump gives a flow that is equal to the one that was dumped.

Variables stay variables, so a dump contains no secret. Objects without a name, such as a lambda, cannot be dumped.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from typing import Any, cast

import yaml

from penstock.core.window import BYTES, ELEMENTS
from penstock.deadletters.target import KEPT_STATES, Keep
from penstock.errors import FlowDefinitionError, FlowFileError
from penstock.flow.flow import Flow
from penstock.flow.serving import Worker
from penstock.flowfile.item_types import rules_of
from penstock.flowfile.load import loads
from penstock.flowfile.placeholders import PlaceholderEnvironment
from penstock.flowfile.plain import Plain, drop_none, dump_function, reference_of
from penstock.flowfile.quantities import show_duration, show_rate, show_size
from penstock.flowfile.services import dump_service
from penstock.flowfile.sources import dump_source
from penstock.flowfile.steps import dump_step
from penstock.flowfile.yaml_reader import resolve
from penstock.runtime.order import Order
from penstock.runtime.schedule import Cron, Every
from penstock.services import Service
from penstock.steps import Step, walk


def dump(flow: Flow[Any], format: str = "yaml") -> str:
    """Return the text of a flow file. Raises `FlowDefinitionError` for a flow that a file cannot describe."""
    document = _FlowDumper(flow).document()
    if format == "json":
        text = json.dumps(document, indent=2, ensure_ascii=False) + "\n"
    else:
        # Stubs of PyYAML may name types that the typeshed of an installed pyright does not know yet: `FloatInt` did.
        write = yaml.dump  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
        text = write(document, Dumper=_YamlDumper, sort_keys=False, allow_unicode=True, width=100)
    check_same(flow, text, format)
    return text


def check_same(flow: Flow[Any], text: str, format: str) -> None:
    """Raise `FlowDefinitionError` if loading the text gives another flow: it may have options that files do not."""
    try:
        again = loads(text, f"{flow.name}.{format}", environment=PlaceholderEnvironment(os.environ)).flow
    except FlowFileError as error:
        raise FlowDefinitionError(f"flow {flow.name} cannot be dumped: {error.diagnostics[0]}") from error
    if again != flow:
        raise FlowDefinitionError(f"flow {flow.name} cannot be dumped: it has an option that flow files do not have")


class _FlowDumper:
    """Dumps one flow."""

    def __init__(self, flow: Flow[Any]) -> None:
        self._flow = flow
        self._services: dict[str, Service] = {}
        for step in walk(flow.steps):
            for service in step.services.values():
                self._register(service)

    def document(self) -> dict[str, Plain]:
        """Return the flow as plain data, without defaults."""
        flow = self._flow
        document = {
            "flow": flow.name,
            "description": flow.description or None,
            "item": self._item(),
            "key": flow.key,
            "window": self._window(),
            "deadline": None if flow.max_seconds is None else show_duration(flow.max_seconds),
            "services": {name: dump_service(name, service) for name, service in self._services.items()} or None,
            "steps": [self.step(step) for step in flow.steps] or None,
            "order": None if flow.ordering is Order.COMPLETION else flow.ordering.value,
            "dead_letters": self._dead_letters(),
            "redrive": self._redrive(),
            "samples": None if flow.sample_factory is None else dump_function(flow.sample_factory, "seq"),
            "serve": self._serve(),
            "workers": {worker.name: self._worker(worker) for worker in flow.workers} or None,
        }
        return drop_none(document)

    def step(self, step: Step) -> Plain:
        """Return a step as plain data."""
        return dump_step(step, self)

    def service_name(self, service: Service) -> str:
        """Return the name of a service in the file."""
        return next(name for name, known in self._services.items() if known == service)

    def _item(self) -> Plain:
        item = self._flow.item
        return None if item is None else rules_of(item) or reference_of(item)

    def _window(self) -> Plain:
        elements, size = self._flow.elements, self._flow.bytes
        if (elements, size) == (ELEMENTS, BYTES):
            return None
        return elements if size == BYTES else {"elements": elements, "bytes": show_size(size)}

    def _dead_letters(self) -> Plain:
        flow, store = self._flow, self._flow.store
        if store is not None and not isinstance(store, str):
            raise FlowDefinitionError(f"the dead-letter store of flow {flow.name} is an object; pass its URL instead")
        options: dict[str, Plain] = {
            "copy": list(flow.copies) or None,
            "redact": list(flow.redacted) or None,
            "keep": None if flow.keep is None else _dump_keep(flow.keep),
        }
        return drop_none({"store": store, **options}) if any(options.values()) else store

    def _redrive(self) -> Plain:
        redrive = self._flow.auto_redrive
        if redrive is None:
            return None
        return redrive.when if redrive.rate is None else {"when": redrive.when, "rate": show_rate(redrive.rate)}

    def _serve(self) -> Plain:
        serving = self._flow.serving
        if not serving.http:
            return False
        sizes = {
            name: None if getattr(serving, name) is None else show_size(getattr(serving, name))
            for name in ("max_line", "max_body")
        }
        rest = {"max_count": serving.max_count, "refuse_when_open": serving.refuse_when_open or None}
        return drop_none({"name": serving.name, "max_runs": serving.max_runs, **sizes, **rest}) or None

    def _register(self, service: Service) -> None:
        """Give a service a name in the file: its own, or one with a number if that is taken."""
        if service in self._services.values():
            return
        plain = "".join(letter if letter.isascii() and letter.isalnum() else "_" for letter in service.name)
        stem = plain if plain[:1].isalpha() or plain[:1] == "_" else f"service_{plain}"
        name, number = stem, 1
        while name in self._services:
            number += 1
            name = f"{stem}_{number}"
        self._services[name] = service

    def _worker(self, worker: Worker) -> Plain:
        when: dict[str, Plain] = {}
        match worker.schedule:
            case Every(seconds):
                when = {"every": show_duration(seconds)}
            case Cron(expression, timezone):
                when = {"cron": expression, **({} if timezone == "UTC" else {"timezone": timezone})}
            case _:
                pass
        return {"source": dump_source(worker.source, self._flow.sample_factory), **when}


def _dump_keep(keep: Keep) -> Plain:
    ages = {state: show_duration(keep.seconds[state]) for state in KEPT_STATES if state in keep.seconds}
    return drop_none({**ages, "max": keep.max})


class _YamlDumper(yaml.SafeDumper):
    """Quotes every string that flow files would read as another value."""

    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002 - the signature is PyYAML's
        """Write every value out."""
        return True


_BREAKS = "\x85\u2028\u2029"
"""Line breaks of YAML 1.1 that are none in YAML 1.2: PyYAML keeps them only if they are escaped."""


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    escaped = resolve(text)[0] != "text" or any(character in text for character in _BREAKS)
    style = '"' if escaped else "|" if "\n" in text.strip() else None
    represent: Callable[..., yaml.ScalarNode] = cast(Any, dumper).represent_scalar  # the stubs leave its type open
    return represent("tag:yaml.org,2002:str", text, style)


_YamlDumper.add_representer(str, _represent_text)
