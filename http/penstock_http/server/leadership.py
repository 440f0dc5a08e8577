"""Take and release the lead when the parent asks for it, and report the progress of the workers to the parent."""

from __future__ import annotations

import asyncio

import structlog
from msgspec import msgpack

from penstock.errors import describe
from penstock.runtime import Supervisor
from penstock.support.ids import now
from penstock_http.deployments.progress import after_crash, decode_progress, encode_progress
from penstock_http.deployments.registry import FlowRegistry
from penstock_http.processes.member import LEAD, PROGRESS, RELEASE
from penstock_http.processes.messages import TakeLead
from penstock_http.processes.peers import Peers

REPORT_SECONDS = 1.0
"""Seconds between two reports of a process that leads. Its next report has all that has changed."""

log: structlog.stdlib.BoundLogger = structlog.get_logger()


def follow_lead(peers: Peers, registry: FlowRegistry) -> None:
    """Answer the parent: start the workers that only one process runs, or stop them, so that another process can."""

    async def take(payload: bytes) -> bytes:
        known = msgpack.decode(payload, type=TakeLead)
        progress = decode_progress(known.progress)
        await registry.lead(True, progress if known.released else after_crash(progress, now()))
        return b""

    async def release(_: bytes) -> bytes:
        await registry.lead(False)
        return encode_progress(registry.progress)

    peers.on(LEAD, take)
    peers.on(RELEASE, release)


async def report_progress(peers: Peers, registry: FlowRegistry, supervisor: Supervisor) -> None:
    """Report to the parent when runs of workers have completed, until cancelled, so that the next leader knows.

    Does nothing in the only process of a service.
    """
    if peers.count == 1:
        return
    completed = asyncio.Event()
    supervisor.on_worker_completed = completed.set
    while True:
        await completed.wait()
        completed.clear()
        if registry.leads:
            try:
                await peers.ask_parent(PROGRESS, encode_progress(registry.progress))
            except Exception as error:  # mostly NoAnswer; the next report has it too
                log.warning("workers.not_reported", error=describe(error))
        await asyncio.sleep(REPORT_SECONDS)
