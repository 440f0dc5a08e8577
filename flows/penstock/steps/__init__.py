"""The steps of a flow: operators on Observables of elements, one module each."""

from penstock.steps.batch import batch
from penstock.steps.decode import decode
from penstock.steps.enrich import Merge, enrich
from penstock.steps.fail import DEFAULT_TYPE, fail
from penstock.steps.flat_map import MAX_PARTS, flat_map
from penstock.steps.map_async import map_async
from penstock.steps.route import Branch, route
from penstock.steps.slices import sliced
from penstock.steps.throttle import throttle
from penstock.steps.through import through
from penstock.steps.to import to
from penstock.steps.values import filter, map, tap

__all__ = [
    "DEFAULT_TYPE",
    "MAX_PARTS",
    "Branch",
    "Merge",
    "batch",
    "decode",
    "enrich",
    "fail",
    "filter",
    "flat_map",
    "map",
    "map_async",
    "route",
    "sliced",
    "tap",
    "throttle",
    "through",
    "to",
]
