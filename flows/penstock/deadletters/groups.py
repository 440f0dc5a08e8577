"""Group dead letters by what went wrong: a fingerprint of flow, step, error type and message pattern."""

from __future__ import annotations

import re
from hashlib import blake2b

VERSION = 1

_VARIABLE = re.compile(r"'[^']*'|\"[^\"]*\"|[0-9a-fA-F]{8}-[0-9a-fA-F-]{27}|\d+(?:\.\d+)?")


def pattern_of(message: str) -> str:
    """Return a message without its numbers, ids and quoted texts."""
    return _VARIABLE.sub("*", message)


def fingerprint(flow: str, step: str, type: str, message: str) -> str:
    """Return the id of the group that a letter belongs to."""
    text = "\0".join((flow, step, type, pattern_of(message)))
    return f"{VERSION}-{blake2b(text.encode(), digest_size=6).hexdigest()}"
