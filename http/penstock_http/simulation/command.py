"""`penstock simulate`: serve the simulated pricing and inventory services until a signal."""

from __future__ import annotations

import asyncio
import signal
from typing import Any

import click
import structlog

from penstock.cli.options import Command, print_error, usage_error
from penstock.observe import configure_logging
from penstock_http.problems import ListenFailed
from penstock_http.simulation.faults import FaultSettings
from penstock_http.simulation.services import simulated

log: structlog.stdlib.BoundLogger = structlog.get_logger()

DEFAULTS = FaultSettings()


def port_number(value: Any) -> int:
    """Convert an option to a TCP port, or 0."""
    text = str(value)
    if not (text.isascii() and text.isdigit() and len(text) <= 5 and int(text) <= 65_535):
        raise click.BadParameter(f"expected a port from 0 to 65535, got {text!r}")
    return int(text)


@click.command(
    cls=Command,
    epilog="A request sets its own faults by query parameters or headers of the same names: /prices/1?error-rate=1",
    context_settings={"show_default": True},
)
@click.option("--host", metavar="TEXT", default="127.0.0.1", help="Address to listen on.")
@click.option("--port", metavar="N", type=port_number, default=8081, help="Port to listen on; 0 takes a free one.")
@click.option(
    "--latency-scale",
    metavar="F",
    type=float,
    default=DEFAULTS.latency_scale,
    help="Factor of the latencies: 100 ms for prices, 150 ms for stock.",
)
@click.option(
    "--jitter", metavar="SECONDS", type=float, default=DEFAULTS.jitter, help="Maximum random addition to a latency."
)
@click.option(
    "--error-rate",
    metavar="0..1",
    type=float,
    default=DEFAULTS.error_rate,
    help="Fraction of requests that get status 500.",
)
@click.option(
    "--hang-rate",
    metavar="0..1",
    type=float,
    default=DEFAULTS.hang_rate,
    help="Fraction of requests that never get a response.",
)
@click.option(
    "--slow-body",
    metavar="SECONDS",
    type=float,
    default=DEFAULTS.slow_body,
    help="Duration of a response body, from its first to its last byte.",
)
@click.option("--seed", metavar="N", type=int, help="Random seed, to repeat the same faults.")
def simulate(host: str, port: int, **faults: Any) -> int:
    """Serve the pricing and inventory services of the orders flow, with faults on demand."""
    if not host.strip():
        raise usage_error("--host: expected an address; 0.0.0.0 means all addresses of this machine")
    try:
        settings = FaultSettings(**faults)
    except ValueError as error:
        raise usage_error(error) from error
    configure_logging()
    try:
        asyncio.run(_serve(settings, host, port))
    except (OSError, UnicodeError) as error:
        return print_error("simulate", ListenFailed(host, port, error))
    return 0


async def _serve(settings: FaultSettings, host: str, port: int) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for ending in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(ending, stop.set)
    async with simulated(settings, host, port) as url:
        log.info("http.listening", url=url)
        await stop.wait()
