"""The steps of a flow: one module each, with its record and its operator."""

from penstock.steps.batch import Batch
from penstock.steps.decode import decode
from penstock.steps.enrich import Enrich, Merge
from penstock.steps.fail import Fail
from penstock.steps.flat_map import FlatMap
from penstock.steps.map_async import MapAsync
from penstock.steps.route import Route
from penstock.steps.step import Branch, MemoryBound, MemoryUse, Step, walk
from penstock.steps.throttle import Throttle
from penstock.steps.through import CustomOperator, Through
from penstock.steps.to import To
from penstock.steps.values import Filter, Map, Tap

__all__ = [
    "Batch",
    "Branch",
    "CustomOperator",
    "Enrich",
    "Fail",
    "Filter",
    "FlatMap",
    "Map",
    "MapAsync",
    "MemoryBound",
    "MemoryUse",
    "Merge",
    "Route",
    "Step",
    "Tap",
    "Throttle",
    "Through",
    "To",
    "decode",
    "walk",
]
