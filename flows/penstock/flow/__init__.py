"""Flows: the description of what happens to elements. Nothing runs here."""

from penstock.flow.flow import Flow, Otherwise, When

__all__ = ["Flow", "Otherwise", "When"]
