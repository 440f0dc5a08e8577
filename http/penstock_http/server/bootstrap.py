"""Load the flows that are served: flow files, flows in Python, or the built-in orders flow.

The settings are the defaults for everything that a flow does not declare.
"""

from __future__ import annotations

import string
from collections.abc import Sequence
from dataclasses import replace
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

from penstock.core.window import BYTES, ELEMENTS
from penstock.deadletters import DeadLetterStore
from penstock.deadletters.stores import is_in_memory
from penstock.errors import FlowDefinitionError, PenstockError
from penstock.flow.flow import Flow
from penstock.flowfile.diagnostics import MAX_DIAGNOSTICS
from penstock.flowfile.find_flow import find_flow
from penstock.flowfile.load import FlowFile, load, loads
from penstock.orders import sample_orders, simulated_inventory, simulated_pricing
from penstock.runtime import Every, Once, Supervisor
from penstock.services import Service
from penstock.services.http_client import HttpClient
from penstock.settings import Settings
from penstock.sinks import check_sinks
from penstock_http.deployments.everywhere import AnyReloader
from penstock_http.deployments.file_watcher import WatchedFiles
from penstock_http.deployments.loader import FlowLoader, scan
from penstock_http.deployments.result import DeploymentResult
from penstock_http.deployments.revision import FlowCandidate


class ConfigurationError(PenstockError):
    """The flows cannot be served. The message has one line per error."""

    def __init__(self, lines: Sequence[str]) -> None:
        super().__init__("\n".join(lines))


def make_loader(settings: Settings, *, workers_only: bool = False) -> FlowLoader:
    """Return the loader of flow files for a service with these settings.

    With `workers_only`, flows without a worker are rejected.
    """

    def to_flow(file: FlowFile) -> Flow[Any]:
        return _with_worker(with_defaults(file, settings)) if workers_only else with_defaults(file, settings)

    return FlowLoader(load, loads, to_flow)


async def load_flows(reloader: AnyReloader, supervisor: Supervisor, paths: Sequence[Path]) -> None:
    """Load and deploy all flows, or none. `paths` are the files and directories. Raises `ConfigurationError`."""
    results = await reloader.start()
    if reloader.last is None or any(result.diagnostics for result in results):
        if supervisor.workers:  # the error is a store that cannot be opened: other flows may be deployed already
            await supervisor.shut_down(0)
        folders = ", ".join(map(str, paths))
        nothing = f"there is no flow file in {folders}; a flow file has the key flow at its top: flow: NAME"
        raise ConfigurationError(_error_lines(results) or [nothing])


def python_flows(
    names: Sequence[str], files: WatchedFiles, settings: Settings, *, workers_only: bool = False
) -> list[FlowCandidate]:
    """Return the flows in Python with these names. With `workers_only`, those without a worker are rejected.

    Raises `ConfigurationError` with the errors of all of them, and with those of the flow files.
    """
    candidates: list[FlowCandidate] = []
    errors: list[str] = []
    for name in names:
        try:
            candidate = python_flow(name, settings)
            candidates.append(candidate)
            if workers_only:
                _with_worker(candidate.flow)
        except FlowDefinitionError as error:
            errors.append(str(error))
    if errors:
        loader = make_loader(settings, workers_only=workers_only)
        raise ConfigurationError([*errors, *_error_lines(scan(loader, files, {}, {}).failures)])
    return candidates


def python_flow(name: str, settings: Settings) -> FlowCandidate:
    """Return the flow that `module:name` is or returns. Raises `FlowDefinitionError`.

    The settings replace a window of the default size, and are the default for the dead-letter store.
    """
    found = find_flow(name)
    flow = found.flow
    check_sinks(flow.all_sinks.values(), locks=True)
    has_default_window = (flow.elements, flow.bytes) == (ELEMENTS, BYTES)
    flow = _apply_settings(flow, settings, window=has_default_window, dead_letters=flow.store is None)
    return FlowCandidate(flow, found.digest, name)


