"""Expressions of CEL on values, for flows that are written down: `value.pricing.price < 5000`."""

from penstock.expressions.expression import Assign, Expression, Fields, as_predicate

__all__ = ["Assign", "Expression", "Fields", "as_predicate"]
