"""Print the packages of an environment whose versions differ from tests/constraints.txt: `unpinned.py VENV`."""

import re
import subprocess
import sys
from pathlib import Path

CONSTRAINTS = Path(__file__).parent.parent / "tests" / "constraints.txt"


def versions(text: str) -> dict[str, str]:
    """Return the pinned version of each package, by its normalized name (PEP 503)."""
    pins = (line.split("==") for line in text.splitlines() if "==" in line and not line.startswith("#"))
    return {re.sub(r"[-_.]+", "-", name).lower(): version for name, version in pins}


pinned = versions(CONSTRAINTS.read_text())
command = [f"{sys.argv[1]}/bin/python", "-m", "pip", "freeze"]
installed = versions(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
for name, version in installed.items():
    if version != (before := pinned.get(name)) and name not in ("penstock", "pip", "setuptools", "wheel"):
        print(f"{name} {before or 'none'} -> {version}")
