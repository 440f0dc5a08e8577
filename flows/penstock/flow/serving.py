"""How the service keeps a flow: its workers in the background, and how it is served over HTTP."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from penstock.runtime.schedule import Once, Schedule
from penstock.sources import Source

RESERVED = ("dead-letters", "flows", "health")
"""Names that no flow can be served as: their paths are the service's own."""


@dataclass(frozen=True, slots=True)
class Worker:
    """A run of a flow in the background: where its items come from, and when it runs."""

    name: str
    source: Source[Any]
    schedule: Schedule = field(default_factory=Once)


@dataclass(frozen=True, slots=True)
class ServingOptions:
    """How a flow is served over HTTP, at `/NAME/bulk`. A limit that is None is the service's own."""

    name: str | None = None
    """The name in its path; None for the flow's own."""
    http: bool = True
    """False for a flow that only its workers run."""
    max_runs: int | None = None
    """Streams of this flow that may be open at once."""
    max_line: int | None = None
    """Bytes that one line may have."""
    max_body: int | None = None
    """Bytes that a JSON body, or an answer in one piece, may have."""
    max_count: int | None = None
    """Samples that one GET may ask for."""
