"""Sinks of flow files: their forms, how they are made, and how they are dumped.

To add a kind of sink: an entry in `SYNTAX`, and its keys in `SinkOptions`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from penstock.errors import FlowDefinitionError
from penstock.flowfile.field_types import FORMAT, Function
from penstock.flowfile.forms.choices import Chosen, Either, OneKey
from penstock.flowfile.forms.containers import ListOf
from penstock.flowfile.forms.form import Form
from penstock.flowfile.forms.record import Located, keys_of, optional
from penstock.flowfile.forms.scalars import Text, word
from penstock.flowfile.plain import Plain, dump_options
from penstock.sinks import DiscardSink, FileSink, JetStreamSink, Sink, StdoutSink, TableSink


@dataclass(frozen=True, slots=True, kw_only=True)
class SinkOptions(Located):
    format: str | None = optional(FORMAT, "The format, if the file name does not tell it")
    fields: tuple[str, ...] | None = optional(ListOf(Text(), min=1), "The columns of a CSV file")
    subject: str | None = optional(Text(), "nats: the subject; {field} is replaced by a field of the value")
    id: Any = optional(
        Function(), "nats: the id of the message; of messages with the same id the stream stores only the first"
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
    key: Any = optional(ListOf(Text(), min=1), "table: the columns of a unique index, for on_conflict: [id]")


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


def _table(table: str, *, url: str, **options: Any) -> Sink:
    return TableSink(url, table, **options)


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
                kinds = " or ".join(kind for kind, syntax in SYNTAX.items() if key in syntax.keys)
                raise FlowDefinitionError(f"{key}: only for sinks with {kinds}, not {chosen.kind}")
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
