"""Brokers in flow files: sources and sinks, what `penstock check` says of them, and how they are tested and drawn."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

sys.path.insert(0, str(Path(__file__).parent))

import named

from invoking import invoke
from penstock import Expression, Flow, FlowFileError
from penstock.backends import extras
from penstock.flowfile import dump, loads
from penstock.flowfile.sources import SOURCE, SYNTAX
from penstock.formats.format import Format
from penstock.sinks import JetStreamSink, KafkaSink, S3Sink, Sink, TableSink
from penstock.sources import JetStreamSource, KafkaSource, PostgresSource, S3Source, Source

NATS = "nats: 'nats://h', stream: S, durable: d"
KAFKA = "kafka: 'kafka://h', topic: t, group: g"


def source_of(text: str) -> Source[Any]:
    """Return the source of a worker in a file."""
    (worker,) = loads(f"flow: f\nworkers: {{w: {{source: {{{text}}}}}}}\n", "f.yaml").flow.workers
    return worker.source


def errors_of(text: str) -> list[str]:
    """Return the errors of a file."""
    with pytest.raises(FlowFileError) as caught:
        loads(text, "f.yaml")
    return [str(error).split(" ", 1)[1] for error in caught.value.diagnostics]


SOURCES = [
    (NATS, JetStreamSource("nats://h", "S", "d")),
    (
        "nats: '${NATS}', stream: S, durable: d, subjects: a.*, ack_wait: 90s, max_ack_pending: 7, deliveries: 2, "
        "on_failure: redeliver",
        JetStreamSource(
            "${NATS}",
            "S",
            "d",
            subjects=("a.*",),
            ack_wait=90.0,
            max_ack_pending=7,
            deliveries=2,
            on_failure="redeliver",
        ),
    ),
    (f"{NATS}, subjects: [a, b]", JetStreamSource("nats://h", "S", "d", subjects=("a", "b"))),
    (KAFKA, KafkaSource("kafka://h", "t", "g")),
    (
        "kafka: 'kafka://h:1,i:2?tls=yes', topic: '${T}', group: g, from: earliest, deliveries: 9, "
        "instance_id: '${POD}', session_timeout: 20s, rebalance_timeout: 2m, max_partition_fetch_bytes: 2MiB, "
        "on_failure: dead_letter",
        KafkaSource(
            "kafka://h:1,i:2?tls=yes",
            "${T}",
            "g",
            from_="earliest",
            deliveries=9,
            instance_id="${POD}",
            session_timeout=20.0,
            rebalance_timeout=120.0,
            max_partition_fetch_bytes=2 << 20,
        ),
    ),
    ("s3: 's3://bucket/in'", S3Source("s3://bucket/in")),
    (
        "s3: 's3://bucket/${T}', format: csv, limit: 2KiB, delimiter: ';', checkpoint: nightly",
        S3Source("s3://bucket/${T}", format=Format.CSV, limit=2048, delimiter=";", checkpoint="nightly"),
    ),
    ("postgres: 'postgresql://h/d', query: orders, key: id", PostgresSource("postgresql://h/d", "orders", "id")),
    (
        "postgres: '${DB}', query: 'select * from a', key: id, batch: 9, start: '41'",
        PostgresSource("${DB}", "select * from a", "id", batch=9, start="41"),
    ),
]


@pytest.mark.parametrize(("text", "source"), SOURCES)
def test_a_source_is_read_and_dumped(text: str, source: Source[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """A file, Python and a dump have the same source; variables stay variables."""
    for name in ("NATS", "T", "POD"):
        monkeypatch.setenv(name, "nats://elsewhere" if name == "NATS" else name)
    monkeypatch.setenv("DB", "postgresql://elsewhere/d")
    assert source_of(text) == source
    flow = Flow("f").worker("w", source)
    for format in ("yaml", "json"):
        dumped = dump(flow, format)
        assert "elsewhere" not in dumped
        assert loads(dumped, f"f.{format}").flow == flow


@pytest.mark.parametrize(
    ("worker", "error"),
    [
        ("{source: {nats: 'nats://h', stream: S}}", 'missing "durable": nats needs a string'),
        ("{source: {nats: 'nats://h'}}", 'missing "stream": nats needs a string'),
        ("{source: {kafka: 'kafka://h', topic: t}}", 'missing "group": kafka needs a string'),
        (f"{{source: {{{KAFKA}, stream: S}}}}", "stream: only for sources with nats, not kafka"),
        (f"{{source: {{{NATS}, format: csv}}}}", "format: only for sources with file, directory or s3, not nats"),
        (
            f"{{source: {{{NATS}}}, every: 1s}}",
            "every: a run with the source nats only ends when it is stopped; remove it",
        ),
        (
            f"{{source: {{{KAFKA}}}, cron: '* * * * *'}}",
            "cron: a run with the source kafka only ends when it is stopped; remove it",
        ),
        (
            f"{{source: {{{KAFKA}, on_failure: redeliver}}}}",
            "on_failure: Kafka cannot deliver one record again; use dead_letter, and redrive the dead letters",
        ),
        ("{source: {nats: 'nats://u:s3cret@h/S', stream: S, durable: d}}", "source nats S/d"),
        ("{source: {postgres: 'postgresql://h/d', query: t}}", 'missing "key": postgres needs a string'),
        ("{source: {s3: 'http://h'}}", "expected s3://BUCKET/PREFIX"),
        ("{source: {nats: 'http://h', stream: S, durable: d}}", "expected nats://HOST[:PORT]"),
        ("{source: {nats: 'nats://h', stream: S, durable: a.b}}", "durable: invalid name 'a.b'"),
        (f"{{source: {{{NATS}, deliveries: 0}}}}", "deliveries: expected an integer >= 1"),
        (f"{{source: {{{KAFKA}, from: oldest}}}}", 'from: unknown value "oldest"'),
    ],
)
def test_errors_of_a_source_say_what_to_do(worker: str, error: str) -> None:
    """At the place of the error, without a password."""
    found = errors_of(f"flow: f\nworkers: {{w: {worker}}}\n")
    assert any(error in text for text in found), found
    assert "s3cret" not in str(found)


@pytest.mark.parametrize(
    "given", [{"nats": "u"}, {"kafka": "u"}, {"kafka": "u", "topic": "t"}, {"postgres": "u", "query": "q"}]
)
def test_the_schema_for_editors_has_the_needed_keys(given: dict[str, str]) -> None:
    """As `check` has, and no others: with them the source is valid."""
    validator = Draft202012Validator(SOURCE.schema())
    assert {error.validator for error in validator.iter_errors(given)} == {"dependentRequired"}
    needed = dict.fromkeys(SYNTAX[next(iter(given))].needs, "x")
    assert validator.is_valid(given | needed)


@pytest.mark.parametrize(("extra", "text"), [("nats", NATS), ("kafka", KAFKA)])
def test_a_missing_extra_is_reported_by_check(
    extra: str, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the command that installs it."""
    monkeypatch.setitem(extras.EXTRAS, extra, "no_such_module")  # type: ignore[index]  # of a mapping that never changes
    (tmp_path / "f.yaml").write_text(f"flow: f\nworkers: {{w: {{source: {{{text}}}}}}}\n")
    result = invoke("check", tmp_path / "f.yaml")
    assert result.exit_code == 1
    assert f'install them: pip install "penstock[{extra}]"' in result.stdout


