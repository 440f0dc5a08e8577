"""Outlets: places outside that a flow delivers values to, beside its results."""

from penstock.outlets.outlet import Outlet
from penstock.outlets.valve import Valve

__all__ = ["Outlet", "Valve"]
