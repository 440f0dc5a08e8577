"""Redrive dead letters: run them again through their flows, as controlled jobs. Plan, edit, export and import them."""

from penstock.redrive.flows import FlowLookup
from penstock.redrive.redriver import Redriver
from penstock.redrive.statistics import RedriveStatistics

__all__ = ["FlowLookup", "RedriveStatistics", "Redriver"]
