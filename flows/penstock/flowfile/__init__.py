"""Flow files: documents with places, and the shapes that check and describe them."""

from penstock.flowfile.diagnostics import Diagnostic, Diagnostics, SourceLocation
from penstock.flowfile.document import Node, node_of
from penstock.flowfile.dump import dump
from penstock.flowfile.field_types import Duration, Rate, Size
from penstock.flowfile.forms.choices import Chosen, Either, OneKey
from penstock.flowfile.forms.containers import ListOf, MapOf
from penstock.flowfile.forms.form import MISSING, Form, Lazy, Missing
from penstock.flowfile.forms.record import Field, Read, Record
from penstock.flowfile.forms.scalars import AnyValue, Boolean, Integer, Number, Text
from penstock.flowfile.load import FlowFile, load, loads
from penstock.flowfile.quantities import show_duration, show_rate, show_size
from penstock.flowfile.read_document import read_document

__all__ = [
    "MISSING",
    "AnyValue",
    "Boolean",
    "Chosen",
    "Diagnostic",
    "Diagnostics",
    "Duration",
    "Either",
    "Field",
    "FlowFile",
    "Form",
    "Integer",
    "Lazy",
    "ListOf",
    "MapOf",
    "Missing",
    "Node",
    "Number",
    "OneKey",
    "Rate",
    "Read",
    "Record",
    "Size",
    "SourceLocation",
    "Text",
    "dump",
    "load",
    "loads",
    "node_of",
    "read_document",
    "show_duration",
    "show_rate",
    "show_size",
]
