"""The life cycle of `penstock serve`: create everything, listen, and stop everything in order."""

from __future__ import annotations

import asyncio
import gc
import os
import socket
from collections.abc import Sequence
from importlib.metadata import version

import msgspec
import structlog
from aiohttp import web

from penstock.errors import FlowDefinitionError, PenstockError
from penstock.flowfile.diagnostics import MAX_DIAGNOSTICS
from penstock.observe import HttpCounters, LogFile, MetricSources, PenstockCollector, ReloadCounters
from penstock.runtime import Phase, Supervisor
from penstock.services.http_client import HttpClient
from penstock.settings import Settings
from penstock_http.app import make_app
from penstock_http.deployments.file_watcher import watch_files
from penstock_http.deployments.loader import scan
from penstock_http.deployments.registry import FlowRegistry
from penstock_http.deployments.reload import Reloader
from penstock_http.deployments.result import DeploymentResult
from penstock_http.deployments.revision import FlowCandidate
from penstock_http.deployments.watched_files import WatchedFiles
from penstock_http.server.bootstrap import builtin_flow, loader, python_flow
from penstock_http.server.connection import BACKLOG, MAX_ACCEPTS, AcceptErrorHandler, Connection, listen, stop_listening
from penstock_http.server.signals import install_signals, reload_on_signal, sighup_event
from penstock_http.state import AppState

log: structlog.stdlib.BoundLogger = structlog.get_logger()


CLOSE_TIMEOUT = 2.0
"""Seconds that clients have to see the end of their streams when the service stops."""

CLOSE_CHECK_SECONDS = 0.02
"""Seconds between two checks whether they did."""


class ConfigurationError(PenstockError):
    """What is to be served cannot be: each mistake, a line each."""

    def __init__(self, mistakes: Sequence[str]) -> None:
        super().__init__(
            "\n".join(mistakes) or "there is no flow file there; a flow file has its name at the top: flow: NAME"
        )


def python_flows(names: Sequence[str], places: WatchedFiles, settings: Settings) -> list[FlowCandidate]:
    """The flows in Python of these names.

    Raises `ConfigurationError` for all that are none, and for the files beside them too.
    """
    offers: list[FlowCandidate] = []
    wrong: list[str] = []
    for name in names:
        try:
            offers.append(python_flow(name, settings))
        except FlowDefinitionError as error:
            wrong.append(str(error))
    if wrong:
        raise ConfigurationError([*wrong, *problem_lines(scan(loader(settings), places, {}, {}).bad)])
    return offers


def problem_lines(receipts: Sequence[DeploymentResult]) -> list[str]:
    """What is wrong, a line each."""
    lines = [str(mistake) for receipt in receipts for mistake in receipt.mistakes]
    more = sum(receipt.more for receipt in receipts) + max(0, len(lines) - MAX_DIAGNOSTICS)
    return [*lines[:MAX_DIAGNOSTICS], *([f"and {more} more"] if more else [])]


async def serve(
    settings: Settings, places: WatchedFiles, offers: Sequence[FlowCandidate], logs: LogFile, *, watch: bool = False
) -> int:
    """Serve until a signal; returns the exit code. Raises `PenstockError` when it cannot: `ConfigurationError` for
    the flows.

    `offers` are the flows that are in no file; without any flow the built-in one is served.
    """
    loop = asyncio.get_running_loop()
    asked = sighup_event(loop)
    supervisor = Supervisor(max_runs=settings.max_runs, apart=True)
    requests, reloads = HttpCounters(), ReloadCounters()
    client = HttpClient()
    catalogue = FlowRegistry(supervisor, reloads, keep=settings.dead_letters)
    if not offers and not places.paths:
        offers = (builtin_flow(settings, client),)
    reloading = Reloader(catalogue, loader(settings), places, offers)
    await supervisor.stores.get(settings.dead_letters)
    sock = listen(settings)
    await load_flows(reloading, supervisor)
    watched = MetricSources(supervisor, requests, version("penstock"), reloads, logs)
    context = AppState(settings, supervisor, catalogue, reloading, requests)
    runner = web.AppRunner(
        make_app(context, PenstockCollector(watched)), handler_cancellation=True, access_log=None, shutdown_timeout=1.0
    )
    await runner.setup()
    server = runner.server
    assert server is not None
    loop.set_exception_handler(AcceptErrorHandler(requests))
    listener = await loop.create_server(lambda: Connection(requests, server, settings), sock=sock, backlog=MAX_ACCEPTS)
    sock.listen(BACKLOG)  # which asyncio would take for the connections of one turn, too
    stop = asyncio.Event()
    install_signals(loop, supervisor, stop, settings)
    followers = [loop.create_task(reload_on_signal(asked, reloading), name="reload:signal")]
    if watch:
        followers.append(loop.create_task(watch_files(reloading), name="reload:watch"))
    where = {"url": _url(sock), "pid": os.getpid(), "dead_letters": settings.dead_letters}
    log.info("http.listening", **where, version=version("penstock"))
    tune_gc()
    await stop.wait()
    await stop_listening(listener)
    for follower in followers:
        follower.cancel()
    await asyncio.gather(*followers, return_exceptions=True)
    await catalogue.aclose()
    report = await supervisor.shut_down(settings.grace_period)
    await close_connections(runner, supervisor)
    await client.aclose()
    log.info("shutdown.completed", forced=report.forced, **msgspec.structs.asdict(report))
    return 1 if report.forced else 0


async def load_flows(reloading: Reloader, supervisor: Supervisor) -> None:
    """Load the flows that are to be served, all of them or none; raises `ConfigurationError`."""
    receipts = await reloading.start()
    if not receipts or any(receipt.mistakes for receipt in receipts):
        if supervisor.workers:  # a store that cannot be opened is noticed late: others may run already
            await supervisor.shut_down(0)
        raise ConfigurationError(problem_lines(receipts))


def tune_gc() -> None:
    """A default of Python that is wrong for this program, measured with 200,000 orders in one request.

    Orders come and go by thousands and make no cycles: with a look for cycles every 700 allocations, a seventh of the
    time per order went into looking. Reference counting frees them all the same.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 100)


async def close_connections(runner: web.AppRunner, supervisor: Supervisor) -> None:
    """Let the clients take their last bytes, then close what is left. By now no run is open.

    Closing a connection whose client still sends resets it, and the client may lose the end record that is on its way.
    So such clients get a moment to see the end and to close from their side, unless one more signal says not to wait;
    idle connections are closed at once.
    """
    server = runner.server
    if server is not None:
        server.pre_shutdown()
        # It looks again and again, since aiohttp tells nobody when the last connection has gone. Not by the clock: a
        # pause of the process takes nothing from the clients.
        for _ in range(round(CLOSE_TIMEOUT / CLOSE_CHECK_SECONDS)):
            if not server.connections or supervisor.phase is not Phase.STOPPED:
                break
            await asyncio.sleep(CLOSE_CHECK_SECONDS)
    await runner.cleanup()


def _url(sock: socket.socket) -> str:
    host, port = sock.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
