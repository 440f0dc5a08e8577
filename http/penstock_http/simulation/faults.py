"""How slow and how faulty the simulated services are, for all requests or for one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, cast


@dataclass(frozen=True, slots=True)
class FaultSettings:
    """How slow and how faulty the services are."""

    latency_scale: float = 1.0
    """Multiplies the latencies: 100 ms for prices, 150 ms for stock."""
    jitter: float = 0.0
    """Seconds at most that are added to a latency, at random."""
    error_rate: float = 0.0
    """Share of requests that are answered with status 500."""
    hang_rate: float = 0.0
    """Share of requests that are never answered."""
    slow_body: float = 0.0
    """Seconds that a body takes from its first byte to its last."""
    seed: int | None = None
    """Makes chance repeat itself."""

    def __post_init__(self) -> None:
        for name, knob in REQUEST_FAULTS.items():
            value = getattr(self, name)
            most = 1.0 if name.endswith("rate") else 3600.0
            if not 0 <= value <= most:
                raise ValueError(f"{knob} goes from 0 to {most:g}, not {value:g}")

    def tuned(self, *wishes: Mapping[str, str]) -> FaultSettings:
        """These knobs as one request wants them."""
        found = {name: float(wish[knob]) for wish in wishes for name, knob in REQUEST_FAULTS.items() if knob in wish}
        return replace(self, **cast("dict[str, Any]", found)) if found else self


REQUEST_FAULTS = {field.name: field.name.replace("_", "-") for field in fields(FaultSettings) if field.name != "seed"}
"""The knobs that a request may turn for itself, and what they are called on the command line and in HTTP."""
