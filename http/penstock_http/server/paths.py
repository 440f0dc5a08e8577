"""Read the arguments that name flows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from penstock.flowfile.discovery import holds_flow
from penstock.flowfile.field_types import is_in_python
from penstock_http.deployments.file_watcher import WatchedFiles


def parse_flows(names: Sequence[str]) -> tuple[list[str], WatchedFiles]:
    """Return the names of flows in Python, and the flow files and directories."""
    modules = [name for name in names if is_in_python(name)]
    paths = [Path(name) for name in names if name not in modules]
    return modules, WatchedFiles(paths, holds_flow=holds_flow)
