"""Fixtures: the dashboard, and its panels with their queries."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import pytest

DASHBOARDS = Path(__file__).parents[2] / "dashboards"


class Panel(NamedTuple):
    """A panel that shows data, with its PromQL queries."""

    id: int
    title: str
    queries: list[str]


@pytest.fixture(scope="session")
def prometheus_folder() -> Path:
    """The folder of the configuration of Prometheus, its rules and their tests."""
    return DASHBOARDS / "prometheus"


@pytest.fixture(scope="session")
def dashboard() -> dict[str, Any]:
    """The JSON of the dashboard."""
    return json.loads((DASHBOARDS / "grafana" / "penstock.json").read_text())


@pytest.fixture(scope="session")
def panels(dashboard: dict[str, Any]) -> list[Panel]:
    """All panels except rows, which only group panels."""
    return [
        Panel(panel["id"], panel["title"], [target["expr"] for target in panel["targets"]])
        for panel in dashboard["panels"]
        if panel["type"] != "row"
    ]
