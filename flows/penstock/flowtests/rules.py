"""Which rule of a test decides a call: the first that fits the value, the time, and the number of the call."""

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
    """A rule of a test that is played, and how often it fitted."""

    rule: StubRule
    fitted: int = 0
    decided: int = 0
    last: int = 0
    """The call that it was last counted for."""


class RuleSet:
    """The rules for one service, as the calls come."""

    def __init__(self, rules: Sequence[StubRule]) -> None:
        self.parts = tuple(RuleCounter(rule) for rule in rules)
        self.calls = 0
        self._asked: Counter[str] = Counter()

    def begin(self) -> None:
        """One more call is made."""
        self.calls += 1

    def decide(self, value: Any, now: float) -> StubRule | None:
        """The rule for a value of this call. All rules count the calls that they fit, whichever of them decides."""
        known = to_plain(value)
        attempt = self._attempt(value)
        chosen: RuleCounter | None = None
        for part in self.parts:
            if not _fits(part.rule, known, now):
                continue
            if part.rule.for_some or part.last != self.calls:
                part.fitted += 1
                part.last = self.calls
            if chosen is None and _is_among(part.fitted, part.rule.calls) and _is_among(attempt, part.rule.attempts):
                chosen = part
        if chosen is None:
            return None
        chosen.decided += 1
        return chosen.rule

    def _attempt(self, value: Any) -> int:
        """How often this value was asked about, this time included; equal values are one."""
        try:
            question = msgspec.json.encode(value, enc_hook=repr).decode()
        except Exception:
            question = repr(value)
        self._asked[question] += 1
        return self._asked[question]


def _fits(rule: StubRule, value: Any, now: float) -> bool:
    if now < rule.since or (rule.until is not None and now >= rule.until):
        return False
    if not all(json_equal(wanted, _at_path(value, path)) for path, wanted in rule.fields.items()):
        return False
    if rule.condition is None:
        return True
    try:
        return rule.condition(value) is True
    except ExpressionFailed:
        return False


def _is_among(number: int, numbers: tuple[int, ...]) -> bool:
    return not numbers or number in numbers


_NOTHING = object()


def _at_path(value: Any, path: str) -> Any:
    """What a value has at a path of fields; a field whose name has a dot in it goes before a path."""
    if isinstance(value, dict):
        known = cast("dict[str, Any]", value)
        if path in known:
            return known[path]
        head, dot, tail = path.partition(".")
        if dot and head in known:
            return _at_path(known[head], tail)
    return _NOTHING


def json_equal(wanted: Any, found: Any) -> bool:
    """Whether two values are the same in JSON: `true` is no number, 1 and 1.0 are one."""
    if isinstance(wanted, dict) and isinstance(found, dict):
        one, other = cast("Mapping[str, Any]", wanted), cast("Mapping[str, Any]", found)
        return one.keys() == other.keys() and all(json_equal(one[name], other[name]) for name in one)
    if isinstance(wanted, list | tuple) and isinstance(found, list | tuple):
        these, those = cast("Sequence[Any]", wanted), cast("Sequence[Any]", found)
        return len(these) == len(those) and all(map(json_equal, these, those))
    return isinstance(wanted, bool) == isinstance(found, bool) and bool(wanted == found)


def described(rule: StubRule) -> str:
    """A rule by what it fits: `for orderId = 3, call 1`."""
    said = [f"{path} = {format_value(value)}" for path, value in rule.fields.items()]
    if rule.condition is not None:
        said.append(str(getattr(rule.condition, "text", "a condition")))
    said += [f"call {', '.join(map(str, rule.calls))}"] if rule.calls else []
    said += [f"attempt {', '.join(map(str, rule.attempts))}"] if rule.attempts else []
    if rule.since or rule.until is not None:
        said.append(f"from {rule.since:g} s" + ("" if rule.until is None else f" to {rule.until:g} s"))
    return ", ".join(said) or "all calls"