FLOW = """\
flow: f
window: {window}
services:
  price: {{get: 'http://h', timeout: 20s, attempts: 3, backoff: {{first: 1s}}}}
  stock: {{get: 'http://h', timeout: 2s}}
steps:
- enrich: [price, stock]
- route:
    large: {{when: value.n > 9, steps: [{{map_async: stock, name: one}}, {{map_async: stock, name: two}}]}}
    small: {{when: value.n > 5, steps: [{{map_async: stock, name: three}}]}}
workers: {{w: {{source: {{{source}}}}}{others}}}
{more}
"""


def notes(
    folder: Path, source: str, *, more: str = "dead_letters: memory", window: int = 256, others: str = ""
) -> list[str]:
    """Return the notes of `penstock check` on the worker `w` of a flow; `others` are more workers."""
    (folder / "f.yaml").write_text(FLOW.format(source=source, more=more, window=window, others=others))
    result = invoke("check", folder / "f.yaml")
    assert result.exit_code == 0, result.stdout
    return [line.strip() for line in result.stdout.splitlines() if line.startswith("  worker w: ")]


LONGEST = "worker w: an item can take 1m7s (price 3 x 20s + waits of 3s + stock 2s + stock 2s), longer than"


def test_check_compares_ack_wait_with_the_services(tmp_path: Path) -> None:
    """The longest time adds one service of each step and one branch of each route."""
    (long, _) = notes(tmp_path, NATS)
    assert long.startswith(f"{LONGEST} ack_wait, 30s: its lease is extended as long as the process works")
    assert len(notes(tmp_path, f"{NATS}, ack_wait: 67s")) == 1
    (short, _) = notes(tmp_path, f"{NATS}, ack_wait: 66s")
    assert "longer than ack_wait, 1m6s" in short
    (deadline, _) = notes(tmp_path, NATS, more="dead_letters: memory\ndeadline: 40s")
    assert "an item can take 40s (its deadline), longer than ack_wait" in deadline
    assert len(notes(tmp_path, NATS, more="dead_letters: memory\ndeadline: 30s")) == 1


