"""The forms of flow files: they validate them and describe them to editors.

To add a key: declare a field here, apply it in `penstock.flowfile.build`, and dump it in `penstock.flowfile.dump`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from penstock.expressions import Fields
from penstock.flow.item_type import FIELD
from penstock.flowfile.document import Node
from penstock.flowfile.field_types import CRON, TIMEZONE, Duration, Expr, Rate, Reference, Size
from penstock.flowfile.forms.choices import Chosen, Either
from penstock.flowfile.forms.containers import ListOf, MapOf
from penstock.flowfile.forms.form import Form, NodeForm
from penstock.flowfile.forms.record import Located, Record, optional, required
from penstock.flowfile.forms.scalars import Boolean, Integer, Text, word
from penstock.flowfile.item_types import FIELDS
from penstock.flowfile.services import SERVICES, ServiceOptions
from penstock.flowfile.sources import SOURCE, SourceOptions
from penstock.flowfile.steps import NAME, STEPS, ReadStep

FIELD_PATH = Text(pattern=FIELD, noun="path", allowed="field names with dots between them, such as card.number")


@dataclass(frozen=True, slots=True, kw_only=True)
class Worker(Located):
    source: Chosen[SourceOptions] = required(SOURCE, "The source of its items")
    every: float | None = optional(
        Duration(), "The pause between two runs; without every and cron, the worker runs once"
    )
    cron: str | None = optional(CRON)
    timezone: str | None = optional(TIMEZONE)


WORKER = Record(Worker)


@dataclass(frozen=True, slots=True, kw_only=True)
class Window(Located):
    elements: int | None = optional(Integer(min=1), "How many items may be in flight (256)")
    bytes: int | None = optional(Size(), "How many bytes of input may be in flight (16MiB)")


_AGE = Duration()


@dataclass(frozen=True, slots=True, kw_only=True)
class Keep(Located):
    resolved: float | None = optional(_AGE, "How long letters stay after they were redriven successfully: 7d")
    parked: float | None = optional(_AGE, "How long letters stay after they were parked")
    waiting: float | None = optional(_AGE, "How long letters wait")
    max: int | None = optional(
        Integer(min=1), "How many letters of the flow stay; the oldest are deleted first, resolved ones before others"
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetters(Located):
    store: str = required(Text(), "A URL: sqlite:///FILE, postgresql, s3, kafka, nats or memory")
    copy: tuple[str, ...] | None = optional(
        ListOf(Text()), "URLs of further stores that get every letter too, later and at least once"
    )
    redact: tuple[str, ...] | None = optional(
        ListOf(FIELD_PATH), "Fields that are removed from dead letters: card.number"
    )
    keep: Keep | None = optional(Record(Keep), "How long letters are kept; without it nothing is deleted")


@dataclass(frozen=True, slots=True, kw_only=True)
class Redrive(Located):
    when: str = required(
        word({"recovered": "When a service works again, the letters that failed because of it"}),
        "When letters are redriven automatically",
    )
    rate: float | None = optional(Rate(), "How many letters per second; without it as fast as the services allow")


@dataclass(frozen=True, slots=True, kw_only=True)
class Serve(Located):
    http: bool = True
    name: str | None = optional(NAME, "The name in the path, if it differs from the flow's")
    max_runs: int | None = optional(Integer(min=1), "How many streams of this flow may run at once")
    max_line: int | None = optional(Size(), "How many bytes one line may have")
    max_body: int | None = optional(Size(), "How many bytes a JSON array, or a response that is not streamed, may have")
    max_count: int | None = optional(Integer(min=1), "How many samples one GET may request")
    refuse_when_open: bool | None = optional(
        Boolean(), "Whether requests get 503 while the circuit breaker of a service is open (false: they wait)"
    )


SERVE: Form[Serve] = Either(Boolean().then(lambda http: Serve(http=http)), Record(Serve))


@dataclass(frozen=True, slots=True, kw_only=True)
class Shared(Located):
    """Services and templates, in a flow file or in a file that flow files include."""

    services: dict[str, Chosen[ServiceOptions]] | None = optional(
        SERVICES, "What steps call; all runs share the limits of a service"
    )
    templates: dict[str, tuple[ReadStep, ...]] | None = optional(MapOf(STEPS), "Lists of steps that apply uses by name")


SHARED_FILE = Record(Shared)
"""A file of services and templates that flow files include."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FlowModel(Located):
    flow: str = required(NAME, "The name; the flow is served at /NAME/bulk")
    description: str | None = optional(Text(), "What the flow does")
    include: tuple[str, ...] | None = optional(ListOf(Text()), "Files whose services and templates can be used here")
    item: Any = optional(
        Either(Reference(callable=False), FIELDS, hint="write fields with their types, such as {id: string}"),
        "The fields of an item and their rules, or module:Type",
    )
    key: str | None = optional(Text(), "The field that identifies an item")
    window: Window | None = optional(Record(Window, "elements"), "How much one run may hold")
    deadline: float | None = optional(
        Duration(), "How long an item may take, from its source on; after that no call starts, and it fails"
    )
    services: dict[str, Chosen[ServiceOptions]] | None = optional(
        SERVICES, "What steps call; all runs share the limits of a service"
    )
    templates: dict[str, tuple[ReadStep, ...]] | None = optional(MapOf(STEPS), "Lists of steps that apply uses by name")
    steps: tuple[ReadStep, ...] | None = optional(STEPS, "The steps that each item takes, from first to last")
    order: str | None = optional(
        word(
            {
                "completion": "As each is ready",
                "input": "In input order",
                "key": "Items with the same key one after the other",
            }
        ),
        "The order of results, with key also of calls and of values in sinks (completion)",
    )
    dead_letters: DeadLetters | None = optional(
        Record(DeadLetters, "store"),
        "Where failed items are stored, a URL: sqlite:///FILE, postgresql, s3, kafka, nats or memory",
    )
    redrive: Redrive | None = optional(Record(Redrive, "when"), "When dead letters are redriven automatically")
    samples: Callable[[int], Any] | None = optional(
        Either(Reference(), MapOf(Expr("seq")).then(Fields)),
        "The sample item with a number (1, 2 …): its fields, computed from that number, seq; or a function",
    )
    serve: Serve | None = optional(SERVE, "How the flow is served over HTTP; false for workers only")
    workers: dict[str, Worker] | None = optional(MapOf(WORKER, keys=NAME), "Background runs, by name")
    tests: Node | None = optional(NodeForm(), "Tests of the flow, in virtual time")


FLOW = Record(FlowModel)
"""A flow file. Its tests are read by `penstock.flowtests`."""
