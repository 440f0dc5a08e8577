"""From a rule as it is written under `when` to one that can be played."""

from __future__ import annotations

import builtins
from collections.abc import Callable
from copy import deepcopy
from types import new_class
from typing import Any

from penstock.errors import ElementError, ExpressionWrong, ServiceRefused
from penstock.expressions import Expression, Fields
from penstock.files.limits import MAX_EXPRESSION
from penstock.files.mistakes import Mistakes
from penstock.files.node import Node
from penstock.files.records import Read
from penstock.files.trials.case import Answers, Hangs, Raises, Rule
from penstock.files.trials.open_records import OpenRead

DEEDS = ("answers", "computes", "raises", "hangs")


def rule_of(name: str, read: OpenRead, mistakes: Mistakes, *, is_outlet: bool) -> Rule:
    """The rule for a service or an outlet of this name; what is wrong with it is noted."""
    fields = read.fields
    said = [name for name in DEEDS if name in fields]
    if len(said) > 1:
        mistakes.add(fields.at(said[1]), f'"{said[1]}" stands beside "{said[0]}"', wanted="only one of them")
    if not said and "after" not in fields:
        mistakes.add(read.node, "the rule does not say what happens", wanted=f"one of {', '.join((*DEEDS, 'after'))}")
    if is_outlet and said and said[0] in ("answers", "computes"):
        mistakes.add(fields.at(said[0]), f'an outlet has no use for "{said[0]}"', allowed=("raises", "hangs", "after"))
    if fields["to"] is not None and fields["to"] <= (fields["from"] or 0):
        mistakes.add(fields.at("to"), 'found a "to" that is not after "from"')
    return Rule(
        deed=_deed(name, said[0], fields, mistakes) if said else None,
        after=fields["after"] or 0.0,
        fields=read.others,
        condition=None if fields["if"] is None else _condition(fields["if"], fields.at("if"), mistakes),
        calls=_numbers(fields["call"]),
        attempts=_numbers(fields["attempt"]),
        since=fields["from"] or 0.0,
        until=fields["to"],
        place=read.node.place,
    )


def _numbers(read: Any) -> tuple[int, ...]:
    return (read,) if isinstance(read, int) else tuple(read or ())


def _deed(name: str, word: str, fields: Read, mistakes: Mistakes) -> Answers | Raises | Hangs | None:
    value, node = fields[word], fields.at(word)
    match word:
        case "answers":
            return Answers(lambda _: deepcopy(value))
        case "computes":
            return _computed(value, node, mistakes)
        case "raises":
            return _raised(name, value, node, mistakes)
        case _:
            if value is False:
                mistakes.add(node, "found false", wanted="true, or the word left out")
            return Hangs()


def _computed(value: Any, node: Node, mistakes: Mistakes) -> Answers | None:
    if isinstance(value, str):
        expression = _expression(value, node, mistakes)
        return None if expression is None else Answers(expression)
    parts = {name: _expression(text, node.get(name) or node, mistakes) for name, text in value.items()}
    known = {name: part for name, part in parts.items() if part is not None}
    return Answers(Fields(known)) if len(known) == len(parts) else None


def _condition(text: str, node: Node, mistakes: Mistakes) -> Expression | None:
    expression = _expression(text, node, mistakes)
    if expression is not None and expression.kind not in ("BOOL", "DYN"):
        mistakes.add(node, f"found an expression that gives {expression.kind}", wanted="one that is true or false")
    return expression


def _expression(text: str, node: Node, mistakes: Mistakes) -> Expression | None:
    mistakes.expressions.add(len(text), node)
    if len(text) > MAX_EXPRESSION:
        wanted = f"at most {MAX_EXPRESSION} characters"
        mistakes.add(node, f"found an expression of {len(text)} characters", wanted=wanted)
        return None
    try:
        return Expression(text)
    except ExpressionWrong as error:
        mistakes.add(
            node, f"found the expression {error.text!r}: {error.reason}", hint=f"look at column {error.column}"
        )
        return None


def _raised(name: str, value: Any, node: Node, mistakes: Mistakes) -> Raises | None:
    if isinstance(value, str):
        return Raises(_errors("Scripted", value, retryable=True))
    if value["status"] is not None:
        if "retryable" in value:
            mistakes.add(value.at("retryable"), '"retryable" stands beside "status"', wanted="only the status")
        status, message, kind = value["status"], value["message"] or "", value["type"]
        return Raises(lambda: ServiceRefused(name, status, message, value["retry_after"], kind))
    if "retry_after" in value:
        mistakes.add(value.at("retry_after"), 'found "retry_after" without a status', wanted="a status beside it")
    if value["message"] is None and value["type"] is None:
        mistakes.add(node, "the error says nothing", wanted="a message, a type or a status")
    make = _errors(value["type"] or "Scripted", value["message"] or "", retryable=value["retryable"] is not False)
    try:
        make()
    except Exception:
        mistakes.add(value.at("type"), f"an error {value['type']} is not made of a message", wanted="another type")
        return None
    return Raises(make)


def _errors(type_name: str, message: str, *, retryable: bool) -> Callable[[], Exception]:
    """Makes errors of a type by its name: one of Python's, or one that is made for it."""
    known = getattr(builtins, type_name, None)
    base: type[Exception] = known if isinstance(known, type) and issubclass(known, Exception) else ElementError
    error: Callable[[str], Exception] = new_class(
        type_name, (base,), exec_body=lambda body: body.update(retryable=retryable)
    )
    return lambda: error(message)
