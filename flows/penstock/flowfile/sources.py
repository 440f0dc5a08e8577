"""Sources of flow files: their forms, how they are made, and how they are dumped.

To add a kind of source: an entry in `SYNTAX`, and its keys in `SourceOptions`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from penstock.errors import FlowDefinitionError
from penstock.flow.flow import Flow
from penstock.flowfile.document import Node, any_of
from penstock.flowfile.field_types import FORMAT, Duration, Reference, Size
from penstock.flowfile.forms.choices import Chosen, OneKey, one_or_more
from penstock.flowfile.forms.form import Form
from penstock.flowfile.forms.record import Located, keys_of, optional
from penstock.flowfile.forms.scalars import Boolean, Integer, Text, word
from penstock.flowfile.plain import Plain, drop_none, dump_options
from penstock.flowfile.quantities import show_duration
from penstock.sources import (
    JetStreamSource,
    KafkaSource,
    PostgresSource,
    S3Source,
    Source,
    from_directory,
    from_file,
    from_stdin,
    generate,
    ticks,
)
from penstock.sources.byte_stream import StdinSource
from penstock.sources.directory import Directory
from penstock.sources.file import File
from penstock.sources.iterables import Generated, Ticks


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceOptions(Located):
    format: str | None = optional(FORMAT, "The format, if the file name does not tell it")
    limit: int | None = optional(Size(), "How many bytes one line may have (1MiB)")
    delimiter: str | None = optional(Text(), "The character between the cells of a CSV row (,)")
    pattern: str | None = optional(Text(), "Which files of a directory are read")
    poll_interval: float | None = optional(Duration(), "How often a directory is checked (1s)")
    stable_for: float | None = optional(Duration(), "How long a file must be unchanged before it is read (10s)")
    processed_dir: str | None = optional(Text(), "The subdirectory to which processed files are moved (done)")
    count: int | None = optional(Integer(min=1), "How many ticks")
    stream: str | None = optional(Text(), "nats: the stream, which must exist")
    durable: str | None = optional(
        Text(), "nats: the consumer of the stream, which all workers with this name share; created if it does not exist"
    )
    subjects: tuple[str, ...] | None = optional(
        one_or_more(Text()), "nats: the subjects of the stream that are received (all)"
    )
    ack_wait: float | None = optional(
        Duration(), "nats: how long after its process has ended a message is delivered to another worker (30s)"
    )
    max_ack_pending: int | None = optional(
        Integer(min=1), "nats: how many messages all workers together may hold (10000)"
    )
    topic: str | None = optional(Text(), "kafka: the topic")
    group: str | None = optional(Text(), "kafka: the consumer group, whose members share the partitions")
    from_: str | None = optional(
        word({"latest": "At the newest record", "earliest": "At the oldest record"}),
        "kafka: where a group begins that has committed nothing (latest)",
        key="from",
    )
    instance_id: str | None = optional(
        Text(), "kafka: the name of this member, another one on each machine, for restarts that move no partition"
    )
    session_timeout: float | None = optional(
        Duration(), "kafka: how long after its process has ended a member loses its partitions (10s)"
    )
    rebalance_timeout: float | None = optional(
        Duration(), "kafka: how long a member may finish elements before it gives partitions away (1m)"
    )
    max_partition_fetch_bytes: int | None = optional(
        Size(), "kafka: how many bytes of each partition are fetched in advance (1MiB)"
    )
    checkpoint: str | None = optional(
        Text(), "s3: the name of the record, in the bucket, of the objects that were processed (penstock)"
    )
    query: str | None = optional(Text(), "postgres: a table, or a select")
    key: str | None = optional(Text(), "postgres: the column by which the rows are read: unique, never null, indexed")
    batch: int | None = optional(Integer(min=1), "postgres: how many rows one query returns (1000)")
    start: str | None = optional(Text(), "postgres: the key after which each run begins")
    deliveries: int | None = optional(
        Integer(min=1), "nats, kafka: how often a message is delivered before it fails as Poisoned (5)"
    )
    on_failure: str | None = optional(
        word(
            {
                "dead_letter": "Store a dead letter",
                "redeliver": "Let the broker deliver the message again, after a while; not with kafka",
            }
        ),
        "nats, kafka: what happens to an item that failed (dead_letter)",
    )


@dataclass(frozen=True, slots=True)
class SourceSyntax:
    """How a kind of source is written, made and dumped."""

    form: Form[Any]
    """The form of the value of its key."""
    keys: tuple[str, ...]
    """The other keys that it has."""
    make: Callable[..., Source[Any]]
    """Makes the source from the flow, that value and the given options."""
    record: type[Source[Any]] | None = None
    """The class of the source; None if it cannot be dumped."""
    dump: Callable[[Any], dict[str, Plain]] | None = None
    """Dumps a source in another way than `target` and `keys`."""
    target: str = "url"
    """Its attribute with the value of the key."""
    needs: tuple[str, ...] = ()
    """The other keys that must be given."""
    endless: bool = False
    """Whether a run ends only when it is stopped, so that a schedule has no effect."""


def _generate(flow: Flow[Any], count: int) -> Source[Any]:
    if flow.sample_factory is None:
        raise FlowDefinitionError("generate: the flow has no samples; describe them under samples:")
    return generate(count, flow.sample_factory)


def _stdin(_: Flow[Any], __: bool, **options: Any) -> Source[Any]:
    return from_stdin(**options)


def _call(_: Flow[Any], make: Callable[[], object]) -> Source[Any]:
    try:
        source = make()
    except FlowDefinitionError:
        raise
    except Exception as error:
        raise FlowDefinitionError(f"the function for the source failed: {type(error).__name__}: {error}") from error
    if not isinstance(source, Source):
        raise FlowDefinitionError(
            f"the function for the source: expected it to return a Source, got {type(source).__name__}"
        )
    return source  # pyright: ignore[reportUnknownVariableType]  # of a source of any type


def _without_flow(make: Callable[..., Source[Any]], _: Flow[Any], value: Any, **options: Any) -> Source[Any]:
    return make(value, **options)


_LINES = ("format", "limit", "delimiter")

SYNTAX: Mapping[str, SourceSyntax] = {
    "generate": SourceSyntax(
        Integer(min=1, description="This many samples of the flow"), (), _generate, Generated, target="total"
    ),
    "file": SourceSyntax(
        Text(description="The lines of a file: .ndjson or .csv, each also with .gz"),
        _LINES,
        partial(_without_flow, from_file),
        File,
        target="path",
    ),
    "directory": SourceSyntax(
        Text(description="The lines of all files in a directory, including later ones"),
        ("pattern", "poll_interval", "stable_for", "processed_dir", *_LINES),
        partial(_without_flow, from_directory),
        Directory,
        target="path",
    ),
    "stdin": SourceSyntax(
        Boolean(description="The lines of standard input"),
        ("limit",),
        _stdin,
        StdinSource,
        lambda source: {"stdin": True, **dump_options(source, SourceOptions, ("limit",))},
    ),
    "ticks": SourceSyntax(
        Duration(description="The numbers 0, 1, 2 …, one per interval"),
        ("count",),
        partial(_without_flow, ticks),
        Ticks,
        lambda source: drop_none({"ticks": show_duration(source.seconds), "count": source.total}),
    ),
    "nats": SourceSyntax(
        Text(description="The messages of a NATS JetStream stream: nats://HOST[:PORT]; see [Brokers](#brokers)"),
        ("stream", "durable", "subjects", "ack_wait", "max_ack_pending", "deliveries", "on_failure"),
        partial(_without_flow, JetStreamSource),
        JetStreamSource,
        needs=("stream", "durable"),
        endless=True,
    ),
    "kafka": SourceSyntax(
        Text(description="The records of a Kafka topic: kafka://HOST[:PORT]; see [Brokers](#brokers)"),
        (
            "topic",
            "group",
            "from",
            "deliveries",
            "on_failure",
            "instance_id",
            "session_timeout",
            "rebalance_timeout",
            "max_partition_fetch_bytes",
        ),
        partial(_without_flow, KafkaSource),
        KafkaSource,
        needs=("topic", "group"),
        endless=True,
    ),
    "s3": SourceSyntax(
        Text(description="The lines of the objects of a bucket, each object once: s3://BUCKET/PREFIX"),
        ("checkpoint", *_LINES),
        partial(_without_flow, S3Source),
        S3Source,
    ),
    "postgres": SourceSyntax(
        Text(description="The rows of a table or a query, as JSON objects: postgresql://USER@HOST[:PORT]/DATABASE"),
        ("query", "key", "batch", "start"),
        partial(_without_flow, PostgresSource),
        PostgresSource,
        needs=("query", "key"),
    ),
    "call": SourceSyntax(Reference(description="A function that returns a source, such as one of your own"), (), _call),
}
"""The sources by their keys."""

SOURCE = OneKey(
    {kind: syntax.form for kind, syntax in SYNTAX.items()},
    beside=SourceOptions,
    needs={kind: syntax.needs for kind, syntax in SYNTAX.items()},
)
"""The source of a worker."""


def endless_kind(source: Node) -> str | None:
    """Return the kind of a source in a document if its runs only end when they are stopped, else None."""
    return next((kind for kind, syntax in SYNTAX.items() if syntax.endless and source.get(kind) is not None), None)


def make_source(chosen: Chosen[SourceOptions], flow: Flow[Any]) -> Source[Any]:
    """Make the source of a worker of a flow. Raises `FlowDefinitionError` or `ValueError`."""
    syntax = SYNTAX[chosen.kind]
    options: dict[str, Any] = {}
    for key, (attribute, _) in keys_of(SourceOptions).items():
        if chosen.beside.has(key):
            if key not in syntax.keys:
                kinds = [kind for kind, one in SYNTAX.items() if key in one.keys]
                raise FlowDefinitionError(f"{key}: only for sources with {any_of(kinds)}, not {chosen.kind}")
            options[attribute] = getattr(chosen.beside, attribute)
    return syntax.make(flow, chosen.value, **options)


def dump_source(source: Source[Any], samples: Any) -> Plain:
    """Return a source of a worker, in a flow with these samples, as plain data."""
    kind = next((kind for kind, syntax in SYNTAX.items() if syntax.record is type(source)), None)
    if kind is None or (isinstance(source, Generated) and source.make != samples):
        raise FlowDefinitionError(f"source {source.name} cannot be written to a flow file")
    syntax = SYNTAX[kind]
    if syntax.dump is not None:
        return syntax.dump(source)
    return {kind: getattr(source, syntax.target), **dump_options(source, SourceOptions, syntax.keys)}