def test_check_compares_the_rebalance_timeout_with_the_services(tmp_path: Path) -> None:
    """Four fifths of it are for the elements in flight."""
    (long, outage) = notes(tmp_path, KAFKA)
    assert long.startswith(f"{LONGEST} 48s, four fifths of rebalance_timeout")
    assert long.endswith("rebalance_timeout: 1m24s prevents that")
    assert outage == (
        "worker w: while price is down, an item waits for up to 5m, longer than 48s, four fifths of rebalance_timeout: "
        "it is processed twice if its partition is assigned to another member meanwhile"
    )
    assert notes(tmp_path, f"{KAFKA}, rebalance_timeout: 84s") == [outage.replace("48s", "1m7.2s")]
    assert notes(tmp_path, f"{KAFKA}, rebalance_timeout: 10m") == []


def test_check_compares_the_window_with_max_ack_pending(tmp_path: Path) -> None:
    """How many workers other processes have is not known, so it says for how many it is enough."""
    source = f"{NATS}, ack_wait: 5m, max_ack_pending: 1000"
    (enough,) = notes(tmp_path, source, window=400)
    assert enough == (
        "worker w: max_ack_pending, 1000, is enough for 2 workers of d with a window of 400, in all processes together"
    )
    (low,) = notes(tmp_path, source, window=1001)
    assert low.startswith("worker w: its window of 1001 is never full, because max_ack_pending is 1000; set max_ack")
    (both,) = notes(tmp_path, source, window=600, others=f", v: {{source: {{{source}}}}}")
    assert both.startswith("worker w: 2 windows of 600 are never full, because max_ack_pending is 1000")


def test_check_names_sinks_that_publish_redelivered_messages_again(tmp_path: Path) -> None:
    """Those of JetStream without an id."""
    source = f"{NATS}, ack_wait: 5m"
    text = FLOW.format(source=source, more="dead_letters: memory", window=256, others="")
    for id, count in (("", 1), (", id: value.id", 0)):
        step = f"- {{to: {{nats: 'nats://h', subject: o{id}}}, name: topic}}\n"
        (tmp_path / "f.yaml").write_text(text.replace("workers:", f"{step}workers:"))
        output = invoke("check", tmp_path / "f.yaml").stdout
        assert output.count("a message that is delivered again is published again by topic; with an id") == count


