"""What a user should know about workers that consume from a broker: times, windows, and what failures become."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from penstock.flow.flow import Flow
from penstock.flow.serving import Worker
from penstock.flowfile.document import any_of
from penstock.flowfile.quantities import show_duration
from penstock.services import Service
from penstock.sinks import JetStreamSink
from penstock.sources import JetStreamSource, KafkaSource
from penstock.steps import Step, To, walk

MAX_ADDED = 64
"""Waits that are added one by one."""


def broker_notes(flow: Flow[Any], processes: int = 1) -> Iterator[str]:
    """Yield notes on the workers of a flow that consume from brokers, in each of some processes."""
    seconds, why = _longest(flow)
    for worker in flow.workers:
        title = f"worker {worker.name}"
        match worker.source:
            case JetStreamSource() as source:
                if seconds > source.ack_wait:
                    yield (
                        f"{title}: an item can take {_duration(seconds)} ({why}), longer than ack_wait, "
                        f"{_duration(source.ack_wait)}: its lease is extended as long as the process works, but the "
                        f"message is delivered twice if the process hangs for {_duration(source.ack_wait)}"
                    )
                yield from _window_notes(flow, worker, source, processes)
                yield from _failure_notes(flow, title, source)
            case KafkaSource() as source:
                if seconds > (limit := source.rebalance_timeout * 4 / 5):
                    yield (
                        f"{title}: an item can take {_duration(seconds)} ({why}), longer than {_duration(limit)}, "
                        "four fifths of rebalance_timeout: it is processed twice if its partition is assigned to "
                        f"another member meanwhile; rebalance_timeout: {_duration(-(-seconds * 5 // 4))} prevents that"
                    )
                waits, server = _longest_outage_wait(flow)
                if waits > limit:
                    yield (
                        f"{title}: while {server} is down, an item waits for up to {_duration(waits)}, longer than "
                        f"{_duration(limit)}, four fifths of rebalance_timeout: it is processed twice if its partition "
                        "is assigned to another member meanwhile"
                    )
                if flow.store is None:
                    yield (
                        f"{title}: without dead_letters a failed item is committed and lost, except with penstock "
                        "serve and work, which store it in their --dead-letters"
                    )
            case _:
                continue
        yield from _sink_notes(flow, title)


def _sink_notes(flow: Flow[Any], title: str) -> Iterator[str]:
    """Name the sinks that write a message again when it is delivered again."""
    again = [name for name, sink in flow.all_sinks.items() if isinstance(sink, JetStreamSink) and sink.id is None]
    if again:
        yield (
            f"{title}: a message that is delivered again is published again by {any_of(again)}; with an id, such as "
            "id: value.orderId, the stream stores it once"
        )


def _window_notes(flow: Flow[Any], worker: Worker, source: JetStreamSource, processes: int) -> Iterator[str]:
    """Compare the windows of all workers of a consumer with the messages that they may hold."""
    title, limit = f"worker {worker.name}", source.max_ack_pending
    workers = limit // flow.elements
    sharing = processes * sum(1 for other in flow.workers if _consumer_of(other) == _consumer_of(worker))
    if workers < sharing:
        windows = f"its window of {flow.elements} is" if sharing == 1 else f"{sharing} windows of {flow.elements} are"
        yield (
            f"{title}: {windows} never full, because max_ack_pending is {limit}; set max_ack_pending to at least "
            f"{flow.elements} for each worker of {source.durable}, in all processes"
        )
    else:
        noun = "worker" if workers == 1 else "workers"
        yield (
            f"{title}: max_ack_pending, {limit}, is enough for {workers} {noun} of {source.durable} with a window of "
            f"{flow.elements}, in all processes together"
        )


def _consumer_of(worker: Worker) -> tuple[str, str, str] | None:
    """Return the consumer that a worker shares with others that name the same."""
    source = worker.source
    return (source.url, source.stream, source.durable) if isinstance(source, JetStreamSource) else None


def _failure_notes(flow: Flow[Any], title: str, source: JetStreamSource) -> Iterator[str]:
    """Say what failed items become, if that is not a dead letter at once."""
    if source.on_failure == "redeliver":
        last = (
            "is then lost, except with penstock serve and work, which store it in their --dead-letters"
            if flow.store is None
            else "only then becomes a dead letter"
        )
        yield (
            f"{title}: with on_failure: redeliver, a failed item is delivered {source.deliveries} times in all, with "
            f"all its calls, and {last}"
        )
    elif flow.store is None:
        yield (
            f"{title}: without dead_letters a failed item is delivered {source.deliveries} times in all and then lost, "
            "except with penstock serve and work, which store it in their --dead-letters"
        )


def _longest(flow: Flow[Any]) -> tuple[float, str]:
    """Return the seconds that the calls of one item can take, without waiting for their turn, and how they add up."""
    calls = _longest_calls(flow.steps)
    seconds = sum(map(_seconds_of, calls))
    if flow.max_seconds is not None and flow.max_seconds < seconds:
        return flow.max_seconds, "its deadline"
    return seconds, " + ".join(map(_show_call, calls))


def _longest_outage_wait(flow: Flow[Any]) -> tuple[float, str]:
    """Return how long an item can wait for a service or a sink that is down, and the name of that."""
    services = [(each.breaker.max_open_wait, each.name) for each in flow.all_services if each.breaker is not None]
    sinks = [
        (step.max_outage_wait, name)
        for step in walk(flow.steps)
        if isinstance(step, To)
        for name, sink in step.sinks.items()
        if hasattr(sink, "repeatable")
    ]
    seconds, name = max((*services, *sinks), key=lambda each: each[0], default=(0.0, ""))
    return (seconds, name) if flow.max_seconds is None else (min(seconds, flow.max_seconds), name)


def _longest_calls(steps: Sequence[Step]) -> list[Service]:
    """Return the services that take the longest: of each step one, of several branches those of one."""
    calls: list[Service] = []
    for step in steps:
        if step.services:  # those of one step are called side by side
            calls.append(max(step.services.values(), key=_seconds_of))
        branches = [_longest_calls(branch.steps) for branch in step.branches]
        calls += max(branches, key=lambda calls: sum(map(_seconds_of, calls)), default=list[Service]())
    return calls


def _seconds_of(service: Service) -> float:
    """Return how long a call with all its attempts and waits can take."""
    return service.attempts * service.timeout + _backoff_of(service)


def _backoff_of(service: Service) -> float:
    """Return how long the waits between the attempts of a call can take; of many attempts at most so long."""
    backoff, waits = service.backoff, service.attempts - 1
    if not backoff.first:
        return 0.0
    added = min(waits, MAX_ADDED)
    grown = sum(min(backoff.cap, backoff.first * backoff.factor**number) for number in range(added))
    return grown + (waits - added) * backoff.cap


def _show_call(service: Service) -> str:
    tries = "" if service.attempts == 1 else f"{service.attempts} x "
    waits = f" + waits of {_duration(backoff)}" if (backoff := _backoff_of(service)) else ""
    return f"{service.name} {tries}{_duration(service.timeout)}{waits}"


def _duration(seconds: float) -> str:
    """Format a duration: 5m, 30s."""
    shown = show_duration(seconds)
    return shown if isinstance(shown, str) else f"{shown:g}s"
