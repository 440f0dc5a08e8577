"""The life cycle of `penstock serve` and `penstock work`: start, listen, and shut down in order."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Sequence
from importlib.metadata import version

from aiohttp import web

from penstock.observe import HttpCounters, LogFile, MetricSources, PenstockCollector, ReloadCounters
from penstock.runtime import Phase, Supervisor
from penstock.services.http_client import HttpClient
from penstock.settings import Settings
from penstock_http.app import make_app, make_work_app
from penstock_http.deployments.everywhere import reloader_of_all
from penstock_http.deployments.file_watcher import WatchedFiles, watch_files
from penstock_http.deployments.registry import FlowRegistry
from penstock_http.deployments.reload import Reloader
from penstock_http.deployments.revision import FlowCandidate
from penstock_http.server.bootstrap import builtin_flow, load_flows, make_loader
from penstock_http.server.connection import AcceptErrorHandler, ConnectionFactory
from penstock_http.server.dead_letters import DeadLetterWork
from penstock_http.server.leadership import follow_lead, report_progress
from penstock_http.server.limits import log_shared, share_limits
from penstock_http.server.membership import Alone, Membership
from penstock_http.server.retirement import close_when_leaving, first_of, retire, wait_for_drain_delay
from penstock_http.server.sharing import make_stores
from penstock_http.server.signals import install_signals, reload_on_signal, sighup_event
from penstock_http.server.tls import tls_of
from penstock_http.state import AppState

CLOSE_TIMEOUT = 2.0
"""Seconds that clients have to receive the end of their streams when the service shuts down."""

CLOSE_CHECK_SECONDS = 0.02
"""Seconds between two checks whether they have closed their connections."""


async def serve(
    settings: Settings,
    files: WatchedFiles,
    static: Sequence[FlowCandidate],
    logs: LogFile,
    *,
    watch: bool = False,
    workers_only: bool = False,
    membership: Membership | None = None,
) -> int:
    """Serve until a signal. Returns the exit code. Raises `ConfigurationError` for flows and other `PenstockError`s.

    `static` are the flows that are not in files. Without any flow the built-in one is served. With `workers_only`, the
    workers of the flows run, and only metrics and health are served. `membership` says how this process takes part in
    the service, by default as the only one.
    """
    membership = membership or Alone()
    loop = asyncio.get_running_loop()
    tls = tls_of(settings)
    sighup = sighup_event(loop)
    supervisor = Supervisor(max_runs=settings.max_runs, stores=make_stores(membership.descriptors))
    sharing = share_limits(membership, supervisor)
    counters, reload_counters = HttpCounters(), ReloadCounters()
    client = HttpClient()
    process = membership.peers.number
    registry = FlowRegistry(supervisor, reload_counters, keep_open=settings.dead_letters, process=process)
    if not static and not files.paths:
        static = (builtin_flow(settings, client),)
    here = Reloader(registry, make_loader(settings, workers_only=workers_only), files, static)
    reloader = reloader_of_all(here, registry, membership.peers)
    await supervisor.stores.get(settings.dead_letters)
    sock = membership.listen(settings)
    await load_flows(reloader, supervisor, files.paths)
    work = DeadLetterWork(supervisor, registry)
    sources = MetricSources(
        supervisor,
        counters,
        version("penstock"),
        reload_counters,
        logs,
        work.readings,
        tls_expires=None if tls is None else tls.expires,
    )
    stop = asyncio.Event()
    state = AppState(settings, supervisor, registry, reloader, counters, work.desk, membership.peers, stop)
    app = (make_work_app if workers_only else make_app)(state, PenstockCollector(sources))
    close_when_leaving(app, stop, membership)
    runner = web.AppRunner(app, handler_cancellation=True, access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    server = runner.server
    assert server is not None
    loop.set_exception_handler(AcceptErrorHandler(counters))
    connections = ConnectionFactory(counters, server, settings, tls)
    listener = await membership.accept(sock, connections, lambda: len(server.connections) + connections.handshakes)
    skip_delay = asyncio.Event()
    install_signals(loop, supervisor, stop, skip_delay, settings)
    reporting = report_progress(membership.peers, registry, supervisor)
    tasks = [loop.create_task(reporting, name="workers:progress")]
    if membership.reloads:
        tasks.append(loop.create_task(reload_on_signal(sighup, reloader, tls), name="reload:signal"))
    if watch:
        tasks.append(loop.create_task(watch_files(reloader), name="reload:watch"))
    log_shared(membership, supervisor, registry)
    follow_lead(membership.peers, registry)
    work.start()
    tune_gc()
    await membership.ready(settings, sock, stop)
    await first_of(stop, membership.retiring)
    if stop.is_set():
        await wait_for_drain_delay(settings.drain_delay, skip_delay)
    await listener.close(drain=stop.is_set())  # otherwise the other processes accept what waits
    membership.left()
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    workers = None if stop.is_set() else await retire(server, connections, registry, stop, settings.reload_timeout)
    state.streams.stopping.set()
    await registry.aclose()
    report = await supervisor.shut_down(settings.grace_period)
    if workers is not None:
        await asyncio.gather(workers, return_exceptions=True)
    await work.stop()
    await close_connections(runner, supervisor)
    connections.close_idle_handshakes()
    if sharing is not None:
        sharing.cancel()
    await client.aclose()
    await membership.stopped(report)
    return 1 if report.forced else 0


def tune_gc() -> None:
    """Make garbage collection rarer than Python's default, as measured with 200,000 orders in one request.

    Orders are created and freed by the thousands and form no cycles; reference counting frees them. With a search for
    cycles every 700 allocations, the search took a seventh of the time per order.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 100)


async def close_connections(runner: web.AppRunner, supervisor: Supervisor) -> None:
    """Let clients receive their last bytes, then close all connections. No run is open by now.

    Closing a connection whose client still sends resets it, and the client may lose the end record in transit. Such
    clients get time to receive the end and to close the connection themselves, unless another signal cuts it short.
    Idle connections are closed at once.
    """
    server = runner.server
    if server is not None:
        server.pre_shutdown()
        # Polls, because aiohttp does not report when the last connection is closed. Counts checks instead of reading
        # the clock, so that a pause of the process takes no time from the clients.
        for _ in range(round(CLOSE_TIMEOUT / CLOSE_CHECK_SECONDS)):
            if not server.connections or supervisor.phase is not Phase.STOPPED:
                break
            await asyncio.sleep(CLOSE_CHECK_SECONDS)
    await runner.cleanup()
