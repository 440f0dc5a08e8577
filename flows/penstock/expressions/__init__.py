"""CEL expressions on a value, for flow files: `value.pricing.price < 5000`."""

from penstock.expressions.expression import Assign, Expression, Fields, as_predicate

__all__ = ["Assign", "Expression", "Fields", "as_predicate"]
