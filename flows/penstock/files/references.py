"""References to Python objects in dumps: the `module:name` by which a flow file imports them again."""

from __future__ import annotations

import sys
from typing import Any

from penstock.errors import FlowError


def reference_of(function: Any) -> str:
    """Return the `module:name` of a Python object; raise `FlowError` if it cannot be imported by that name."""
    module = str(getattr(function, "__module__", "__main__"))
    name = str(getattr(function, "__qualname__", "?"))
    found: Any = sys.modules.get(module)
    for part in name.split("."):
        found = getattr(found, part, None)
    if found is not function or module == "__main__":
        raise FlowError(
            f"{function!r} cannot be imported by its name; define it with def or class at the top of a module, "
            "or write it as an expression"
        )
    return f"{module}:{name}"
