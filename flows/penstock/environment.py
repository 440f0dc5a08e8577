"""`${NAME}` and `${NAME:-default}` in texts: what differs from machine to machine, and what must stay secret.

Descriptions keep the text as it is written; it is filled in only where it is used. So what stands in a variable is in
no dump, no log and no error of a description.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping

from penstock.errors import VariableMissing

_VARIABLE = re.compile(r"\$(?:\$|\{(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?::-(?P<default>[^}]*))?\})")


def filled(text: str, environment: Mapping[str, str] = os.environ) -> str:
    """A text with its variables filled in; `$$` stands for `$`. Raises `VariableMissing` for one that is not set.

    As in a shell, the default counts for a variable that is empty, too.

    >>> filled("${SCHEME:-http}://$$host", {})
    'http://$host'
    """

    def value(found: re.Match[str]) -> str:
        name, default = found["name"], found["default"]
        if name is None:
            return "$"
        if (known := environment.get(name)) or (known is not None and default is None):
            return known
        if default is None:
            raise VariableMissing(name)
        return default

    end = text.rfind("}") + 1  # behind it no variable ends; each `${` there would be followed to the end of the text
    return _VARIABLE.sub(value, text[:end]) + text[end:].replace("$$", "$")


def variables(text: str) -> list[str]:
    """The names of the variables in a text."""
    return [found["name"] for found in _VARIABLE.finditer(text, 0, text.rfind("}") + 1) if found["name"]]
