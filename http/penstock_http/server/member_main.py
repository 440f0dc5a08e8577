"""The main module of one of several processes: `python -m penstock_http.server.member_main DESCRIPTOR`.

The parent starts it, and sends what it is to serve over the socket with that descriptor. So no secret is in its
arguments or its environment.
"""

from __future__ import annotations

import os
import socket
import sys
from contextlib import suppress

from msgspec import msgpack

from penstock.errors import PenstockError
from penstock.observe import configure_logging
from penstock.settings import SettingsError
from penstock.support.event_loop import run_in_event_loop
from penstock_http.processes.member import FAILED, Member
from penstock_http.processes.messages import Failed, Question, Start, encode_frame, read_start
from penstock_http.server.bootstrap import ConfigurationError, python_flows
from penstock_http.server.lifecycle import serve
from penstock_http.server.membership import OneOfSeveral
from penstock_http.server.paths import parse_flows
from penstock_http.server.sharing import use_shared_files


def main() -> int:
    """Serve as the parent says. Returns the exit code."""
    with socket.socket(fileno=int(sys.argv[1])) as connection:
        try:
            start = read_start(connection)
        except (EOFError, OSError):
            return 1  # the parent is gone
        _restore(start, connection)
        try:
            return _run(start, connection)
        except PenstockError as error:
            code = 2 if isinstance(error, (ConfigurationError, SettingsError)) else 1
            connection.setblocking(True)
            failed = msgpack.encode(Failed(code, str(error)))
            with suppress(OSError):  # the parent is gone
                connection.sendall(encode_frame(Question(0, FAILED, failed)))
            return code


def _restore(start: Start, connection: socket.socket) -> None:
    """Undo what the start of this process changed, so that the processes that it starts are as those of the parent."""
    sys.path[:] = start.path
    if start.python_path is None:
        os.environ.pop("PYTHONPATH", None)
    else:
        os.environ["PYTHONPATH"] = start.python_path
    for descriptor in (connection.fileno(), start.listener, *start.descriptors.values()):
        os.set_inheritable(descriptor, False)


def _run(start: Start, connection: socket.socket) -> int:
    settings = start.settings
    logs = configure_logging(settings.log_format, settings.log_level, process=start.number)
    use_shared_files(start.descriptors)
    modules, files = parse_flows(start.flows)
    static = python_flows(modules, files, settings, workers_only=start.workers_only)
    listener = socket.socket(fileno=start.listener)
    listener.setblocking(False)

    async def run() -> int:
        member = Member(start)
        await member.open(connection.dup())
        membership = OneOfSeveral(member, listener)
        try:
            return await serve(
                settings, files, static, logs, watch=start.watch, workers_only=start.workers_only, membership=membership
            )
        finally:
            member.close()

    return run_in_event_loop(run(), settings.event_loop)


if __name__ == "__main__":
    sys.exit(main())
