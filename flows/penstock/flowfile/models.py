"""What may stand in a flow file: the one table that checks it and describes it to editors."""

from __future__ import annotations

from collections.abc import Mapping

from penstock.flow.item_type import FIELD
from penstock.flowfile.field_types import CRON, ZONE, Checked, Duration, Expr, Function, Rate, Reference, Size
from penstock.flowfile.forms.choices import APART, Either, OneKey
from penstock.flowfile.forms.containers import ListOf, MapOf
from penstock.flowfile.forms.form import Form, Lazy
from penstock.flowfile.forms.record import Field, Record
from penstock.flowfile.forms.scalars import Boolean, Integer, Number, Text, word
from penstock.flowfile.item_types import FIELDS
from penstock.flowtests.forms import CASES
from penstock.steps.fail import TYPE_PATTERN, Template

NAME = "[A-Za-z0-9_][A-Za-z0-9_-]*"
"""The pattern of names that stand in paths and metrics."""

PATH_NAME = Text(pattern=NAME, said="a name of letters, digits, - and _")

FIELD_PATH = Text(pattern=FIELD, said="names of fields with dots between them, such as card.number")

METHODS = ("get", "post", "put", "patch", "delete")

EXPRESSIONS = MapOf(Expr())
STEP: Form = Lazy("step", lambda: _STEP)
STEPS = ListOf(STEP)

BACKOFF = Either(
    word({"none": "No wait: the next attempt at once"}),
    Record(
        {
            "first": Field(Duration(), about="How long to wait before the second attempt, at most"),
            "factor": Field(Number(least=1), about="What each further wait is multiplied by"),
            "cap": Field(Duration(), about="The longest wait; also what Retry-After is cut to"),
        }
    ),
)

ADDRESS = Text(about="The address; {field} stands for a field of the value, ${NAME:-default} for a variable")

SERVICE = OneKey(
    {
        "call": Reference(about="A function of Python, module:name; plain, or a coroutine function"),
        **dict.fromkeys(METHODS, ADDRESS),
    },
    beside={
        "name": Field(Text(), about="What metrics and logs call it, if not by its name here"),
        "timeout": Field(Duration(), about="How long one attempt may take (30s)"),
        "attempts": Field(Integer(least=1), about="How often a call is tried, the first time included (1)"),
        "backoff": Field(BACKOFF, about="The wait between attempts: exponential, with full jitter"),
        "max_in_flight": Field(Integer(least=1), about="Calls at once, over all runs (256)"),
        "rate": Field(Rate(), about="Calls a second, over all runs: 10/s, 600/m"),
        "blocking": Field(Boolean(), about="Whether the function blocks, and needs threads of its own"),
        "headers": Field(MapOf(Text()), about="Headers of each request; {field} and ${NAME} are filled in"),
        "body": Field(Either(Function(), EXPRESSIONS), about="What is sent, as JSON"),
        "response": Field(
            Either(Function("response"), MapOf(Expr("response"))), about="What of the JSON that came back"
        ),
        "limit": Field(Size(), about="Bytes that an answer may have (1MiB)"),
        "batch": Field(
            Either(Boolean(), Text()), about="One request for many values: true, or the field of each that is sent"
        ),
    },
)
"""A service: something outside that steps call."""

SERVICES = MapOf(SERVICE, key_pattern="[A-Za-z_][A-Za-z0-9_]*")

FORMAT = word({"ndjson": "A value a line, as JSON", "csv": "A row a value; the first row names the fields"})

OUTLET = Either(
    word({"stdout": "Standard output, a line each", "discard": "Take them, and keep none"}),
    OneKey(
        {"file": Text(about="The file to append to: .ndjson or .csv, each also with .gz")},
        beside={
            "format": Field(FORMAT, about="The format, if the name does not tell"),
            "fields": Field(ListOf(Text(), least=1), about="The columns of a CSV file"),
        },
    ),
)
"""A place that values are delivered to."""

BRANCH = Record(
    {
        "when": Field(Function(gives=("BOOL",)), about="Which values take this branch; left out: all that are left"),
        "steps": Field(STEPS, about="The steps on this branch"),
        "final": Field(Boolean(), about="Whether the values are finished at the branch's end, or go on behind it"),
    }
)

