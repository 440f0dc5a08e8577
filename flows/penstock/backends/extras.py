"""Find out whether the packages of an extra are installed, without importing them."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec

from penstock.errors import ExtraMissing

EXTRAS: Mapping[str, str] = {"postgres": "asyncpg", "s3": "obstore", "kafka": "aiokafka", "nats": "nats"}
"""The module that each extra installs."""


def require_extra(extra: str, subject: str) -> None:
    """Raise `ExtraMissing` if the packages of an extra are not installed. `subject` is what needs them."""
    if find_spec(EXTRAS[extra]) is None:
        raise ExtraMissing(subject, extra)