def test_check_says_what_failures_become(tmp_path: Path) -> None:
    """If that is not a dead letter at once."""
    quiet = f"{NATS}, ack_wait: 5m"
    redelivered = f"{quiet}, on_failure: redeliver, deliveries: 3"
    assert len(notes(tmp_path, quiet)) == 1
    assert notes(tmp_path, redelivered)[1] == (
        "worker w: with on_failure: redeliver, a failed item is delivered 3 times in all, with all its calls, and only "
        "then becomes a dead letter"
    )
    assert "is then lost, except with penstock serve and work" in notes(tmp_path, redelivered, more="")[1]
    assert notes(tmp_path, quiet, more="")[1].startswith(
        "worker w: without dead_letters a failed item is delivered 5 times in all and then lost"
    )
    (lost,) = notes(tmp_path, f"{KAFKA}, rebalance_timeout: 10m", more="")
    assert lost.startswith("worker w: without dead_letters a failed item is committed and lost")


def test_a_graph_shows_sources_without_passwords(tmp_path: Path) -> None:
    """A user without a password may be a token."""
    (tmp_path / "f.yaml").write_text(
        "flow: f\nworkers:\n"
        "  a: {source: {nats: 'nats://t0ken@h:4222', stream: S, durable: d}}\n"
        "  b: {source: {kafka: 'kafka://u:s3cret@h:9092', topic: t, group: g}}\n"
    )
    drawn = invoke("graph", tmp_path / "f.yaml").stdout
    assert "jetstream<br/>nats://h:4222<br/>stream S<br/>durable d<br/>endless" in drawn
    assert "kafka<br/>kafka://h:9092<br/>topic t<br/>group g<br/>endless" in drawn
    assert "t0ken" not in drawn
    assert "s3cret" not in drawn


# Sinks

SINKS: list[tuple[str, Sink]] = [
    ("nats: 'nats://h', subject: 'o.{a.b}'", JetStreamSink("nats://h", "o.{a.b}")),
    (
        "nats: '${NATS}', subject: '${T}.{id}', id: value.id",
        JetStreamSink("${NATS}", "${T}.{id}", id=Expression("value.id")),
    ),
    ("nats: 'nats://h', subject: o, id: 'named:key_of'", JetStreamSink("nats://h", "o", id=named.key_of)),
    ("kafka: 'kafka://h', topic: t", KafkaSink("kafka://h", "t")),
    (
        "kafka: '${NATS}', topic: '${T}', key: value.id, headers: {kind: \"'order'\", Of: 'named:key_of'}",
        KafkaSink("${NATS}", "${T}", Expression("value.id"), {"kind": Expression("'order'"), "Of": named.key_of}),
    ),
    ("s3: 's3://bucket/a'", S3Sink("s3://bucket/a")),
    (
        "s3: 's3://bucket/${T}?region=x', template: 'a-{id}', compression: zstd, max_values: 9, max_bytes: 1MiB, "
        "max_wait: 1m",
        S3Sink(
            "s3://bucket/${T}?region=x",
            template="a-{id}",
            compression="zstd",
            max_values=9,
            max_bytes=1 << 20,
            max_wait=60.0,
        ),
    ),
    ("table: orders, url: 'postgresql://h/d'", TableSink("postgresql://h/d", "orders")),
    (
        "table: shop.orders, url: '${NATS}', columns: [id, n], on_conflict: update, key: [id]",
        TableSink("${NATS}", "shop.orders", columns=("id", "n"), on_conflict="update", key=("id",)),
    ),
]