def with_defaults(file: FlowFile, settings: Settings) -> Flow[Any]:
    """Return the flow of a file, with the settings as defaults. `--workers 0` removes its workers."""
    check_sinks(file.flow.all_sinks.values(), locks=True)
    return _apply_settings(
        file.flow,
        settings,
        window="window" not in file.declared,
        dead_letters="dead_letters" not in file.declared,
    )


def builtin_flow(settings: Settings, client: HttpClient) -> FlowCandidate:
    """Return the orders flow, with services, window, dead-letter store and workers A, B, … from the settings."""
    with as_file(files("penstock").joinpath("orders.yaml")) as path:
        file = load(path)
    services = {"pricing": _pricing(settings, client), "inventory": _inventory(settings, client)}
    flow = replace(file.flow.services(services), workers=())
    flow = flow.window(settings.window, settings.window_bytes)
    flow = flow.dead_letters(settings.dead_letters, redact=flow.redacted)
    schedule = Every(settings.worker_every) if settings.worker_every else Once()
    for number in range(settings.workers):
        name = string.ascii_uppercase[number] if number < 26 else f"W{number + 1}"
        flow = flow.worker(name, sample_orders(settings.worker_orders), schedule)
    return FlowCandidate(flow, file.digest, "built in")


def _with_worker(flow: Flow[Any]) -> Flow[Any]:
    """Return a flow that has a worker. Raises `FlowDefinitionError` for others."""
    if not flow.workers:
        raise FlowDefinitionError(
            f"flow {flow.name} has no worker, and penstock work runs nothing else; describe one under workers:, or "
            "serve the flow with penstock serve"
        )
    return flow


def _apply_settings(flow: Flow[Any], settings: Settings, *, window: bool, dead_letters: bool) -> Flow[Any]:
    """Return the flow with the window and the dead-letter store of the settings, where these are true."""
    if window:
        flow = flow.window(settings.window, settings.window_bytes)
    if dead_letters:
        flow = flow.dead_letters(settings.dead_letters)
    check_store(flow.store, settings)
    return flow if settings.workers else replace(flow, workers=())


def check_store(store: str | DeadLetterStore | None, settings: Settings) -> None:
    """Raise `FlowDefinitionError` for a store in memory if several processes serve: each would have its own letters."""
    if settings.processes > 1 and is_in_memory(store):
        raise FlowDefinitionError(
            f"dead letters in memory: each of {settings.processes} processes would have its own; use sqlite:///FILE or "
            "a server, or set --processes to 1"
        )


def _pricing(settings: Settings, client: HttpClient) -> Service:
    """Return the pricing service at the URL of the settings, or the simulated one."""
    if settings.pricing_url:
        return _http_service("pricing", settings.pricing_url, settings, client)
    return simulated_pricing(settings.latency_scale, settings.max_in_flight)


def _inventory(settings: Settings, client: HttpClient) -> Service:
    """Return the inventory service at the URL of the settings, or the simulated one."""
    if settings.inventory_url:
        return _http_service("inventory", settings.inventory_url, settings, client)
    return simulated_inventory(settings.latency_scale, settings.max_in_flight)


def _http_service(name: str, url: str, settings: Settings, client: HttpClient) -> Service:
    return Service.http(
        name,
        url,
        client=client,
        max_in_flight=settings.max_in_flight,
        timeout=settings.service_timeout,
        attempts=2,
    )


def _error_lines(results: Sequence[DeploymentResult]) -> list[str]:
    """Return the errors of all flows, one line each, up to a maximum."""
    lines = [str(diagnostic) for result in results for diagnostic in result.diagnostics]
    more = sum(result.more_diagnostics for result in results) + max(0, len(lines) - MAX_DIAGNOSTICS)
    return [*lines[:MAX_DIAGNOSTICS], *([f"and {more} more"] if more else [])]
