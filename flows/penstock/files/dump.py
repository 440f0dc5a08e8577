"""Flows become flow files: what `load` makes of a dump is equal to the flow that was dumped.

Variables stay variables, so a dump holds no secret. What has no name, such as a lambda, cannot be written down.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from typing import Any

import yaml

from penstock.errors import FlowError
from penstock.expressions import Assign, Expression, Fields
from penstock.files.core_schema import resolve
from penstock.files.items import rules_of
from penstock.files.quantities import show_duration, show_rate, show_size
from penstock.flow import Flow, Worker
from penstock.operators import MAX_PARTS
from penstock.operators.each import name_of
from penstock.operators.through import MAX_PARTS as THROUGH_PARTS
from penstock.outlets import FileOutlet, Nowhere, Outlet, StandardOutput
from penstock.runtime.schedule import Cron, Every
from penstock.services import MAX_IN_FLIGHT, NONE, Backoff, Service
from penstock.services.web import ANSWER_LIMIT, Call, HttpBatchCall, HttpCall
from penstock.sources import LINE_LIMIT, Source
from penstock.sources.directory import Directory
from penstock.sources.files import File
from penstock.sources.iterables import Generated, Ticks
from penstock.sources.standard import StandardInput
from penstock.steps import NamedStep, walk
from penstock.window import BYTES, ELEMENTS

Plain = Any
"""What YAML and JSON can hold."""


def dump(flow: Flow[Any], format: str = "yaml") -> str:
    """The text of a flow file. Raises `FlowError` for a flow with something in it that has no name."""
    document = _Dump(flow).document()
    if format == "json":
        return json.dumps(document, indent=2, ensure_ascii=False) + "\n"
    text: str = yaml.dump(document, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100)
    return text


def reference_of(function: Any) -> str:
    """The `module:name` of something in Python; raises `FlowError` when it has none that leads to it."""
    module: str = getattr(function, "__module__", None) or type(function).__module__
    home = sys.modules.get(module)
    found: Any = home
    for part in (name := str(getattr(function, "__qualname__", "?"))).split("."):
        found = getattr(found, part, None)
    if found is not function:  # it may be something that was made, and given a name
        name = next((known for known, value in vars(home).items() if value is function), "") if home else ""
    if not name or module == "__main__":
        raise FlowError(
            f"{function!r} has no name that a flow file could call it by; define it at the top of a module, "
            "or write it as an expression"
        )
    return f"{module}:{name}"


class _Dump:
    """The writing of one flow."""

    def __init__(self, flow: Flow[Any]) -> None:
        self._flow = flow
        self._services: dict[str, Service] = {}
        for step in walk(flow.steps):
            for service in step.services:
                self._register(service)

    def document(self) -> dict[str, Plain]:
        """The flow as plain data; defaults are left out."""
        flow = self._flow
        document = {
            "flow": flow.name,
            "about": flow.about or None,
            "item": self._item(),
            "key": flow.key,
            "window": self._window(),
            "services": {name: self._service(name, service) for name, service in self._services.items()} or None,
            "steps": [self._step(step) for step in flow.steps] or None,
            "order": "input" if flow.ordered else None,
            "dead_letters": self._dead_letters(),
            "samples": None if flow.samples is None else self._called(flow.samples, "seq"),
            "serve": self._serve(),
            "workers": {worker.name: self._worker(worker) for worker in flow.workers} or None,
        }
        return said(document)

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
            raise FlowError(
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
            said({"name": serving.name, "max_runs": serving.max_runs, **sizes, "max_count": serving.max_count}) or None
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

    def _service(self, name: str, service: Service) -> Plain:
        call = service.function
        own = self._http(call) if isinstance(call, Call) else {"call": reference_of(call)}
        return {
            **own,
            **said(
                {
                    "name": None if service.name == name else service.name,
                    "timeout": None if service.timeout == 30.0 else show_duration(service.timeout),
                    "attempts": None if service.attempts == 1 else service.attempts,
                    "backoff": self._backoff(service.backoff),
                    "max_in_flight": None if service.max_in_flight == MAX_IN_FLIGHT else service.max_in_flight,
                    "rate": None if service.rate is None else show_rate(service.rate),
                    "blocking": service.blocking or None,
                }
            ),
        }

    def _http(self, call: Call) -> dict[str, Plain]:
        answer = None if call.answer is None else self._called(call.answer, "answer")
        more: dict[str, Plain] = {
            "headers": dict(call.headers) or None,
            "answer": answer,
            "limit": None if call.limit == ANSWER_LIMIT else show_size(call.limit),
        }
        if isinstance(call, HttpCall) and call.body is not None:
            more["body"] = self._called(call.body)
        if isinstance(call, HttpBatchCall):
            more["many"] = call.part or True
        return {call.method.lower(): call.url, **said(more)}

    def _backoff(self, backoff: Backoff) -> Plain:
        if backoff == NONE:
            return "none"
        default = Backoff()
        return (
            said(
                {
                    "first": None if backoff.first == default.first else show_duration(backoff.first),
                    "factor": None if backoff.factor == default.factor else backoff.factor,
                    "cap": None if backoff.cap == default.cap else show_duration(backoff.cap),
                }
            )
            or None
        )

    def _called(self, function: Any, variable: str = "value") -> Plain:
        """What computes, as it is written: an expression, a mapping of them, or a name."""
        if isinstance(function, Expression):
            if function.variable != variable:
                raise FlowError(f"the expression {function.text!r} is about {function.variable}, not about {variable}")
            return function.text
        if isinstance(function, (Fields, Assign)):
            return {name: self._called(expression, variable) for name, expression in function.fields.items()}
        return reference_of(function)

    def _step(self, step: NamedStep) -> Plain:
        kind, options = step.kind, step.options
        usual = kind
        match kind:
            case "map" | "filter" | "tap" | "flat_map":
                function = next(iter(options.values()))
                kind = "set" if isinstance(function, Assign) else kind
                usual = "set" if isinstance(function, Assign) else name_of(function, kind)
                value: Plain = self._called(function)
                if kind == "flat_map" and options["max_parts"] != MAX_PARTS:
                    value = {"each": value, "max_parts": options["max_parts"]}
            case "map_async":
                usual, value = options["call"].name, self._name_of(options["call"])
                value = {"service": value, "ordered": True} if options["ordered"] else value
            case "enrich":
                value = {field: self._name_of(service) for field, service in options["services"].items()}
                value = list(value) if all(field == name for field, name in value.items()) else value
            case "batch":
                usual, seconds = options["call"].name, show_duration(options["seconds"])
                value = {"service": self._name_of(options["call"]), "size": options["size"], "within": seconds}
            case "throttle":
                value = show_rate(options["rate"])
                value = {"rate": value, "burst": options["burst"]} if options["burst"] != 1 else value
            case "through":
                value = reference_of(options["operator"])
                if options["max_parts"] != THROUGH_PARTS:
                    value = {"operator": value, "max_parts": options["max_parts"]}
            case "step":
                usual, value = name_of(options["step"], kind), reference_of(options["step"])
                if options["max_parts"]:
                    value = {"operator": value, "max_parts": options["max_parts"]}
            case "to":
                outlets = [self._outlet(outlet) for outlet in options["outlets"]]
                value = outlets[0] if len(outlets) == 1 else outlets
            case _:
                value = {way.name: self._way(way) for way in step.ways}
        merge = {"merge": reference_of(options["merge"])} if options.get("merge") is not None else {}
        return {kind: value, **({} if step.name == usual else {"name": step.name}), **merge}

    def _way(self, way: Any) -> Plain:
        steps = [self._step(step) for step in way.steps]
        when = None if way.when is None else self._called(way.when)
        return said({"when": when, "steps": steps or None, "end": way.end or None})

    def _worker(self, worker: Worker) -> Plain:
        when: dict[str, Plain] = {}
        match worker.schedule:
            case Every(seconds):
                when = {"every": show_duration(seconds)}
            case Cron(expression, zone):
                when = {"cron": expression, **({} if zone == "UTC" else {"zone": zone})}
            case _:
                pass
        return {"source": self._source(worker.source), **when}

    def _source(self, source: Source[Any]) -> Plain:
        match source:
            case Generated(total, make) if make == self._flow.samples:
                return {"generate": total}
            case Ticks(seconds, total):
                return said({"ticks": show_duration(seconds), "count": total})
            case StandardInput(limit):
                return {"stdin": True, **_unless(LINE_LIMIT, limit=limit)}
            case File(path, format, limit, delimiter):
                return {
                    "file": path,
                    "format": str(format),
                    **_unless(LINE_LIMIT, limit=limit),
                    **_unless(",", delimiter=delimiter),
                }
            case Directory(path, pattern, every, done, format, limit, delimiter):
                return {
                    "directory": path,
                    **_unless("*", pattern=pattern),
                    **({} if every == 1.0 else {"every": show_duration(every)}),
                    **_unless("done", done=done),
                    **({} if format is None else {"format": str(format)}),
                    **_unless(LINE_LIMIT, limit=limit),
                    **_unless(",", delimiter=delimiter),
                }
            case _:
                raise FlowError(f"the source {source.name} of flow {self._flow.name} cannot be written down")

    def _outlet(self, outlet: Outlet) -> Plain:
        match outlet:
            case FileOutlet():
                fields = None if outlet.fields is None else list(outlet.fields)
                return said({"file": outlet.path, "format": str(outlet.format), "fields": fields})
            case StandardOutput() if outlet == StandardOutput():
                return "stdout"
            case Nowhere():
                return "nowhere"
            case _:
                raise FlowError(f"the outlet {outlet!r} of flow {self._flow.name} cannot be written down")


class _Dumper(yaml.SafeDumper):
    """Quotes every text that flow files would read as something else."""

    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002 - the signature is PyYAML's
        """Nothing is shared."""
        return True


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style = '"' if resolve(text)[0] != "text" else "|" if "\n" in text.strip() else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style)


_Dumper.add_representer(str, _represent_text)


def said(values: Mapping[str, Plain]) -> dict[str, Plain]:
    """The values without those that are None."""
    return {name: value for name, value in values.items() if value is not None}


def _unless(usual: Any, **value: Plain) -> dict[str, Plain]:
    return {name: show_size(one) if type(one) is int else one for name, one in value.items() if one != usual}
