"""What the section `expect` of a test looks like."""

from __future__ import annotations

from penstock.files.amounts import Duration
from penstock.files.choices import Either
from penstock.files.containers import ListOf, MapOf
from penstock.files.records import Field, Record
from penstock.files.scalars import Anything, Text, Whole

REASONS = ("completed", "draining", "disconnected", "aborted", "failed")
"""How a run of a test may end."""

WANTED = Either(
    Whole(least=0),
    ListOf(Anything(about="A key, or a record of which only the fields that are named count")),
)

BOUNDS = Either(
    Whole(least=0),
    Record(
        {
            "least": Field(Whole(least=0), about="At least so many"),
            "most": Field(Whole(least=0), about="At most so many"),
        }
    ),
)

EXPECT = Record(
    {
        "received": Field(Whole(least=0), about="How many came in"),
        "ok": Field(WANTED, about="The results: how many, or which, in any order"),
        "failed": Field(WANTED, about="What failed"),
        "filtered": Field(WANTED, about="What was filtered, as it came in"),
        "cancelled": Field(WANTED, about="What was cancelled, as it came in"),
        "dead_letters": Field(WANTED, about="The dead letters that are kept; they always have to agree with failed"),
        "delivered": Field(MapOf(WANTED), about="What each outlet was handed"),
        "order": Field(ListOf(Anything()), about="The keys of all results, in the order in which they came"),
        "calls": Field(MapOf(BOUNDS), about="How often each service was called, all attempts counted"),
        "at_once": Field(MapOf(BOUNDS), about="How many calls of each service were under way at once, at most"),
        "in_flight": Field(BOUNDS, about="How many elements were in flight at once, at most"),
        "seconds": Field(Duration(least=0), about="How long it took, exactly, in virtual time"),
        "within": Field(Duration(), about="How long it took at most"),
        "reason": Field(Text(choices=REASONS), about="How the run ended"),
    }
)
