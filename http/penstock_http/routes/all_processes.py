"""What requests ask all processes of the service, and what this process answers when another one asks.

With one process nothing is asked.
"""

from __future__ import annotations

import asyncio
import dataclasses
import zlib
from collections.abc import Callable
from typing import Any, TypeAlias

import msgspec
from aiohttp import web
from msgspec import Struct
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from penstock.graph import FlowCounters, service_counts
from penstock.runtime import FlowStatistics, Phase
from penstock.runtime.worker import UNAVAILABLE_SECONDS
from penstock.sinks.shared import outage_seconds
from penstock.support.json_encoding import encode_json
from penstock_http.aggregate.flows import merge_flow, merge_flows, merge_graph_counts, newest_result
from penstock_http.aggregate.health import NOT_WORKING, READY, merge_readiness
from penstock_http.aggregate.metrics import WithProcess, merge_metrics
from penstock_http.aggregate.supervision import parent_registry, supervision_registry
from penstock_http.processes.peers import ASK_SECONDS, NoAnswer
from penstock_http.processes.resources import PROCESS_COUNTS, ProcessCounts
from penstock_http.routes.flow_documents import describe
from penstock_http.state import AppState

READY_SECONDS = 0.5
"""Timeout of a question about readiness: probes of orchestrators wait for one second by default."""

METRICS_SECONDS = 2.0
"""Timeout of a question about metrics. Writing those of a thousand flows takes half a second."""

Document: TypeAlias = "dict[str, Any]"

Answer: TypeAlias = "Callable[[bytes], bytes]"
"""Returns what this process answers to a question with a payload."""


class FlowQuestion(Struct, frozen=True):
    """Which flows to describe: all, or the one with this name. Only trusted clients get diagnostics."""

    name: str | None
    trusted: bool


class AllProcesses:
    """Asks all processes of the service, and merges their answers with that of this process.

    With `workers_only` a process is ready only if its workers can work. So a deployment whose broker cannot be reached
    does not count as done. Nothing restarts it for that: `/health/live` is 200.
    """

    def __init__(self, state: AppState, registry: CollectorRegistry, *, workers_only: bool = False) -> None:
        self._state = state
        self._readiness = work_readiness if workers_only else readiness
        self._registry = registry
        self._parent = WithProcess(parent_registry(), "parent")
        labelled = WithProcess(registry, str(state.peers.number))
        self._answers: dict[str, Answer] = {
            "metrics": lambda accept: _encoder(accept.decode())[0](labelled),
            "readiness": lambda _: encode_json(self._readiness(state)),
            "flows": self._own_flows,
            "graph": lambda name: encode_json(_graph_counts(state, name.decode())),
            "run": lambda run: b"1" if run.decode() in state.supervisor.runs else b"",
        }
        if state.peers.count > 1:
            for topic, answer in self._answers.items():
                state.peers.on(topic, _awaitable(answer))

    @property
    def _is_only_one(self) -> bool:
        return self._state.peers.count == 1

    async def metrics(self, accept: str) -> tuple[bytes, str]:
        """Return the metrics of all processes and of the parent, and their media type."""
        encode, content_type = _encoder(accept)
        if self._is_only_one:
            return encode(self._registry), content_type
        question = self._ask("metrics", accept.encode(), METRICS_SECONDS)
        answers, counts = await asyncio.gather(question, self._counts())
        texts = [encode(supervision_registry(answers, counts))]
        texts += [text for _, text in sorted(answers.items()) if text is not None]
        return merge_metrics([*texts, encode(self._parent)]), content_type

    async def readiness(self) -> Document:
        """Return whether the service accepts requests, and the status of each process."""
        if self._is_only_one:
            return self._readiness(self._state)
        question = self._ask("readiness", timeout=READY_SECONDS)
        answers, counts = await asyncio.gather(question, self._counts(READY_SECONDS))
        numbers = {*answers, *counts.up}
        found = {number: _decoded(answers.get(number)) for number in sorted(numbers)}
        return merge_readiness(found, counts.starting)

    async def flows(self, *, trusted: bool) -> Document:
        """Return all active flows and the last reload."""
        question = FlowQuestion(None, trusted)
        if self._is_only_one:
            return _flow_document(self._state, question)
        found, missing = await self._flow_documents(question)
        return {
            "flows": merge_flows({number: document["flows"] for number, document in found.items()}),
            "lastReload": newest_result(document["lastReload"] for document in found.values()),
            "processes": list(found),
            "missing": missing,
        }

    async def flow(self, name: str, *, trusted: bool) -> Document:
        """Return one flow, which a process has registered. Raises 404."""
        if self._is_only_one:
            return describe(self._state, self._state.registered_flow(name), trusted=trusted)
        found, missing = await self._flow_documents(FlowQuestion(name, trusted))
        documents = {number: flow for number, document in found.items() for flow in document["flows"]}
        if not documents:
            documents = {
                self._state.peers.number: describe(self._state, self._state.registered_flow(name), trusted=trusted)
            }
        return merge_flow(documents) | {"processes": list(found), "missing": missing}

    async def graph_counters(self, flow: str) -> FlowCounters:
        """Return the counts of an active flow for its graph."""
        if self._is_only_one:
            return FlowCounters.of(self._state.supervisor.flow_statistics.get(flow) or FlowStatistics(flow))
        answers = await self._ask("graph", flow.encode())
        found = [_decoded(answer) for answer in answers.values() if answer is not None]
        return FlowCounters(**merge_graph_counts([counts for counts in found if counts is not None]))

    async def has_open_run(self, id: str) -> bool:
        """Return whether a run is open in one of the processes."""
        return id in self._state.supervisor.runs or (
            not self._is_only_one and any((await self._ask("run", id.encode())).values())
        )

    async def _ask(self, topic: str, payload: bytes = b"", timeout: float = ASK_SECONDS) -> dict[int, bytes | None]:
        """Return the answers of all processes; only that of this process if the parent is gone or passes none on."""
        try:
            answers = await self._state.peers.ask(topic, payload, timeout=timeout)
            return {number: answer and zlib.decompress(answer) for number, answer in answers.items()}
        except NoAnswer:
            others = dict.fromkeys(range(1, self._state.peers.count + 1))
            return {**others, self._state.peers.number: self._answers[topic](payload)}

    async def _counts(self, timeout: float = ASK_SECONDS) -> ProcessCounts:
        """Return the processes as the parent sees them."""
        try:
            answer = await self._state.peers.ask_parent(PROCESS_COUNTS, timeout=timeout)
        except NoAnswer:
            return ProcessCounts({}, {}, 0)
        return msgspec.msgpack.decode(answer, type=ProcessCounts)

    async def _flow_documents(self, question: FlowQuestion) -> tuple[dict[int, Document], list[int]]:
        """Return what each process answers, and the processes that do not answer."""
        answers = sorted((await self._ask("flows", msgspec.json.encode(question))).items())
        found = {number: msgspec.json.decode(answer) for number, answer in answers if answer is not None}
        return found, [number for number, answer in answers if answer is None]

    def _own_flows(self, payload: bytes) -> bytes:
        return encode_json(_flow_document(self._state, msgspec.json.decode(payload, type=FlowQuestion)))


