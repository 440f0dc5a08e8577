"""Redrive dead letters: run them again through their flows, as controlled jobs. Plan, edit, export and import them."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from penstock.redrive.counters import RedriveStatistics
    from penstock.redrive.flows import FlowLookup
    from penstock.redrive.redriver import Redriver

__all__ = ["FlowLookup", "RedriveStatistics", "Redriver"]

_MODULES = {"FlowLookup": "flows", "RedriveStatistics": "counters", "Redriver": "redriver"}


def __getattr__(name: str) -> object:
    """Import a name when it is used: commands that only read letters need no runs, which take long to import."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
