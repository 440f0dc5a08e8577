"""`penstock serve`: read the settings and the names of the flows, and serve until a signal."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import click

from penstock.cli.options import FILE, Command, print_error, usage_error
from penstock.errors import PenstockError
from penstock.flowfile.discovery import holds_flow
from penstock.flowfile.field_types import is_in_python
from penstock.observe import configure_logging
from penstock.settings import SettingsError, load_settings, settings_options
from penstock_http.deployments.file_watcher import WatchedFiles
from penstock_http.server.bootstrap import ConfigurationError, python_flows
from penstock_http.server.lifecycle import serve as run_service


@click.command(
    cls=Command,
    epilog="Settings are read from the settings file, then from variables, then from options. PENSTOCK_TOKEN sets the "
    "token. SIGHUP reloads all flow files; a file with errors changes nothing. Exit codes: 0 success; 1 it cannot "
    "listen, or the shutdown was forced; 2 invalid usage, settings or flows.",
)
@click.argument("flows", metavar="[FLOW]...", nargs=-1, type=FILE)
@click.option("--watch", is_flag=True, help="Reload flow files when one of them changes.")
@settings_options
def serve(flows: tuple[str, ...], watch: bool, **options: str | None) -> int:
    """Serve flows at /NAME/bulk, with background workers, dead letters and metrics.

    FLOW is a flow file, a directory of flow files, or module:name of a flow in Python, which is never reloaded.
    Without FLOW, the orders flow is served.
    """
    modules = [name for name in flows if is_in_python(name)]
    paths = [Path(name) for name in flows if name not in modules]
    if watch and not paths:
        raise usage_error("--watch needs at least one flow file or directory")
    try:
        settings = load_settings(options, os.environ)
    except SettingsError as error:
        return print_error("serve", error, 2)
    logs = configure_logging(settings.log_format, settings.log_level)
    try:
        files = WatchedFiles(paths, holds_flow=holds_flow)
        static = python_flows(modules, files, settings)
        return asyncio.run(run_service(settings, files, static, logs, watch=watch))
    except ConfigurationError as error:
        return print_error("serve", error, 2)
    except PenstockError as error:
        return print_error("serve", error)
