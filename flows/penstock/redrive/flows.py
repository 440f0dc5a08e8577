"""Find the flows that letters are run through."""

from __future__ import annotations

from typing import Protocol

from penstock.runtime.supervisor import RunnableFlow


class FlowLookup(Protocol):
    """Finds flows by name: the registry of a service, or the flows that a command has loaded."""

    def flow(self, name: str) -> RunnableFlow | None:
        """Return the current revision of a flow; None if there is none. The same object until it is replaced."""
        ...
