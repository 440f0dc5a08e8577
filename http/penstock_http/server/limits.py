"""Share the limits of services and of runs with the other processes of the service, if there are any."""

from __future__ import annotations

import asyncio

from penstock.runtime import Supervisor
from penstock_http.server.membership import Membership


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
