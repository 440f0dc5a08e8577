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

    return _VARIABLE.sub(value, text)


_SECRET = re.compile(r"secret|token|passw|pwd|key|credential|auth", re.IGNORECASE)


def shown(text: str, environment: Mapping[str, str] = os.environ) -> str:
    """A text with its variables filled in, for messages: variables that are not set, or whose name says that they are
    secret (SECRET, TOKEN, PASSWORD, KEY, CREDENTIAL, AUTH), stay as they are written.

    >>> shown("${OUT:-out}/${API_TOKEN}.csv", {"API_TOKEN": "t0p"})
    'out/${API_TOKEN}.csv'
    """

    def value(found: re.Match[str]) -> str:
        name = found["name"]
        if name is not None and _SECRET.search(name):
            return found[0]
        try:
            return filled(found[0], environment)
        except VariableMissing:
            return found[0]

    return _VARIABLE.sub(value, text)


def variables(text: str) -> list[str]:
    """The names of the variables in a text."""
    return [found["name"] for found in _VARIABLE.finditer(text) if found["name"]]
