"""`penstock serve` and `penstock work`: read the settings and the names of the flows, and run until a signal."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

import click

from penstock.cli.options import FILE, Command, print_error, usage_error
from penstock.errors import PenstockError
from penstock.flowfile.discovery import holds_flow
from penstock.flowfile.field_types import is_in_python
from penstock.observe import configure_logging
from penstock.settings import WORK_OPTIONS, SettingsError, load_settings, settings_options
from penstock.support.event_loop import run_in_event_loop
from penstock_http.deployments.file_watcher import WatchedFiles
from penstock_http.server.bootstrap import ConfigurationError, python_flows
from penstock_http.server.lifecycle import serve as run_service

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
    modules = [name for name in flows if is_in_python(name)]
    paths = [Path(name) for name in flows if name not in modules]
    if watch and not paths:
        raise usage_error("--watch needs at least one flow file or directory")
    try:
        settings = load_settings(options, os.environ)
    except SettingsError as error:
        return print_error(command, error, 2)
    workers_only = command == "work"
    if workers_only:  # a file of settings may be for `serve` as well, where 0 starts no workers
        settings = replace(settings, workers=max(settings.workers, 1))
    logs = configure_logging(settings.log_format, settings.log_level)
    try:
        files = WatchedFiles(paths, holds_flow=holds_flow)
        static = python_flows(modules, files, settings, workers_only=workers_only)
        service = run_service(settings, files, static, logs, watch=watch, workers_only=workers_only)
        return run_in_event_loop(service, settings.event_loop)
    except ConfigurationError as error:
        return print_error(command, error, 2)
    except PenstockError as error:
        return print_error(command, error)
