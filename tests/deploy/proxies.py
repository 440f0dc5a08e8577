"""nginx and Caddy with the configurations of `http/deploy`, in front of nodes on this machine."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import trustme

from deploy.tools import checked, tools
from nginx import ATTEMPTS, accepts, free_port, program
from waiting import ending, until

DEPLOY = Path(__file__).parents[2] / "http/deploy"
NAME = "penstock.example.com"
NODE = "127.0.0.1:8080"
MODULE = Path("/usr/lib/nginx/modules/ngx_stream_module.so")
"""The stream module of Debian. Elsewhere it is a part of nginx."""

AROUND = """\
daemon off;
master_process off;
pid {folder}/nginx.pid;
error_log stderr warn;
events {{ worker_connections 4096; }}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    include {folder}/penstock.conf;
}}
"""
"""What the packages of nginx have around the files in conf.d."""


def replaced(text: str, replacements: dict[str, str]) -> str:
    """Replace parts of a configuration. Each must be there."""
    for old, new in replacements.items():
        assert old in text, old
        text = text.replace(old, new)
    return text


def write_certificate(folder: Path) -> None:
    """Write the files that nginx reads as its certificate."""
    certificate = trustme.CA().issue_cert("penstock.example.com")
    certificate.private_key_pem.write_to_path(folder / "key.pem")
    certificate.cert_chain_pems[0].write_to_path(folder / "cert.pem")


def listening(port: int, nodes: list[str]) -> dict[str, str]:
    """Return the changes by which a configuration of nginx listens on a port, without TLS, and passes on to nodes."""
    node = f"    server {NODE} max_fails=1 fail_timeout=2s;\n"
    return {
        node: "".join(node.replace(NODE, one) for one in nodes),
        "listen 80;": f"listen 127.0.0.1:{free_port()};",
        "listen 443 ssl;": f"listen 127.0.0.1:{port};",
    }


def nginx_files(kind: str, folder: Path, changes: dict[str, str]) -> Path:
    """Write a configuration of nginx with some changes, into a folder that has everything it refers to."""
    write_certificate(folder)
    changes = changes | {"/etc/ssl/penstock": str(folder)}
    if kind == "nginx-http":
        text = replaced((DEPLOY / "nginx-http.conf").read_text(encoding="utf-8"), changes)
        (folder / "penstock.conf").write_text(text)
        file = folder / "nginx.conf"
        file.write_text(AROUND.format(folder=folder))
        return file
    paths = "".join(f"    {use}_temp_path {folder}/{use};\n" for use in ("proxy", "fastcgi", "uwsgi", "scgi"))
    changes |= {
        "pid /run/nginx.pid;": f"daemon off;\nmaster_process off;\npid {folder}/nginx.pid;\nerror_log stderr warn;",
        "include /etc/nginx/modules-enabled/*.conf;": f"load_module {MODULE};" if MODULE.exists() else "",
        "http {\n": f"http {{\n    access_log off;\n    client_body_temp_path {folder}/body;\n{paths}",
    }
    file = folder / "nginx.conf"
    file.write_text(replaced((DEPLOY / "nginx.conf").read_text(encoding="utf-8"), changes))
    return file


def caddy_files(folder: Path, port: int, nodes: list[str]) -> Path:
    """Write the configuration for a port, without TLS, and for nodes."""
    file = folder / "Caddyfile"
    file.write_text(
        replaced(
            (DEPLOY / "Caddyfile").read_text(encoding="utf-8"),
            {
                "{\n\tservers {": "{\n\tadmin off\n\tservers {",
                f"\n{NAME} {{": f"\nhttp://127.0.0.1:{port} {{",
                f"reverse_proxy {NODE} {{": f"reverse_proxy {' '.join(nodes)} {{",
            },
        )
    )
    return file


@contextmanager
def proxy(kind: str, folder: Path, *nodes: str) -> Iterator[int]:
    """Run a proxy in front of nodes. Yield its port. Skips the test if the program is not installed."""
    require(kind)
    for _ in range(ATTEMPTS):
        port = free_port()
        command, environment = command_of(kind, folder, port, list(nodes))
        with ending(subprocess.Popen(command, env=environment)) as process:
            until(lambda process=process, port=port: process.poll() is not None or accepts(port))
            if process.poll() is None:
                yield port
                return
    raise AssertionError(f"{kind} did not start")


def command_of(kind: str, folder: Path, port: int, nodes: list[str]) -> tuple[list[str], dict[str, str]]:
    """Write the files of a proxy, and return its command and its environment."""
    if kind != "caddy":
        file = nginx_files(kind, folder, listening(port, nodes))
        return [program() or "nginx", "-p", str(folder), "-c", str(file), "-e", "stderr"], dict(os.environ)
    file = caddy_files(folder, port, nodes)
    command = [str(tools() / "bin/caddy"), "run", "--adapter", "caddyfile", "--config", str(file)]
    return command, os.environ | caddy_environment(folder)


def caddy_environment(folder: Path) -> dict[str, str]:
    """Return the variables with which Caddy writes only into a folder."""
    return {name: str(folder) for name in ("HOME", "XDG_DATA_HOME", "XDG_CONFIG_HOME")}


def validate(kind: str, folder: Path) -> str:
    """Have a proxy check the file as it is: its names and its TLS, too."""
    if kind == "caddy":
        file = shutil.copy(DEPLOY / "Caddyfile", folder)
        command = [str(tools() / "bin/caddy"), "validate", "--adapter", "caddyfile", "--config", str(file)]
        return checked(command, env=os.environ | caddy_environment(folder))
    require(kind)
    file = nginx_files(kind, folder, {})
    return checked([program() or "nginx", "-t", "-p", str(folder), "-c", str(file), "-e", "stderr"])


def require(kind: str) -> None:
    """Skip the test if the program is not installed."""
    if kind == "caddy":
        return
    if program() is None:
        pytest.skip("needs nginx: apt-get install nginx-light libnginx-mod-stream")
    built = subprocess.run([program() or "nginx", "-V"], capture_output=True, text=True, check=True).stderr
    if not MODULE.exists() and not re.search(r"--with-stream( |$)", built):
        pytest.skip("needs the stream module of nginx: apt-get install libnginx-mod-stream")
