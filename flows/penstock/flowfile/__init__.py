"""Flows as YAML or JSON files: load, dump, and the forms that validate and describe them."""

from penstock.flowfile.diagnostics import Diagnostic, Diagnostics, SourceLocation
from penstock.flowfile.document import Node, node_of
from penstock.flowfile.dump import dump
from penstock.flowfile.load import FlowFile, load, loads
from penstock.flowfile.quantities import show_duration, show_rate, show_size
from penstock.flowfile.reader import read_document

__all__ = [
    "Diagnostic",
    "Diagnostics",
    "FlowFile",
    "Node",
    "SourceLocation",
    "dump",
    "load",
    "loads",
    "node_of",
    "read_document",
    "show_duration",
    "show_rate",
    "show_size",
]