ALL_PROCESSES: web.AppKey[AllProcesses] = web.AppKey("all_processes", AllProcesses)


def readiness(state: AppState) -> Document:
    """Return whether this process accepts requests, or why it does not."""
    supervisor = state.supervisor
    if state.stop.is_set() and supervisor.phase is Phase.SERVING:
        return {"status": Phase.DRAINING.value}
    if supervisor.phase is not Phase.SERVING:
        return {"status": supervisor.phase.value}
    if unusable := [name for name, usable in supervisor.stores.usable().items() if not usable]:
        return {"status": "dead_letters_unusable", "stores": unusable}
    return {"status": READY}


def work_readiness(state: AppState) -> Document:
    """Return the same for a process that only runs workers.

    It is not ready if for half a minute one could not receive, or values waited for a sink that cannot be reached.
    """
    workers = state.supervisor.unavailable_workers().items()
    unavailable = ["/".join(name) for name, seconds in workers if seconds >= UNAVAILABLE_SECONDS]
    sinks = [sink for sink, seconds in outage_seconds() if seconds >= UNAVAILABLE_SECONDS]
    document = readiness(state)
    if document["status"] == READY and (unavailable or sinks):
        return {"status": NOT_WORKING, "workers": unavailable, "sinks": sinks}
    return document


def _flow_document(state: AppState, question: FlowQuestion) -> Document:
    """Return the flows of this process that a question is about. A removed flow has only a document of its own."""
    registered = state.registry.flows
    if question.name is None:
        flows = [flow for flow in registered.values() if flow.active is not None]
    else:
        flows = [registered[question.name]] if question.name in registered else []
    last = state.reloader.last
    return {
        "flows": [describe(state, flow, trusted=question.trusted) for flow in flows],
        "lastReload": last and last.document(trusted=question.trusted),
    }


def _graph_counts(state: AppState, flow: str) -> FlowCounters | None:
    """Return the counts of a flow and its services in this process; None if it is not served here."""
    if (revision := state.registry.flow(flow)) is None or flow not in state.supervisor.flow_statistics:
        return None
    counts = FlowCounters.of(state.supervisor.flow_statistics[flow])
    services = {service.name: service_counts(service) for service in revision.all_services}
    return dataclasses.replace(counts, services=services)


def _encoder(accept: str) -> tuple[Callable[[Collector], bytes], str]:
    """Return the function that writes metrics in the requested format, and the media type."""
    try:
        return choose_encoder(accept)
    except (TypeError, ValueError):  # Accept has an invalid version parameter
        return choose_encoder("")


def _decoded(answer: bytes | None) -> Any:
    return None if answer is None else msgspec.json.decode(answer)


def _awaitable(answer: Answer) -> Any:
    """Return a handler for `Peers.on`. Answers are compressed: those of all processes share one message."""

    async def handler(payload: bytes) -> bytes:
        return zlib.compress(answer(payload), 1)

    return handler
