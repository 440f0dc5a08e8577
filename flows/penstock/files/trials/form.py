"""What a test looks like in a flow file: the shape of the section `tests`."""

from __future__ import annotations

from penstock.files.amounts import Duration, Size
from penstock.files.choices import APART, Either, OneKey
from penstock.files.containers import ListOf, MapOf
from penstock.files.records import Field, Record
from penstock.files.scalars import Anything, Flag, Text, Whole
from penstock.files.shapes import Shape
from penstock.files.trials.expected_form import EXPECT
from penstock.files.trials.open_records import OpenRecord

PASSED_TIME = Duration(least=0)

NUMBERS = Either(Whole(least=1), ListOf(Whole(least=1), least=1))

RAISES = Either(
    Text(),
    Record(
        {
            "message": Field(Text(), about="The message of the error"),
            "type": Field(
                Text(pattern="[A-Za-z_][A-Za-z0-9_]*", said="the name of a class"),
                about="The name of the error's class",
            ),
            "retryable": Field(Flag(), about="Whether another attempt may help; true unless said otherwise"),
            "status": Field(Whole(least=300, most=599), about="The status of an answer over HTTP"),
            "retry_after": Field(PASSED_TIME, about="How long a service that answers over HTTP asks to be left alone"),
        }
    ),
    about="The call fails: with this message, or with this error",
)

RULE = OpenRecord(
    {
        "answers": Field(Anything(), about="The answer"),
        "computes": Field(
            Either(Text(), MapOf(Text())), about="The answer, as an expression on `value`, or one for each field of it"
        ),
        "raises": Field(RAISES),
        "hangs": Field(Flag(), about="true: there is never an answer"),
        "after": Field(PASSED_TIME, about="How long it takes; alone: the real service answers, that much later"),
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
        "client": Text(choices=("leaves",), about="The client is gone"),
        "drain": Flag(about="true: take nothing more and finish what is in flight"),
        "abort": Flag(about="true: cancel everything"),
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
    ListOf(Anything(about="A value; a text is a raw line")),
    Record({"generate": Field(Whole(least=0), required=True, about="How many of the flow's samples")}),
)

CASES: Shape = ListOf(
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
            "pace": Field(Duration(), about="The time that the client takes for each result"),
            "window": Field(
                Either(
                    Whole(least=1),
                    Record(
                        {
                            "elements": Field(Whole(least=1), about="Items in flight"),
                            "bytes": Field(Size(), about="Bytes of input in flight"),
                        }
                    ),
                ),
                about="How much may be in flight; as the flow says if left out",
            ),
            "order": Field(
                Text(choices=("input", "completion")), about="The order of results; as the flow says if left out"
            ),
            "seed": Field(Whole(least=0), default=0, about="What everything left to chance is drawn from"),
            "expect": Field(EXPECT, required=True, about="What has to come of it; what is not named is not looked at"),
        }
    ),
    about="Tests of the flow, played in virtual time by `penstock test`",
)
