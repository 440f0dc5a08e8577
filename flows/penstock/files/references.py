"""Names of things in Python, for dumps: the `module:name` under which a flow file finds them again."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

from penstock.errors import FlowError
from penstock.files.functions import IMPORTED


def reference_of(function: Any) -> str:
    """The `module:name` of something in Python; raises `FlowError` when it has none that leads to it."""
    module: str = getattr(function, "__module__", None) or type(function).__module__
    name = str(getattr(function, "__qualname__", "?"))
    found: Any = sys.modules.get(module)
    for part in name.split("."):
        found = getattr(found, part, None)
    if found is function and module != "__main__":
        return f"{module}:{name}"
    given = next(given_names(function), None)
    if given is None:
        raise FlowError(
            f"{function!r} has no name that a flow file could call it by; define it at the top of a module, "
            "or write it as an expression"
        )
    return given


def given_names(thing: Any) -> Iterator[str]:
    """The names of what was made by another function, and so knows none itself, but was given one in a module."""
    yield from (known for known, value in IMPORTED.items() if value is thing)
    for module, holder in list(sys.modules.items()):
        if module != "__main__":
            for name, value in list(getattr(holder, "__dict__", {}).items()):
                if value is thing and not name.startswith("_"):
                    yield f"{module}:{name}"