SERVICE_NAME = Text(pattern="[A-Za-z_][A-Za-z0-9_]*", about="The name of a service")

_KINDS: Mapping[str, Form] = {
    "map": Either(Function(), EXPRESSIONS, about="Replace the value: by an expression, or an object of expressions"),
    "set": MapOf(Expr(), about="Put fields into the value; it keeps its others"),
    "filter": Function(gives=("BOOL",), about="Let through the values for which this is true"),
    "fail": Record(
        {
            "when": Field(Function(gives=("BOOL",)), about="Which values fail; left out: all that come here"),
            "reason": Field(
                Either(
                    Checked(Template),
                    Record(
                        {"expression": Field(Function(), required=True, about="The message, computed from the value")}
                    ),
                ),
                required=True,
                about="The message: a text in which {field} stands for a field of the value, or an expression",
            ),
            "type": Field(
                Text(pattern=TYPE_PATTERN, said="a name of at most 64 letters, digits and _"),
                about="The type of the failure (Rejected)",
            ),
        },
        about="Fail the values for which a condition is true, with a reason",
    ),
    "tap": Reference(about="Call a function with each value; the value goes on unchanged"),
    "flat_map": Either(
        Function(gives=("LIST",)),
        Record(
            {
                "items": Field(Function(gives=("LIST",)), required=True, about="The values that one is replaced by"),
                "max_parts": Field(Integer(least=1), about="Parts in flight at once (256)"),
            }
        ),
        about="Replace the value by the values of a list, its parts",
    ),
    "map_async": Either(
        SERVICE_NAME,
        Record(
            {
                "service": Field(SERVICE_NAME, required=True, about="The service that answers"),
                "ordered": Field(Boolean(), about="Whether elements go on in the order in which they came"),
            }
        ),
        about="Replace the value by the answer of a service",
    ),
    "enrich": Either(
        ListOf(SERVICE_NAME, least=1),
        MapOf(SERVICE_NAME),
        about="Ask services side by side; each answer goes into the value, under the service's name or the one given",
    ),
    "batch": Record(
        {
            "service": Field(SERVICE_NAME, required=True, about="A service that answers for many at once"),
            "size": Field(Integer(least=1), required=True, about="Values in one call"),
            "max_wait": Field(Duration(), required=True, about="How long the first value waits for others"),
        },
        about="Gather values and ask a service once for all of them",
    ),
    "throttle": Either(
        Rate(),
        Record(
            {
                "rate": Field(Rate(), required=True, about="Values a second: 10/s, 600/m"),
                "burst": Field(Integer(least=1), about="Values at once after a pause (1)"),
            }
        ),
        about="Let values through at a rate",
    ),
    "through": Either(
        Reference(),
        Record(
            {
                "operator": Field(Reference(), required=True, about="The operator, by its module:name"),
                "max_parts": Field(Integer(least=1), about="Values that it may make of one (16)"),
            }
        ),
        about="Send the values through a synchronous operator of reactivex",
    ),
    "route": MapOf(BRANCH, key_pattern=NAME, about="Send each value along the first branch whose condition holds"),
    "to": Either(OUTLET.shapes[0], OUTLET.shapes[1], ListOf(OUTLET, least=1), about="Deliver each value to outlets"),
    "step": Either(
        Reference(),
        Record(
            {
                "operator": Field(Reference(), required=True, about="The operator, by its module:name"),
                "max_parts": Field(Integer(least=0), about="Parts that it may have open at once (0)"),
            }
        ),
        about="An operator of your own, on streams of elements",
    ),
    "apply": Text(about="The steps of a template"),
}

_STEP: Form = OneKey(
    _KINDS,
    beside={
        "name": Field(Text(), about="What failures, metrics and dead letters call the step"),
        "merge": Field(Reference(), about="For enrich: how answers are put into the value"),
        "timeout": Field(Duration(), about="For to: how long one write may take (30s)"),
    },
    second=APART,
)

