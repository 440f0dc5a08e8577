"""The dashboard as Grafana reads it: its panels, each with its queries."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import pytest

DASHBOARDS = Path(__file__).parents[2] / "dashboards"


class Panel(NamedTuple):
    """One panel that shows data, and the PromQL that it asks for."""

    id: int
    title: str
    queries: list[str]


@pytest.fixture(scope="session")
def prometheus_folder() -> Path:
    """Where the configuration of Prometheus, its rules and their tests are."""
    return DASHBOARDS / "prometheus"


@pytest.fixture(scope="session")
def dashboard() -> dict[str, Any]:
    """The dashboard, as its JSON says it."""
    return json.loads((DASHBOARDS / "grafana" / "penstock.json").read_text())


@pytest.fixture(scope="session")
def panels(dashboard: dict[str, Any]) -> list[Panel]:
    """All panels but the rows, which only part them."""
    return [
        Panel(panel["id"], panel["title"], [target["expr"] for target in panel["targets"]])
        for panel in dashboard["panels"]
        if panel["type"] != "row"
    ]
