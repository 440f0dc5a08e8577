"""Sinks of flow files: their forms, how they are made, and how they are dumped.

To add a kind of sink: an entry in `SYNTAX`, and its keys in `SinkOptions`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, cast

from penstock.errors import FlowDefinitionError
from penstock.flowfile.document import any_of
from penstock.flowfile.field_types import FORMAT, Duration, Function, Size
from penstock.flowfile.forms.choices import Chosen, Either, OneKey
from penstock.flowfile.forms.containers import ListOf, MapOf
from penstock.flowfile.forms.form import Form
from penstock.flowfile.forms.record import Located, keys_of, optional
from penstock.flowfile.forms.scalars import Integer, Text, word
from penstock.flowfile.plain import Plain, dump_options
from penstock.sinks import DiscardSink, FileSink, JetStreamSink, KafkaSink, S3Sink, Sink, StdoutSink, TableSink


@dataclass(frozen=True, slots=True, kw_only=True)
class SinkOptions(Located):
    format: str | None = optional(FORMAT, "The format, if the file name does not tell it")
    fields: tuple[str, ...] | None = optional(ListOf(Text(), min=1), "The columns of a CSV file")
    subject: str | None = optional(Text(), "nats: the subject; {field} is replaced by a field of the value")
    id: Any = optional(
        Function(), "nats: the id of the message; of messages with the same id the stream stores only the first"
    )
    topic: str | None = optional(Text(), "kafka: the topic")
    headers: dict[str, Any] | None = optional(
        MapOf(Function()), "kafka: the headers of the record, each an expression, or a function"
    )
    url: str | None = optional(Text(), "table: the database, postgresql://USER@HOST[:PORT]/DATABASE")
    columns: tuple[str, ...] | None = optional(
        ListOf(Text(), min=1), "table: the fields that are written (all; then a field without a column is an error)"
    )
    on_conflict: str | None = optional(
        word(
            {
                "error": "The value fails",
                "skip": "The row stays as it is",
                "update": "The columns that the value has are replaced",
            }
        ),
        "table: what happens to a value whose key exists (error)",
    )
    key: Any = optional(
        Either(Function(), ListOf(Text(), min=1)),
        "kafka: the key of the record, an expression or a function; table: the columns of a unique index, as a list, "
        "for on_conflict",
    )
    template: str | None = optional(
        Text(), "s3: the name of an object below the prefix, of {id}, {date} and {hour}: {date}/{id}.ndjson"
    )
    compression: str | None = optional(
        word({"gzip": "Objects are named .gz", "zstd": "Objects are named .zst"}), "s3: how objects are compressed"
    )
    max_values: int | None = optional(Integer(min=1), "s3: how many values one object may have (10000)")
    max_bytes: int | None = optional(Size(), "s3: how many bytes one object may have, before compression (64MiB)")
    max_wait: float | None = optional(Duration(min=0), "s3: how long values are collected for one object (5s)")


@dataclass(frozen=True, slots=True)
class SinkSyntax:
    """How a kind of sink is written, made and dumped."""

    form: Form[Any]
    """The form of the value of its key."""
    keys: tuple[str, ...]
    """The other keys that it has."""
    make: Callable[..., Sink]
    """Makes the sink from that value and the given options."""
    record: type[Any]
    """The class of the sink."""
    target: str = "url"
    """Its attribute with the value of the key."""
    needs: tuple[str, ...] = ()
    """The other keys that must be given."""


def _kafka(url: str, *, key: Any = None, **options: Any) -> Sink:
    if isinstance(key, tuple):
        raise FlowDefinitionError("key: expected an expression such as value.orderId, got a list")
    return KafkaSink(url, key=key, **options)


def _table(table: str, *, url: str, key: Any = (), **options: Any) -> Sink:
    if not isinstance(key, tuple):
        raise FlowDefinitionError("key: expected a list of columns such as [id], got an expression")
    return TableSink(url, table, key=cast("tuple[str, ...]", key), **options)


SYNTAX: Mapping[str, SinkSyntax] = {
    "file": SinkSyntax(
        Text(description="The file to append to: .ndjson or .csv, each also with .gz"),
        ("format", "fields"),
        FileSink,
        FileSink,
        "path",
    ),
    "nats": SinkSyntax(
        Text(description="NATS JetStream: nats://HOST[:PORT]; each value is a message, as JSON"),
        ("subject", "id"),
        JetStreamSink,
        JetStreamSink,
        needs=("subject",),
    ),
    "kafka": SinkSyntax(
        Text(description="A topic of Kafka: kafka://HOST[:PORT]; each value is a record, as JSON"),
        ("topic", "key", "headers"),
        _kafka,
        KafkaSink,
        needs=("topic",),
    ),
    "s3": SinkSyntax(
        Text(description="Objects of a bucket, as NDJSON: s3://BUCKET/PREFIX"),
        ("template", "compression", "max_values", "max_bytes", "max_wait"),
        S3Sink,
        S3Sink,
    ),
    "table": SinkSyntax(
        Text(description="A table of PostgreSQL; fields of the value go to columns with the same names"),
        ("url", "columns", "on_conflict", "key"),
        _table,
        TableSink,
        "table",
        needs=("url",),
    ),
}
"""The sinks with options, by their keys."""


def _make_sink(chosen: Chosen[SinkOptions]) -> Sink:
    options: dict[str, Any] = {}
    for key, (attribute, _) in keys_of(SinkOptions).items():
        if chosen.beside.has(key):
            if key not in SYNTAX[chosen.kind].keys:
                kinds = [kind for kind, syntax in SYNTAX.items() if key in syntax.keys]
                raise FlowDefinitionError(f"{key}: only for sinks with {any_of(kinds)}, not {chosen.kind}")
            options[attribute] = getattr(chosen.beside, attribute)
    return SYNTAX[chosen.kind].make(chosen.value, **options)


SINK: Either[Callable[[], Sink]] = Either(
    word({"stdout": "Standard output, one line per value", "discard": "Accept the values and drop them"}).then(
        lambda name: StdoutSink if name == "stdout" else DiscardSink
    ),
    OneKey(
        {kind: syntax.form for kind, syntax in SYNTAX.items()},
        SinkOptions,
        needs={kind: syntax.needs for kind, syntax in SYNTAX.items()},
    ).then(lambda chosen: lambda: _make_sink(chosen)),
)
"""A sink, read as a function that makes it: errors in its options belong to the step that writes to it."""


def dump_sink(sink: Sink) -> Plain:
    """Return a sink as plain data."""
    if sink.name:
        raise FlowDefinitionError(
            f"sink {sink.name!r} has its own name, which a flow file cannot contain; name the step"
        )
    if isinstance(sink, StdoutSink) and sink == StdoutSink():
        return "stdout"
    if isinstance(sink, DiscardSink):
        return "discard"
    for kind, syntax in SYNTAX.items():
        if type(sink) is syntax.record:
            return {kind: getattr(sink, syntax.target), **dump_options(sink, SinkOptions, syntax.keys)}
    kinds = ", ".join(SYNTAX)
    raise FlowDefinitionError(f"sink {sink!r} cannot be written to a flow file; use stdout, discard or one of {kinds}")