@pytest.mark.parametrize(("text", "sink"), SINKS)
def test_a_sink_is_read_and_dumped(text: str, sink: Sink, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file, Python and a dump have the same sink; variables stay variables."""
    monkeypatch.setenv("NATS", "nats://elsewhere")
    monkeypatch.setenv("T", "topic")
    flow = Flow("f").to(sink)
    assert loads(f"flow: f\nsteps: [{{to: {{{text}}}}}]\n", "f.yaml").flow == flow
    for format in ("yaml", "json"):
        dumped = dump(flow, format)
        assert "elsewhere" not in dumped
        assert loads(dumped, f"f.{format}").flow == flow


def test_the_text_of_an_expression_and_the_expression_make_equal_sinks() -> None:
    """In Python ids, keys and headers may be texts."""
    expression = Expression("value.id")
    assert JetStreamSink("nats://h", "o", id="value.id") == JetStreamSink("nats://h", "o", id=expression)
    texts = KafkaSink("kafka://h", "t", "value.id", {"a": "value.id"})
    assert texts == KafkaSink("kafka://h", "t", expression, {"a": expression})


@pytest.mark.parametrize(
    ("sink", "error"),
    [
        ("nats: 'nats://h'", 'missing "subject": nats needs a string'),
        ("table: orders", 'missing "url": table needs a string'),
        ("kafka: 'kafka://h'", 'missing "topic": kafka needs a string'),
        ("kafka: 'kafka://h', topic: t, key: [id]", "key: expected an expression such as value.orderId, got a list"),
        ("table: t, url: 'postgresql://h/d', key: value.id", "key: expected a list of columns such as [id]"),
        ("kafka: 'nats://h', topic: t", "expected kafka://HOST[:PORT]"),
        ("s3: 's3://bucket/a', template: x", "template: expected text with {id}"),
        ("nats: 'nats://h', subject: o, format: csv", "format: only for sinks with file, not nats"),
        ("file: a.ndjson, subject: o", "subject: only for sinks with nats, not file"),
        ("nats: 'nats://h', subject: 'a. b'", "subject 'a. b': expected tokens with dots between them"),
        ("nats: 'nats://h', subject: '{a b}'", "{a b} is not the name of a field"),
        ("nats: 'nats://u:s3cret@h/S', subject: o", "sink nats o"),
        ("nats: 'nats://h', subject: o, id: vlaue.id", "invalid expression"),
        ("table: orders, url: 'mysql://h'", "expected postgresql://USER@HOST[:PORT]/DATABASE"),
        (
            "table: orders, url: 'postgresql://h/d', on_conflict: update",
            "key: expected the columns of a unique index, because on_conflict is update",
        ),
    ],
)
def test_errors_of_a_sink_say_what_to_do(sink: str, error: str) -> None:
    """At the place of the error, without a password."""
    found = errors_of(f"flow: f\nsteps: [{{to: {{{sink}}}}}]\n")
    assert any(error in text for text in found), found
    assert "s3cret" not in str(found)


def test_the_tests_of_a_flow_connect_to_no_broker(tmp_path: Path) -> None:
    """What is published is recorded, and rules decide what is rejected."""
    (tmp_path / "f.yaml").write_text(
        "flow: f\nkey: id\nsteps:\n"
        "- {to: {nats: 'nats://192.0.2.1', subject: 'o.{id}'}, name: topic}\n"
        f"workers: {{w: {{source: {{{NATS}}}}}}}\n"
        "tests:\n"
        "- name: publishes\n"
        "  given: [{id: 1}, 'no JSON', {id: 2}]\n"
        "  when: {topic: {id: 2, raises: full}}\n"
        "  expect: {ok: [{id: 1}], failed: 2, delivered: {topic: [{id: 1}]}}\n"
    )
    result = invoke("test", tmp_path / "f.yaml")
    assert result.exit_code == 0, result.stdout


def test_a_graph_shows_sinks_without_passwords(tmp_path: Path) -> None:
    """With what they write to."""
    (tmp_path / "f.yaml").write_text(
        "flow: f\nsteps:\n"
        "- to: {nats: 'nats://t0ken@h:4222', subject: 'o.x'}\n"
        "- to: {table: orders, url: 'postgresql://u:s3cret@h/d'}\n"
    )
    drawn = invoke("graph", tmp_path / "f.yaml").stdout
    assert "jetstream sink<br/>nats://h:4222<br/>subject o.x" in drawn
    assert "table orders" in drawn
    assert "t0ken" not in drawn
    assert "s3cret" not in drawn
