"""A revision: one version of a flow as it was loaded, from its first run to the end of its last."""

from __future__ import annotations

import asyncio
from collections.abc import Generator
from contextlib import contextmanager
from enum import StrEnum
from typing import Any

import msgspec
from msgspec import Struct

from penstock.flow import Flow
from penstock.ids import now
from penstock.runtime import Plan
from penstock.services import Service

UPLOADED = "PUT"
"""The source of a flow that came over HTTP."""


class State(StrEnum):
    """How far a revision is."""

    ACTIVE = "active"
    """New runs take it."""
    DRAINING = "draining"
    """Its runs go on to their own end; new ones take another."""


class Offer(Struct, frozen=True, eq=False):
    """A flow that is to be served from now on."""

    flow: Flow[Any]
    digest: str
    source: str
    """The file that it comes from, or its name in Python; `PUT` or `built in` for what comes from neither."""


class Revision:
    """One version of a flow. To the supervisor it is a flow; its number and digest go with every run."""

    def __init__(self, flow: Flow[Any], number: int, digest: str, source: str) -> None:
        self.name = flow.name
        self.flow = flow
        self.number = number
        self.digest = digest
        self.source = source
        self.loaded_at = now()
        self.state = State.ACTIVE
        self.requests = 0
        """Requests that hold it: their runs are open, or about to be."""
        self._free = asyncio.Event()
        self._free.set()

    def __repr__(self) -> str:
        return f"Revision({self.name!r}, {self.number}, {self.state.value})"

    @property
    def served_as(self) -> str | None:
        """The name in its path, if it is served over HTTP."""
        return self.flow.served_as

    @property
    def places(self) -> tuple[str, ...]:
        """Where an element may fail."""
        return self.flow.places

    @property
    def measured(self) -> tuple[str, ...]:
        """The steps that measure how long elements spend in them."""
        return self.flow.measured

    @property
    def services(self) -> tuple[Service, ...]:
        """All services that the steps call."""
        return self.flow.services

    def plan(self) -> Plan:
        """What a run needs to know."""
        return msgspec.structs.replace(self.flow.plan(), revision=self.number, digest=self.digest)

    @contextmanager
    def held(self) -> Generator[Revision, None, None]:
        """Keep it from being retired, for a request that starts a run of it."""
        self.requests += 1
        self._free.clear()
        try:
            yield self
        finally:
            self.requests -= 1
            if not self.requests:
                self._free.set()

    async def free(self) -> None:
        """Wait until no request holds it."""
        await self._free.wait()

    def document(self, runs: int) -> dict[str, Any]:
        """The revision for people and programs, with how many runs of it are open."""
        return {
            "number": self.number,
            "digest": self.digest,
            "state": self.state.value,
            "source": self.source,
            "runs": runs,
            "loadedAt": self.loaded_at.isoformat(),
        }
