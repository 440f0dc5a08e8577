"""The container image: its Dockerfile builds, and what it builds serves without rights and with a read-only root."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy.image import Stage, build
from nginx import accepts, free_port
from waiting import HANG_SECONDS, ending, until

ROOT = Path(__file__).parents[2]

pytestmark = [
    pytest.mark.long,
    pytest.mark.image,
    pytest.mark.skipif(
        sys.platform != "linux" or shutil.which("bwrap") is None or os.geteuid() != 0,
        reason="needs root and bubblewrap: apt-get install bubblewrap",
    ),
    pytest.mark.skipif(not Path(sys.base_prefix, "bin/python").exists(), reason="needs a Python with its own folder"),
]


@pytest.fixture(scope="module")
def image() -> Iterator[Stage]:
    """The last stage. Packages come from the index and the cache of pip on this machine."""
    cache = subprocess.run(
        [sys.executable, "-m", "pip", "cache", "dir"], capture_output=True, text=True, check=True
    ).stdout.strip()
    Path(cache).mkdir(parents=True, exist_ok=True)
    given = {name: value for name, value in os.environ.items() if name.startswith("PIP_")}
    with tempfile.TemporaryDirectory(prefix="penstock-image-") as folder:
        os.chmod(folder, 0o755)
        mounts = {"/root/.cache/pip": Path(cache)}
        given |= {"HOME": "/root", "PIP_NO_COMPILE": "1"}  # most of it is never imported here
        yield build(ROOT / "http/deploy/Dockerfile", ROOT, Path(folder), mounts, given)


def test_the_image_serves_without_rights_and_with_a_read_only_root(image: Stage, tmp_path: Path) -> None:
    """As process 1 and as its user. It is healthy while it runs, writes to its volume only, and stops on SIGTERM."""
    data = tmp_path / "data"
    shutil.copytree(image.root / image.volumes[0].lstrip("/"), data)
    shutil.chown(data, *map(int, image.user.split(":")))
    port = free_port()
    image.variables |= {"PENSTOCK_HOST": "127.0.0.1", "PENSTOCK_PORT": str(port)}  # others must not reach a test
    mounts = ("--bind", str(data), image.volumes[0])
    command = image.inside([*image.entrypoint, *image.command], *mounts, read_only=True)
    health = image.inside(image.health, read_only=True)
    assert subprocess.run(health, capture_output=True, timeout=HANG_SECONDS).returncode != 0
    with ending(subprocess.Popen(command, stderr=subprocess.PIPE, text=True)) as process:
        until(lambda: accepts(port) or process.poll() is not None)
        assert process.poll() is None, process.stderr.read() if process.stderr else ""
        assert subprocess.run(health, capture_output=True, timeout=HANG_SECONDS).returncode == 0
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/orders/bulk?count=3", timeout=HANG_SECONDS) as response:
            lines = [json.loads(line) for line in response]
        assert lines[-1]["end"]["failed"] == 1
        os.kill(service_of(process.pid), signal.SIGTERM)
        assert process.wait(HANG_SECONDS) == 0
    assert (data / "penstock.db").stat().st_uid == 10001


def service_of(pid: int) -> int:
    """Return the process that bubblewrap runs: process 1 of its namespace."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return int(children[0]) if children else pid
