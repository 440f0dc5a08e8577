"""Describe how the service runs a flow: its workers, and how it is served over HTTP."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from penstock.runtime.schedule import Cron, Once, Schedule
from penstock.sources import Source

RESERVED = ("dead-letters", "flows", "health")
"""Names that no flow can be served as: the service uses their paths."""


@dataclass(frozen=True, slots=True)
class Worker:
    """A run of a flow in the background: its source and its schedule."""

    name: str
    source: Source[Any]
    schedule: Schedule = field(default_factory=Once)

    @property
    def runs_everywhere(self) -> bool:
        """Whether every process of a service runs it at the same time. Others are run by one process, the leader."""
        return self.source.competes and not isinstance(self.schedule, Cron)


@dataclass(frozen=True, slots=True)
class ServingOptions:
    """Options of a flow served over HTTP at `/NAME/bulk`. For a limit of None, the limit of the service applies."""

    name: str | None = None
    """The name in the path. Default: the name of the flow."""
    http: bool = True
    """Whether the flow is served; False if only its workers run it."""
    max_runs: int | None = None
    """Maximum of open streams of this flow."""
    max_line: int | None = None
    """Maximum of bytes in a line."""
    max_body: int | None = None
    """Maximum of bytes in a JSON body, or in a response that is not streamed."""
    max_count: int | None = None
    """Maximum of samples in a GET request."""
    refuse_when_open: bool = False
    """Whether requests get 503 while the circuit breaker of a service of the flow is open. Otherwise they wait."""