SOURCE = OneKey(
    {
        "generate": Integer(least=1, about="So many samples of the flow"),
        "file": Text(about="The lines of a file: .ndjson or .csv, each also with .gz"),
        "directory": Text(about="The files of a directory, those that come later too"),
        "stdin": Boolean(about="The lines of standard input"),
        "ticks": Duration(about="The numbers 0, 1, 2 …, one each time this has passed"),
        "call": Reference(about="A function that makes a source: the place for brokers and for your own"),
    },
    beside={
        "format": Field(FORMAT, about="The format, if the name does not tell"),
        "limit": Field(Size(), about="Bytes that one line may have (1MiB)"),
        "delimiter": Field(Text(), about="What parts the cells of a CSV row (,)"),
        "pattern": Field(Text(), about="Which files of a directory"),
        "poll_interval": Field(Duration(), about="How often to look into a directory (1s)"),
        "stable_for": Field(Duration(), about="How long a file must be unchanged before it is read (10s)"),
        "processed_dir": Field(Text(), about="The subfolder for files that are through (done)"),
        "count": Field(Integer(least=1), about="How many ticks"),
    },
)
"""Where the items of a worker come from."""

WORKER = Record(
    {
        "source": Field(SOURCE, required=True, about="Where its items come from"),
        "every": Field(Duration(), about="The pause between two runs; without it, and without cron, it runs once"),
        "cron": Field(CRON),
        "timezone": Field(ZONE),
    }
)

SHARED = {
    "services": Field(SERVICES, about="What steps call, each behind a bulkhead that all runs share"),
    "templates": Field(MapOf(STEPS), about="Lists of steps, to be used by name: apply"),
}

FLOW = Record(
    {
        "flow": Field(PATH_NAME, required=True, about="The name; the flow is served at /NAME/bulk"),
        "description": Field(Text(), about="What the flow is for"),
        "include": Field(ListOf(Text()), about="Files whose services and templates can be used here"),
        "item": Field(
            Either(Reference(callable=False), FIELDS), about="The fields of an item with their rules, or a module:Type"
        ),
        "key": Field(Text(), about="The field that people know an item by"),
        "window": Field(
            Either(
                Integer(least=1),
                Record(
                    {
                        "elements": Field(Integer(least=1), about="Items in flight (256)"),
                        "bytes": Field(Size(), about="Bytes of input in flight (16MiB)"),
                    }
                ),
            ),
            about="How much one run may hold",
        ),
        **SHARED,
        "steps": Field(STEPS, about="What happens to each item, from first to last"),
        "order": Field(
            word({"completion": "As each is ready", "input": "As they came in"}),
            about="The order of results (completion)",
        ),
        "dead_letters": Field(
            Either(
                Text(),
                Record(
                    {
                        "store": Field(Text(), required=True, about="sqlite:///FILE or memory"),
                        "redact": Field(ListOf(FIELD_PATH), about="Fields that letters do not keep: card.number"),
                    }
                ),
            ),
            about="Where failed items are kept: sqlite:///FILE or memory",
        ),
        "samples": Field(
            Either(Reference(), MapOf(Expr("seq"))),
            about="The sample item of a number: its fields, made of seq (1, 2 …), or a function",
        ),
        "serve": Field(
            Either(
                Boolean(),
                Record(
                    {
                        "name": Field(Text(pattern=NAME), about="The name in the path, if not the flow's"),
                        "max_runs": Field(Integer(least=1), about="Streams of this flow at once"),
                        "max_line": Field(Size(), about="Bytes of one line"),
                        "max_body": Field(Size(), about="Bytes of a JSON array, or of an answer in one piece"),
                        "max_count": Field(Integer(least=1), about="Samples of one GET"),
                    }
                ),
            ),
            about="How it is served over HTTP; false for workers only",
        ),
        "workers": Field(MapOf(WORKER, key_pattern=NAME), about="Runs in the background, by name"),
        "tests": Field(CASES, about="Tests of the flow, in virtual time"),
    }
)
"""A flow file."""

TESTS_FILE = Record({"tests": Field(CASES, required=True, about="Tests of the flow, in virtual time")})
"""A file of tests that lies beside the file of a flow."""

SHARED_FILE = Record(SHARED)
"""A file of services and templates that flow files use."""
