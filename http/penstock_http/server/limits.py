"""Share the limits of services and of runs with the other processes of the service, if there are any."""

from __future__ import annotations

import asyncio

import structlog

from penstock.runtime import Supervisor
from penstock_http.deployments.registry import FlowRegistry
from penstock_http.server.membership import Membership

log: structlog.stdlib.BoundLogger = structlog.get_logger()


def share_limits(membership: Membership, supervisor: Supervisor) -> asyncio.Task[None] | None:
    """Share `max_in_flight` and `rate` of services, and `max_runs`. Returns the task that keeps the shares up to date.

    Nothing is shared by the only process of a service; then it returns None.
    """
    if not membership.peers.number:
        return None
    from penstock_http.processes.service_shares import ServiceShares  # not for Windows
    from penstock_http.processes.shared_limits import LIMITS, SharedLimits
    from penstock_http.processes.shared_slots import SharedSlots

    peers = membership.peers
    limits = SharedLimits(membership.descriptors[LIMITS], peers.count, peers.number)
    shares = ServiceShares(limits, lambda: supervisor.services)
    supervisor.slots = SharedSlots(limits)
    supervisor.on_service = shares.use
    return asyncio.get_running_loop().create_task(shares.run(), name="limits:shares")


def log_shared(membership: Membership, supervisor: Supervisor, registry: FlowRegistry) -> None:
    """Have the process that leads log which limits all processes share, and which workers only it runs."""

    async def on_lead(leads: bool) -> None:
        if not leads:
            return
        workers = [(f"{each.name}/{worker.name}", worker) for each in registry.active for worker in each.flow.workers]
        log.info(
            "limits.shared",
            processes=membership.peers.count,
            max_runs=supervisor.max_runs,
            max_in_flight={service.name: service.max_in_flight for service in supervisor.services},
            rate={service.name: service.rate for service in supervisor.services if service.rate is not None},
            workers_in_one_process=[name for name, worker in workers if not worker.runs_everywhere],
            workers_in_every_process=[name for name, worker in workers if worker.runs_everywhere],
        )

    if membership.peers.number:
        registry.on_lead.append(on_lead)
