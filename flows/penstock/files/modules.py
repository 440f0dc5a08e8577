"""The modules that a flow in a file was made with: what its functions come from, and what these import."""

from __future__ import annotations

import sys
from pathlib import Path


def modules_loaded() -> list[Path]:
    """The files of all modules that this process has loaded, the flow's own among them.

    All, for a function does not know what else it needs: a source that `call` made keeps no trace of its maker, and
    a module does not tell which others it imports.
    """
    files = (getattr(module, "__file__", None) for module in list(sys.modules.values()))
    return [Path(file) for file in dict.fromkeys(files) if isinstance(file, str)]
