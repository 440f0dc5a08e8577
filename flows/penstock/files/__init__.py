"""Flow files: documents with places, and the shapes that check and describe them."""

from penstock.files.amounts import Duration, Rate, Size
from penstock.files.choices import Chosen, Either, OneKey
from penstock.files.containers import ListOf, MapOf
from penstock.files.document import read_document
from penstock.files.dump import dump
from penstock.files.load import FlowFile, load, loads
from penstock.files.mistakes import Mistake, Mistakes
from penstock.files.node import Node, node_of
from penstock.files.places import Place
from penstock.files.quantities import show_duration, show_rate, show_size
from penstock.files.records import Field, Read, Record
from penstock.files.scalars import Anything, Flag, Number, Text, Whole
from penstock.files.shapes import MISSING, Lazy, Missing, Shape

__all__ = [
    "MISSING",
    "Anything",
    "Chosen",
    "Duration",
    "Either",
    "Field",
    "Flag",
    "FlowFile",
    "Lazy",
    "ListOf",
    "MapOf",
    "Missing",
    "Mistake",
    "Mistakes",
    "Node",
    "Number",
    "OneKey",
    "Place",
    "Rate",
    "Read",
    "Record",
    "Shape",
    "Size",
    "Text",
    "Whole",
    "dump",
    "load",
    "loads",
    "node_of",
    "read_document",
    "show_duration",
    "show_rate",
    "show_size",
]
