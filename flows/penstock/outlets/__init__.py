"""Outlets: places outside that a flow delivers values to, beside its results."""

from penstock.outlets.outlet import Outlet

__all__ = ["Outlet"]
