"""What runs flows: a run, and the supervisor of all of them."""

from penstock.runtime.plan import Plan
from penstock.runtime.run import Run, Summary
from penstock.runtime.totals import Totals

__all__ = ["Plan", "Run", "Summary", "Totals"]
