"""npm packages for tests: installed once for each lock file, and kept for later runs outside the repository."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "penstock-tests"


def installed(source: Path) -> Path:
    """Return a folder with the files of `source` and the packages that its package-lock.json names.

    A folder is made under another name and renamed, so that it is whole whenever it is there. Its name has the hash of
    all files: a change of one makes a new folder.
    """
    files = sorted(path for path in source.iterdir() if path.is_file())
    digest = hashlib.sha256(b"".join(path.name.encode() + b"\0" + path.read_bytes() for path in files)).hexdigest()
    folder = CACHE / f"{source.name}-{digest[:16]}"
    if not folder.is_dir():
        CACHE.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=CACHE) as name:
            made = Path(name) / "made"
            made.mkdir()
            for path in files:
                shutil.copy(path, made)
            subprocess.run(
                ["npm", "ci", "--ignore-scripts"], cwd=made, capture_output=True, text=True, timeout=300, check=True
            )
            try:
                made.rename(folder)
            except OSError:  # another process was faster
                if not folder.is_dir():
                    raise
    return folder
