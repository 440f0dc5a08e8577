"""Begin and cease to lead, as the parent of several processes says."""

from __future__ import annotations

from msgspec import msgpack

from penstock.support.ids import now
from penstock_http.deployments.progress import after_crash, decode_progress, encode_progress
from penstock_http.deployments.registry import FlowRegistry
from penstock_http.processes.member import LEAD, RELEASE
from penstock_http.processes.messages import TakeLead
from penstock_http.processes.peers import Peers


def follow_lead(peers: Peers, registry: FlowRegistry) -> None:
    """Answer the parent: the workers that only one process runs go on here, or end here and go on elsewhere."""

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
