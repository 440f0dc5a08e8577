"""The flows that a command runs letters through: those that are named, or the built-in orders flow."""

from __future__ import annotations

import os
from collections.abc import Sequence
from importlib.resources import as_file, files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from penstock.errors import FlowDefinitionError

if TYPE_CHECKING:  # imported late: `list` does not need it
    from penstock.flow.flow import Flow


class CommandFlows:
    """Flows by name. Files are loaded at once, the orders flow when it is used.

    Raises `FlowDefinitionError` for a file that cannot be loaded, and for two flows with one name.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self._flows: dict[str, Flow[Any]] = {}
        self._builtin = not names
        if names:
            self._load(names)

    def flow(self, name: str) -> Flow[Any] | None:
        """Return a flow, or None."""
        if self._builtin and name == "orders" and name not in self._flows:
            self._flows[name] = orders()
        return self._flows.get(name)

    def names(self) -> list[str]:
        """Return the names of the flows."""
        return ["orders"] if self._builtin else list(self._flows)

    def stores(self) -> list[str]:
        """Return the URLs of the stores of the flows that were named."""
        urls = [flow.store for flow in self._flows.values()]
        return list(dict.fromkeys(url for url in urls if isinstance(url, str)))

    def _load(self, names: Sequence[str]) -> None:
        from penstock.flowfile.discovery import files_of
        from penstock.flowfile.field_types import is_in_python
        from penstock.flowfile.find_flow import find_flow

        for given in names:
            for name in [given] if is_in_python(given) else map(str, files_of(Path(given))):
                flow = find_flow(name).flow
                if flow.name in self._flows:
                    raise FlowDefinitionError(f"--flows {name}: flow {flow.name!r} is named twice")
                self._flows[flow.name] = flow


def orders() -> Flow[Any]:
    """Make the orders flow, with the services that the `PENSTOCK_` variables name, as `penstock serve` does."""
    from penstock.flowfile.load import load
    from penstock.orders import simulated_inventory, simulated_pricing
    from penstock.services import Service
    from penstock.settings import load_settings

    settings = load_settings({}, os.environ)

    def http_service(name: str, url: str) -> Service:
        return Service.http(
            name, url, max_in_flight=settings.max_in_flight, timeout=settings.service_timeout, attempts=2
        )

    with as_file(files("penstock").joinpath("orders.yaml")) as path:
        flow = load(path).flow
    scale, width = settings.latency_scale, settings.max_in_flight
    pricing, inventory = settings.pricing_url, settings.inventory_url
    services = {
        "pricing": http_service("pricing", pricing) if pricing else simulated_pricing(scale, width),
        "inventory": http_service("inventory", inventory) if inventory else simulated_inventory(scale, width),
    }
    return flow.services(services).window(settings.window, settings.window_bytes)
