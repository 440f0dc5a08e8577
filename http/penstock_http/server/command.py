"""`penstock serve` and `penstock work`: read the settings and the names of the flows, and run until a signal."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Mapping
from dataclasses import replace
from functools import partial

import click

from penstock.cli.options import FILE, Command, print_error, usage_error
from penstock.errors import FlowDefinitionError, PenstockError
from penstock.observe import configure_logging
from penstock.settings import WORK_OPTIONS, SettingsError, load_settings, settings_options
from penstock.support.event_loop import run_in_event_loop
from penstock_http.processes.parent import StartFailed
from penstock_http.server.bootstrap import ConfigurationError, check_store, python_flows
from penstock_http.server.init_process import become_init
from penstock_http.server.lifecycle import serve as run_service
from penstock_http.server.parent_main import run_parent
from penstock_http.server.paths import parse_flows
from penstock_http.server.signals import ignore_stop_signals
from penstock_http.server.tls import tls_of

_READING = "Settings are read from the settings file, then from variables, then from options."
_RELOADING = (
    "SIGHUP reloads all flow files; a file with errors changes nothing. Exit codes: 0 success; 1 it cannot listen, or "
    "the shutdown was forced; 2 invalid usage, settings or flows."
)


@click.command(cls=Command, epilog=f"{_READING} PENSTOCK_TOKEN sets the token. {_RELOADING}")
@click.argument("flows", metavar="[FLOW]...", nargs=-1, type=FILE)
@click.option("--watch", is_flag=True, help="Reload flow files when one of them changes.")
@settings_options
def serve(flows: tuple[str, ...], watch: bool, **options: str | None) -> int:
    """Serve flows at /NAME/bulk, with background workers, dead letters and metrics.

    FLOW is a flow file, a directory of flow files, or module:name of a flow in Python, which is never reloaded.
    Without FLOW, the orders flow is served.
    """
    return _run("serve", flows, options, watch=watch)


@click.command(
    cls=Command,
    epilog=f"{_READING} The file and the variables may contain the other settings of penstock serve too. {_RELOADING}",
)
@click.argument("flows", metavar="FLOW...", nargs=-1, required=True, type=FILE)
@click.option("--watch", is_flag=True, help="Reload flow files when one of them changes.")
@partial(settings_options, only=WORK_OPTIONS)
def work(flows: tuple[str, ...], watch: bool, **options: str | None) -> int:
    """Run the workers of flows, and serve nothing but /metrics and /health.

    For processes that only consume, such as from a message broker. FLOW is a flow file, a directory of flow files, or
    module:name of a flow in Python, which is never reloaded. Each flow must have a worker.
    """
    return _run("work", flows, options, watch=watch)


def _run(command: str, flows: tuple[str, ...], options: Mapping[str, str | None], *, watch: bool) -> int:
    """Run one of the commands. Returns its exit code."""
    modules, files = parse_flows(flows)
    if watch and not files.paths:
        raise usage_error("--watch needs at least one flow file or directory")
    try:
        settings = load_settings(options, os.environ)
        tls = tls_of(settings)  # before flows are loaded and processes started
    except SettingsError as error:
        return print_error(command, error, 2)
    become_init()
    workers_only = command == "work"
    if workers_only:  # a file of settings may be for `serve` as well, where 0 starts no workers
        settings = replace(settings, workers=max(settings.workers, 1), drain_delay=0.0)
    if settings.processes > 1 and sys.platform == "win32":
        message = f"--processes: expected 1 on Windows, got {settings.processes}; several need Linux or macOS"
        return print_error(command, message, 2)
    try:
        check_store(settings.dead_letters, settings)
    except FlowDefinitionError as error:
        return print_error(command, error, 2)
    logs = configure_logging(settings.log_format, settings.log_level)
    if tls is not None:
        tls.warn()
    try:
        if settings.processes > 1:
            code = asyncio.run(run_parent(settings, flows, watch=watch, workers_only=workers_only))
            ignore_stop_signals()
            return code
        static = python_flows(modules, files, settings, workers_only=workers_only)
        service = run_service(settings, files, static, logs, watch=watch, workers_only=workers_only)
        code = run_in_event_loop(service, settings.event_loop)
        ignore_stop_signals()
        return code
    except ConfigurationError as error:
        return print_error(command, error, 2)
    except StartFailed as error:
        return print_error(command, error, error.code)
    except PenstockError as error:
        return print_error(command, error)
