"""Outlets: places outside that a flow delivers values to, beside its results."""

from penstock.outlets.files import FileOutlet, Sharing, check_outlets
from penstock.outlets.outlet import Outlet
from penstock.outlets.standard import Nowhere, StandardOutput
from penstock.outlets.valve import Valve

__all__ = ["FileOutlet", "Nowhere", "Outlet", "Sharing", "StandardOutput", "Valve", "check_outlets"]
