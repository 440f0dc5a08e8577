"""Find the flows that letters are run through."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, Self, cast

from penstock.deadletters.target import AutoRedrive
from penstock.runtime.supervisor import RunnableFlow
from penstock.runtime.wiring import RunPlan
from penstock.sinks import Sink
from penstock.steps import Step


class FlowLookup(Protocol):
    """Finds flows by name: the registry of a service, or the flows that a command has loaded."""

    def flow(self, name: str) -> RunnableFlow | None:
        """Return the current revision of a flow, or None. The same object until it is replaced."""
        ...

    def names(self) -> Sequence[str]:
        """Return the names of all flows."""
        ...


class FlowDefinition(Protocol):
    """The part of a `Flow` that plans and trials use."""

    @property
    def steps(self) -> tuple[Step, ...]: ...

    @property
    def all_sinks(self) -> dict[str, Sink]: ...

    @property
    def auto_redrive(self) -> AutoRedrive | None: ...

    def sinks(self, others: Mapping[str, Sink]) -> Self: ...

    def plan(self) -> RunPlan: ...


def definition_of(flow: RunnableFlow) -> FlowDefinition:
    """Return the definition of a flow, given the flow itself or a revision of it."""
    found: Any = getattr(flow, "flow", flow)
    return cast("FlowDefinition", found)
