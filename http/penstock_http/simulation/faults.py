"""The faults of the simulated services: settings for all requests, which a single request can override."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, cast


@dataclass(frozen=True, slots=True)
class FaultSettings:
    """Latencies and faults of the simulated services. Raises `ValueError` for a value out of range."""

    latency_scale: float = 1.0
    """Factor of the latencies: 100 ms for prices, 150 ms for stock."""
    jitter: float = 0.0
    """Maximum random addition to a latency, in seconds."""
    error_rate: float = 0.0
    """Fraction of requests that get status 500."""
    hang_rate: float = 0.0
    """Fraction of requests that never get a response."""
    slow_body: float = 0.0
    """Duration of a response body, from its first to its last byte, in seconds."""
    seed: int | None = None
    """Random seed, to repeat the same faults."""

    def __post_init__(self) -> None:
        for field, name in REQUEST_FAULTS.items():
            value = getattr(self, field)
            maximum = 1.0 if field.endswith("rate") else 3600.0
            if not 0 <= value <= maximum:
                raise ValueError(f"{name}: expected a number from 0 to {maximum:g}, got {value:g}")

    def override(self, *requested: Mapping[str, str]) -> FaultSettings:
        """Return the settings with those of a request, from its headers and query. Raises `ValueError`."""
        values = {
            field: _number(name, given[name])
            for given in requested
            for field, name in REQUEST_FAULTS.items()
            if name in given
        }
        return replace(self, **cast("dict[str, Any]", values)) if values else self


REQUEST_FAULTS = {field.name: field.name.replace("_", "-") for field in fields(FaultSettings) if field.name != "seed"}
"""The settings that a request can override, each with its name in options, headers and query parameters."""


def _number(name: str, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"{name}: expected a number, got {text!r}") from None
