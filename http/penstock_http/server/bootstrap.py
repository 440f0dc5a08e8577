"""What is served: flow files, flows of Python, or the orders flow; settings are defaults for what they leave open."""

from __future__ import annotations

import string
from dataclasses import replace
from importlib.resources import as_file, files
from typing import Any

from penstock.cli.run.find_flow import find_flow
from penstock.core.window import BYTES, ELEMENTS
from penstock.flow.flow import Flow
from penstock.flowfile.load import FlowFile, load, loads
from penstock.orders import sample_orders, simulated_inventory, simulated_pricing
from penstock.runtime import Every, Once
from penstock.services import Service
from penstock.services.http_client import HttpClient
from penstock.settings import Settings
from penstock.sinks import check_sinks
from penstock_http.deployments.loader import FlowLoader
from penstock_http.deployments.revision import FlowCandidate


def loader(settings: Settings) -> FlowLoader:
    """What reads flow files for a service with these settings."""
    return FlowLoader(load, loads, lambda file: with_defaults(file, settings))


def with_defaults(file: FlowFile, settings: Settings) -> Flow[Any]:
    """The flow of a file; what the file leaves open is as the settings have it. `--workers 0` means none."""
    said = file.declared
    check_sinks(file.flow.outlets.values(), locks=True)
    return _completed(file.flow, settings, window="window" not in said, dead_letters="dead_letters" not in said)


def python_flow(name: str, settings: Settings) -> FlowCandidate:
    """The flow that `module:name` is or makes, for as long as the service runs. Raises `FlowDefinitionError`.

    A window of the usual size, and dead letters that it does not name, are as the settings have them.
    """
    found = find_flow(name)
    flow = found.flow
    check_sinks(flow.outlets.values(), locks=True)
    usual = (flow.elements, flow.bytes) == (ELEMENTS, BYTES)
    return FlowCandidate(_completed(flow, settings, window=usual, dead_letters=flow.store is None), found.digest, name)


def _completed(flow: Flow[Any], settings: Settings, *, window: bool, dead_letters: bool) -> Flow[Any]:
    if window:
        flow = flow.window(settings.window, settings.window_bytes)
    if dead_letters:
        flow = flow.dead_letters(settings.dead_letters)
    return flow if settings.workers else replace(flow, workers=())


def builtin_flow(settings: Settings, client: HttpClient) -> FlowCandidate:
    """The orders flow of the package; its services, window, store and workers A, B, … are as the settings have them."""
    with as_file(files("penstock").joinpath("orders.yaml")) as path:
        file = load(path)
    services = {"pricing": pricing(settings, client), "inventory": inventory(settings, client)}
    flow = replace(file.flow.with_services(services), workers=())
    flow = flow.window(settings.window, settings.window_bytes)
    flow = flow.dead_letters(settings.dead_letters, redact=flow.redacted)
    schedule = Every(settings.worker_every) if settings.worker_every else Once()
    for number in range(settings.workers):
        name = string.ascii_uppercase[number] if number < 26 else f"W{number + 1}"
        flow = flow.worker(name, sample_orders(settings.worker_orders), schedule)
    return FlowCandidate(flow, file.digest, "built in")


def pricing(settings: Settings, client: HttpClient) -> Service:
    """The pricing service: the one at a URL, or the simulated one."""
    if settings.pricing_url:
        return _http("pricing", settings.pricing_url, settings, client)
    return simulated_pricing(settings.latency_scale, settings.max_in_flight)


def inventory(settings: Settings, client: HttpClient) -> Service:
    """The inventory service: the one at a URL, or the simulated one."""
    if settings.inventory_url:
        return _http("inventory", settings.inventory_url, settings, client)
    return simulated_inventory(settings.latency_scale, settings.max_in_flight)


def _http(name: str, url: str, settings: Settings, client: HttpClient) -> Service:
    return Service.http(
        name,
        url,
        client=client,
        max_in_flight=settings.max_in_flight,
        timeout=settings.service_timeout,
        attempts=2,
    )
