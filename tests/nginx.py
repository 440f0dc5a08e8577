"""nginx as a test needs it: one process in the foreground, on a free port of this machine, with files in one folder."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from waiting import ending, until

ATTEMPTS = 5
"""How many ports are tried."""

CONFIGURATION = """\
daemon off;
master_process off;
pid {folder}/nginx.pid;
error_log stderr warn;
events {{ worker_connections 4096; }}
http {{
    access_log off;
    keepalive_requests 1000000000;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    server {{
        listen 127.0.0.1:{port}{ssl};
        default_type application/json;
        {server}
    }}
}}
"""


def program() -> str | None:
    """The path of nginx, which may not be on the PATH of a user; None if it is not installed."""
    return shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")


@contextmanager
def nginx(folder: Path, server: str, *, tls: bool = False) -> Iterator[str]:
    """Run nginx with these directives of its server. Yield its URL."""
    for _ in range(ATTEMPTS):
        port = free_port()
        file = folder / "nginx.conf"
        file.write_text(CONFIGURATION.format(folder=folder, port=port, server=server, ssl=" ssl" if tls else ""))
        command = [program() or "nginx", "-p", str(folder), "-c", str(file), "-e", "stderr"]
        with ending(subprocess.Popen(command)) as process:
            until(lambda process=process, port=port: process.poll() is not None or accepts(port))
            if process.poll() is None:
                yield f"{'https' if tls else 'http'}://127.0.0.1:{port}"
                return
    raise AssertionError("nginx did not start")


def free_port() -> int:
    """A port that is free now. nginx cannot take any free one itself, so another process may take it first."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def accepts(port: int) -> bool:
    """Whether a process listens on a port."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
