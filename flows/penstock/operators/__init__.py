"""The steps that a flow is made of: operators on Observables of elements, one a file."""

from penstock.operators.batch import batch
from penstock.operators.branch import Branch, branch
from penstock.operators.dead_letter import dead_letter
from penstock.operators.decode import decode
from penstock.operators.encode import encode
from penstock.operators.enrich import Merge, enrich
from penstock.operators.fail import REJECTED, fail
from penstock.operators.filter import filter
from penstock.operators.flat_map import MAX_PARTS, flat_map
from penstock.operators.map import map
from penstock.operators.map_async import map_async
from penstock.operators.route import Branches, route
from penstock.operators.slices import sliced
from penstock.operators.tap import tap
from penstock.operators.throttle import throttle
from penstock.operators.through import through
from penstock.operators.to import to

__all__ = [
    "MAX_PARTS",
    "REJECTED",
    "Branch",
    "Branches",
    "Merge",
    "batch",
    "branch",
    "dead_letter",
    "decode",
    "encode",
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
