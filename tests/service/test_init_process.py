"""Process 1 of a container: it passes signals on, and no orphan stays a zombie."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from service.processes import ROOT, Process, until
from stores.children import children_of

NAMESPACE = ("unshare", "--map-root-user", "--pid", "--fork", "--kill-child", "--mount-proc")
"""Starts a program as process 1 of its own namespace, as a container does."""

ORPHANS = """
import subprocess

def start(value):
    done = subprocess.run(["sh", "-c", "sleep 0 & exit 7"])
    return {**value, "code": done.returncode}
"""


def can_unshare() -> bool:
    """Whether this machine lets this user start a container."""
    if not shutil.which("unshare"):
        return False
    return subprocess.run([*NAMESPACE, "true"], capture_output=True).returncode == 0


@pytest.fixture
def contained(tmp_path: Path) -> Iterator[Process]:
    """A server as process 1, with a flow that leaves an orphan for each item."""
    if not can_unshare():
        pytest.skip("unshare is not on this machine, or not allowed")
    (tmp_path / "orphans.py").write_text(ORPHANS)
    (tmp_path / "orders.yaml").write_text("flow: orders\nsteps: [{map: 'orphans:start'}]\n")
    flags = ("--port", 0, "--workers", 0, "--dead-letters", f"sqlite:///{tmp_path}/x.db", tmp_path)
    process = Process("serve", *flags, prefix=NAMESPACE)
    try:
        process.listen()
        yield process
    finally:
        process.close()


def test_orphans_are_reaped_and_signals_reach_the_service(contained: Process) -> None:
    """The exit codes of children that the code of a flow waits for are its own."""
    (init,) = children_of(contained.pid)
    (service,) = children_of(init)

    assert [result["value"]["code"] for result in contained.post({"orderId": 1}, {"orderId": 2}).results] == [7, 7]
    until(lambda: children_of(init) == {service})

    os.kill(init, signal.SIGHUP)
    contained.event("reload.completed")
    os.kill(init, signal.SIGTERM)
    assert contained.wait() == 0
    assert contained.event("shutdown.completed")["forced"] is False
    assert contained.noise == []


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no signals between processes")
@pytest.mark.parametrize(("end", "code"), [("sys.exit(3)", 3), ("os.kill(os.getpid(), 9)", 137)])
def test_process_1_ends_as_the_service_does(end: str, code: int) -> None:
    """With its exit code, or as shells show the signal that ended it."""
    script = f"import os, sys\nfrom penstock_http.server.init_process import become_init\nbecome_init(1)\n{end}"
    done = subprocess.run([sys.executable, "-c", script], env=os.environ | {"PYTHONPATH": str(ROOT / "http")})
    assert done.returncode == code
