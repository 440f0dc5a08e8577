"""`penstock simulate`: the simulated pricing and inventory services, served until a signal ends them."""

from __future__ import annotations

import argparse
import asyncio
import signal

import structlog

from penstock.complaints import complain
from penstock.observe import set_up_logs
from penstock_http.limits import CannotListen
from penstock_http.simulation.knobs import Knobs
from penstock_http.simulation.services import simulated

log: structlog.stdlib.BoundLogger = structlog.get_logger()


def command(arguments: list[str]) -> int:
    """Serve until SIGTERM or SIGINT: 0. It is 1 when it could not listen, and wrong usage is 2."""
    parser = make_parser()
    given = vars(parser.parse_args(arguments))
    host, port = given.pop("host"), given.pop("port")
    if not host.strip():
        parser.error("--host has to name an address; 0.0.0.0 stands for all of this machine")
    try:
        knobs = Knobs(**given)
    except ValueError as error:
        parser.error(str(error))
    set_up_logs()
    try:
        asyncio.run(_serve(knobs, host, port))
    except (OSError, UnicodeError) as error:
        return complain("simulate", CannotListen(host, port, error))
    return 0


async def _serve(knobs: Knobs, host: str, port: int) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for ending in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(ending, stop.set)
    async with simulated(knobs, host, port) as url:
        log.info("http.listening", url=url)
        await stop.wait()


def make_parser() -> argparse.ArgumentParser:
    """The flags of the command."""
    parser = argparse.ArgumentParser(
        prog="penstock simulate",
        description="Serve the pricing and inventory services of the orders flow, with faults on demand.",
        epilog="A request has its own with query fields or headers of the same names: /prices/1?error-rate=1",
    )
    default = Knobs()
    parser.add_argument("--host", default="127.0.0.1", help="where to listen (%(default)s)")
    parser.add_argument("--port", type=_port, default=8081, help="0 takes a free one (%(default)s)")
    for flag, value, unit, text in (
        ("--latency-scale", default.latency_scale, "F", "multiplies 100 ms for prices and 150 ms for stock"),
        ("--jitter", default.jitter, "SECONDS", "at most so much longer, at random"),
        ("--error-rate", default.error_rate, "0..1", "share of requests answered with status 500"),
        ("--hang-rate", default.hang_rate, "0..1", "share of requests that are never answered"),
        ("--slow-body", default.slow_body, "SECONDS", "how long a body takes from first to last byte"),
    ):
        parser.add_argument(flag, type=float, default=value, metavar=unit, help=f"{text} (%(default)s)")
    parser.add_argument("--seed", type=int, metavar="N", help="make chance repeat itself")
    return parser


def _port(text: str) -> int:
    if not text.isdecimal() or int(text) > 65_535:
        raise argparse.ArgumentTypeError(f"a port is a number from 0 to 65535, not {text}")
    return int(text)
