"""The shape of a mapping that has fields of its own and, beside them, whatever a user puts there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from penstock.flowfile.diagnostics import Diagnostics
from penstock.flowfile.document import Kind, Node
from penstock.flowfile.field_types import Duration, Size
from penstock.flowfile.forms.choices import APART, Either, OneKey
from penstock.flowfile.forms.containers import ListOf, MapOf
from penstock.flowfile.forms.form import MISSING, Form, Missing, Schema
from penstock.flowfile.forms.record import Field, Read, Record
from penstock.flowfile.forms.scalars import AnyValue, Boolean, Integer, Text


@dataclass(frozen=True, slots=True)
class OpenRead:
    """A record that was read, and what stands beside its fields."""

    fields: Read
    others: Mapping[str, Any]
    node: Node


@dataclass(frozen=True, slots=True)
class OpenRecord(Form):
    """A mapping with these fields, and beside them any others, which are plain values."""

    fields: Mapping[str, Field]

    @property
    def json_types(self) -> frozenset[Kind]:
        return frozenset({"mapping"})

    @property
    def expected(self) -> str:
        return "a mapping"

    def read(self, node: Node, mistakes: Diagnostics, /) -> OpenRead | Missing:
        if node.kind != "mapping":
            return self.reject(node, mistakes)
        own = Node("mapping", tuple(pair for pair in node.value if pair[0].value in self.fields), node.place)
        read = Record(self.fields).read(own, mistakes)
        others = {name: value.plain() for name, value in node.items() if name not in self.fields}
        return MISSING if read is MISSING else OpenRead(read, others, node)

    def json_schema(self, definitions: dict[str, Schema], /) -> Schema:
        return {**Record(self.fields).json_schema(definitions), "additionalProperties": True}


REASONS = ("completed", "draining", "disconnected", "aborted", "failed")
"""How a run of a test may end."""

WANTED = Either(
    Integer(least=0),
    ListOf(AnyValue(about="A key, or a record of which only the fields that are named count")),
)

BOUNDS = Either(
    Integer(least=0),
    Record(
        {
            "min": Field(Integer(least=0), about="At least so many"),
            "max": Field(Integer(least=0), about="At most so many"),
        }
    ),
)

EXPECT = Record(
    {
        "received": Field(Integer(least=0), about="How many came in"),
        "ok": Field(WANTED, about="The results: how many, or which, in any order"),
        "failed": Field(WANTED, about="What failed"),
        "filtered": Field(WANTED, about="What was filtered, as it came in"),
        "cancelled": Field(WANTED, about="What was cancelled, as it came in"),
        "dead_letters": Field(WANTED, about="The dead letters that are kept; they always have to agree with failed"),
        "delivered": Field(MapOf(WANTED), about="What each outlet was handed"),
        "order": Field(ListOf(AnyValue()), about="The keys of all results, in the order in which they came"),
        "calls": Field(MapOf(BOUNDS), about="How often each service was called, all attempts counted"),
        "peak_calls": Field(MapOf(BOUNDS), about="How many calls of each service were under way at once, at most"),
        "in_flight": Field(BOUNDS, about="How many elements were in flight at once, at most"),
        "seconds": Field(Duration(least=0), about="How long it took, exactly, in virtual time"),
        "max_duration": Field(Duration(), about="How long it took at most"),
        "reason": Field(Text(choices=REASONS), about="How the run ended"),
    }
)


PASSED_TIME = Duration(least=0)

NUMBERS = Either(Integer(least=1), ListOf(Integer(least=1), least=1))

RAISES = Either(
    Text(),
    Record(
        {
            "message": Field(Text(), about="The message of the error"),
            "type": Field(
                Text(pattern="[A-Za-z_][A-Za-z0-9_]*", said="the name of a class"),
                about="The name of the error's class",
            ),
            "retryable": Field(Boolean(), about="Whether another attempt may help; true unless said otherwise"),
            "status": Field(Integer(least=300, most=599), about="The status of an answer over HTTP"),
            "retry_after": Field(PASSED_TIME, about="How long a service that answers over HTTP asks to be left alone"),
        }
    ),
    about="The call fails: with this message, or with this error",
)

RULE = OpenRecord(
    {
        "returns": Field(AnyValue(), about="The answer"),
        "expression": Field(
            Either(Text(), MapOf(Text())), about="The answer, as an expression on `value`, or one for each field of it"
        ),
        "raises": Field(RAISES),
        "hangs": Field(Boolean(), about="true: there is never an answer"),
        "delay": Field(PASSED_TIME, about="How long it takes; alone: the real service answers, that much later"),
        "if": Field(Text(), about="An expression on `value`: which calls are meant"),
        "call": Field(NUMBERS, about="Which of the calls that fit otherwise, counted from 1"),
        "attempt": Field(NUMBERS, about="Which of the calls for one and the same value, counted from 1"),
        "from": Field(PASSED_TIME, about="From when on, since the start of the test"),
        "to": Field(Duration(), about="Until when"),
    },
    about="What a service does with some calls; keys of your own are fields of the value that have to match",
)

EVENT = OneKey(
    {
        "client": Text(choices=("disconnects",), about="The client is gone"),
        "drain": Boolean(about="true: take nothing more and finish what is in flight"),
        "abort": Boolean(about="true: cancel everything"),
        "store": Text(choices=("down",), about="The dead letters cannot be stored"),
    },
    {
        "at": Field(PASSED_TIME, about="When, since the start of the test"),
        "from": Field(PASSED_TIME, about="From when on the store is down; from the start unless said otherwise"),
        "to": Field(Duration(), about="Until when the store is down; for good unless said otherwise"),
    },
    second=APART,
)

GIVEN = Either(
    ListOf(AnyValue(about="A value; a text is a raw line")),
    Record({"generate": Field(Integer(least=0), required=True, about="How many of the flow's samples")}),
)

CASES: Form = ListOf(
    Record(
        {
            "name": Field(Text(), required=True, about="What the test shows, as a sentence"),
            "given": Field(GIVEN, required=True, about="What comes in"),
            "every": Field(Duration(), about="The time between two values that come in; all at once if left out"),
            "when": Field(
                MapOf(Either(RULE, ListOf(RULE, least=1))),
                about="What services and outlets do, by their names; the first rule that fits a call decides, and "
                "where none does the real one answers",
            ),
            "events": Field(ListOf(EVENT), about="What happens to the run as a whole"),
            "client_delay": Field(Duration(), about="The time that the client takes for each result"),
            "window": Field(
                Either(
                    Integer(least=1),
                    Record(
                        {
                            "elements": Field(Integer(least=1), about="Items in flight"),
                            "bytes": Field(Size(), about="Bytes of input in flight"),
                        }
                    ),
                ),
                about="How much may be in flight; as the flow says if left out",
            ),
            "order": Field(
                Text(choices=("input", "completion")), about="The order of results; as the flow says if left out"
            ),
            "seed": Field(Integer(least=0), default=0, about="What everything left to chance is drawn from"),
            "expect": Field(EXPECT, required=True, about="What has to come of it; what is not named is not looked at"),
        }
    ),
    about="Tests of the flow, played in virtual time by `penstock test`",
)
