"""Choose the rule that applies to a call: the first that matches the value, the time, and the number of the call."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import msgspec

from penstock.errors import ExpressionFailed
from penstock.flowtests.models import StubRule
from penstock.flowtests.tracing import format_value, to_plain


@dataclass(slots=True, eq=False)
class RuleCounter:
    """A rule of a test that runs, and how often it matched."""

    rule: StubRule
    matched: int = 0
    applied: int = 0
    last: int = 0
    """The call for which it was counted last."""


class RuleSet:
    """The rules of one service, with their counts."""

    def __init__(self, rules: Sequence[StubRule]) -> None:
        self.counters = tuple(RuleCounter(rule) for rule in rules)
        self.calls = 0
        self._attempts: Counter[str] = Counter()

    def begin(self) -> None:
        """Count a call."""
        self.calls += 1

    def decide(self, value: Any, now: float) -> StubRule | None:
        """Return the rule for a value of this call. All rules count the calls that they match, whichever applies."""
        known = to_plain(value)
        attempt = self._attempt(value)
        chosen: RuleCounter | None = None
        for counter in self.counters:
            if not _matches(counter.rule, known, now):
                continue
            if counter.rule.by_value or counter.last != self.calls:
                counter.matched += 1
                counter.last = self.calls
            if (
                chosen is None
                and _is_among(counter.matched, counter.rule.calls)
                and _is_among(attempt, counter.rule.attempts)
            ):
                chosen = counter
        if chosen is None:
            return None
        chosen.applied += 1
        return chosen.rule

    def _attempt(self, value: Any) -> int:
        """Return how often the service was called for a value, including this time. Equal values count as one."""
        try:
            argument = msgspec.json.encode(value, enc_hook=repr).decode()
        except Exception:
            argument = repr(value)
        self._attempts[argument] += 1
        return self._attempts[argument]


def _matches(rule: StubRule, value: Any, now: float) -> bool:
    if now < rule.since or (rule.until is not None and now >= rule.until):
        return False
    if not all(json_equal(expected, _at_path(value, path)) for path, expected in rule.others.items()):
        return False
    if rule.condition is None:
        return True
    try:
        return rule.condition(value) is True
    except ExpressionFailed:
        return False


def _is_among(number: int, numbers: tuple[int, ...] | None) -> bool:
    return not numbers or number in numbers


_NOTHING = object()


def _at_path(value: Any, path: str) -> Any:
    """Return the value at a path of fields. A field whose name contains a dot comes before a path."""
    if isinstance(value, dict):
        known = cast("dict[str, Any]", value)
        if path in known:
            return known[path]
        head, dot, tail = path.partition(".")
        if dot and head in known:
            return _at_path(known[head], tail)
    return _NOTHING


def json_equal(expected: Any, found: Any) -> bool:
    """Return whether two values are equal in JSON: `true` is not a number, 1 and 1.0 are equal."""
    if isinstance(expected, dict) and isinstance(found, dict):
        one, other = cast("Mapping[str, Any]", expected), cast("Mapping[str, Any]", found)
        return one.keys() == other.keys() and all(json_equal(one[name], other[name]) for name in one)
    if isinstance(expected, list | tuple) and isinstance(found, list | tuple):
        these, those = cast("Sequence[Any]", expected), cast("Sequence[Any]", found)
        return len(these) == len(those) and all(map(json_equal, these, those))
    return isinstance(expected, bool) == isinstance(found, bool) and bool(expected == found)


def describe_rule(rule: StubRule) -> str:
    """Describe which calls a rule matches: `orderId = 3, call 1`."""
    parts = [f"{path} = {format_value(value)}" for path, value in rule.others.items()]
    if rule.condition is not None:
        parts.append(str(getattr(rule.condition, "text", "a condition")))
    parts += [f"call {', '.join(map(str, rule.calls))}"] if rule.calls else []
    parts += [f"attempt {', '.join(map(str, rule.attempts))}"] if rule.attempts else []
    if rule.since or rule.until is not None:
        parts.append(f"from {rule.since:g} s" + ("" if rule.until is None else f" to {rule.until:g} s"))
    return ", ".join(parts) or "all calls"
