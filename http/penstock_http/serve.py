"""`penstock serve`: makes everything, listens, and takes everything down in order."""

from __future__ import annotations

import argparse
import asyncio
import gc
import os
import signal
import socket
import string
import sys
import threading
from importlib.metadata import version
from typing import Any

import structlog
from aiohttp import web

from penstock.errors import PenstockError
from penstock.flow import Flow
from penstock.observe import PenstockCollector, Requests, Watched, set_up_logs
from penstock.orders import orders_flow, sample_orders, simulated_inventory, simulated_pricing
from penstock.runtime import Event, Every, Once, Phase, Supervisor
from penstock.services import Service
from penstock.services.web import HttpClient, http_service
from penstock.settings import Settings, SettingsError, add_flags, load_settings
from penstock_http.app import make_app
from penstock_http.context import Context, Served
from penstock_http.limits import BACKLOG, Connection, listen
from penstock_http.previous_stop import RunningMark

log: structlog.stdlib.BoundLogger = structlog.get_logger()


FAREWELL = 2.0
"""Seconds that clients have to see the end of their streams when the service stops."""


def command(arguments: list[str]) -> int:
    """Serve until told to stop; returns 0 if all was settled, 1 if the stop was forced or nothing was started."""
    try:
        settings = load_settings(vars(make_parser().parse_args(arguments)), os.environ)
    except SettingsError as error:
        sys.stderr.write(f"penstock serve: {error}\n")
        return 2
    set_up_logs(settings.log_format, settings.log_level)
    try:
        return asyncio.run(serve(settings))
    except OSError as error:
        sys.stderr.write(
            f"penstock serve: cannot listen on {settings.host}:{settings.port}: {error.strerror or error}\n"
        )
        return 1
    except PenstockError as error:
        sys.stderr.write(f"penstock serve: {error}\n")
        return 1


def make_parser() -> argparse.ArgumentParser:
    """The flags of the command."""
    parser = argparse.ArgumentParser(
        prog="penstock serve",
        description="Serve the orders flow at /orders/bulk, with background workers, dead letters and metrics.",
        epilog="Settings come from the file, then from variables, then from flags. PENSTOCK_TOKEN sets the token.",
    )
    add_flags(parser)
    return parser


async def serve(settings: Settings) -> int:
    """Serve until a signal; returns the exit code."""
    supervisor = Supervisor(max_runs=settings.max_runs)
    requests = Requests()
    client = HttpClient()
    flow = orders_flow(pricing(settings, client), inventory(settings, client), settings.dead_letters).window(
        settings.window, settings.window_bytes
    )
    await supervisor.add(flow)
    store = await supervisor.stores.get(settings.dead_letters)
    context = Context(settings, supervisor, {flow.name: Served(flow, sample_orders)}, store, requests)
    mark = RunningMark(settings.dead_letters, settings.port)
    sock = listen(settings)
    collector = PenstockCollector(Watched(supervisor, requests, version("penstock"), mark.set()))
    runner = web.AppRunner(
        make_app(context, collector), handler_cancellation=True, access_log=None, shutdown_timeout=1.0
    )
    await runner.setup()
    server = runner.server
    assert server is not None
    loop = asyncio.get_running_loop()
    listener = await loop.create_server(lambda: Connection(requests, server, settings), sock=sock, backlog=BACKLOG)
    stop = asyncio.Event()
    install_signals(loop, supervisor, stop, settings)
    log.info("http.listening", url=_url(sock), version=version("penstock"), dead_letters=settings.dead_letters)
    start_workers(supervisor, flow, settings)
    tune_garbage_collection()
    await stop.wait()
    listener.close()
    report = await supervisor.shut_down(settings.grace)
    await close_connections(runner)
    await client.aclose()
    if not report.forced:
        mark.clear()
    log.info(
        "stop.ended",
        forced=report.forced,
        runs=report.runs,
        reasons=report.reasons,
        received=report.received,
        ok=report.ok,
        failed=report.failed,
        filtered=report.filtered,
        cancelled=report.cancelled,
    )
    return 1 if report.forced else 0


def install_signals(
    loop: asyncio.AbstractEventLoop, supervisor: Supervisor, stop: asyncio.Event, settings: Settings
) -> None:
    """The first SIGTERM or SIGINT drains, the second aborts, the third exits; so does time."""

    def deadline() -> None:
        # In a thread of its own: an event loop that is stuck runs no timers.
        log.error("stop.hard", runs=len(supervisor.runs))
        os._exit(1)

    timer = threading.Timer(settings.grace + settings.hard, deadline)
    timer.daemon = True

    def on_signal() -> None:
        if supervisor.phase is Phase.SERVING:
            stop.set()
        elif supervisor.signal(Event.SIGNAL) is Phase.EXITING:
            log.error("stop.exiting", runs=len(supervisor.runs))
            os._exit(1)

    def note(*_: object) -> None:
        # Not the loop's own handlers: those run when the loop turns, and the clock has to start when it does not.
        if timer.ident is None:
            timer.start()
        if not loop.is_closed():
            loop.call_soon_threadsafe(on_signal)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, note)


def tune_garbage_collection() -> None:
    """Look for cycles less often: orders come and go by thousands and make none.

    With Python's default, a look every 700 allocations, a seventh of the time per order went into looking (measured
    with 200,000 orders in one request). Reference counting frees them all the same.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 100)


async def close_connections(runner: web.AppRunner) -> None:
    """Let the clients take their last bytes, then close what is left. By now no run is open.

    Closing a connection whose client still sends resets it, and the client may lose the end record that is on its way.
    So such clients get a moment to see the end and to close from their side; idle connections are closed at once.
    """
    server = runner.server
    if server is not None:
        server.pre_shutdown()
        until = asyncio.get_running_loop().time() + FAREWELL
        while server.connections and asyncio.get_running_loop().time() < until:  # noqa: ASYNC110 - no event tells
            await asyncio.sleep(0.02)  # aiohttp tells nobody when the last one has gone
    await runner.cleanup()


def start_workers(supervisor: Supervisor, flow: Flow[Any], settings: Settings) -> None:
    """Workers A, B, … of the orders flow."""
    schedule = Every(settings.worker_every) if settings.worker_every else Once()
    for number in range(settings.workers):
        name = string.ascii_uppercase[number] if number < 26 else f"W{number + 1}"
        supervisor.work(name, flow, lambda: sample_orders(settings.worker_orders), schedule=schedule)


def pricing(settings: Settings, client: HttpClient) -> Service:
    """The pricing service: the one at a URL, or the simulated one."""
    if settings.pricing_url:
        return _http("pricing", settings.pricing_url, settings, client)
    return simulated_pricing(settings.latency_scale, settings.max_in_flight)


def inventory(settings: Settings, client: HttpClient) -> Service:
    """The inventory service: the one at a URL, or the simulated one."""
    if settings.inventory_url:
        return _http("inventory", settings.inventory_url, settings, client)
    return simulated_inventory(settings.latency_scale, settings.max_in_flight)


def _http(name: str, url: str, settings: Settings, client: HttpClient) -> Service:
    return http_service(
        name,
        url,
        client=client,
        max_in_flight=settings.max_in_flight,
        timeout=settings.service_timeout,
        attempts=2,
    )


def _url(sock: socket.socket) -> str:
    host, port = sock.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
