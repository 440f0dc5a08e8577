"""The durable pull consumer of a JetStream stream: find it or create it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import nats.errors
from nats.js import api
from nats.js.errors import APIError, NotFoundError, ServiceUnavailableError

from penstock.errors import BrokerError, describe
from penstock.support.logger import get_logger

log = get_logger()

NO_CONSUMER = 10014
"""The error code of the server: the stream exists, the consumer does not."""


async def ensure_consumer(
    jetstream: Any,
    subject: str,
    *,
    stream: str,
    durable: str,
    subjects: Sequence[str],
    ack_wait: float,
    max_ack_pending: int,
) -> api.ConsumerConfig:
    """Return the configuration of a consumer, which is created if it does not exist. It is not changed if it does.

    `subject` is what needs it, for errors. Raises `BrokerError`.
    """
    try:
        try:
            info = await jetstream.consumer_info(stream, durable)
        except NotFoundError as error:
            if error.err_code != NO_CONSUMER:
                raise
            info = await jetstream.add_consumer(
                stream,
                api.ConsumerConfig(
                    durable_name=durable,
                    description="Created by Penstock",
                    deliver_policy=api.DeliverPolicy.ALL,
                    ack_policy=api.AckPolicy.EXPLICIT,
                    ack_wait=ack_wait,
                    max_deliver=-1,  # else the server drops messages that no dead letter has
                    max_ack_pending=max_ack_pending,
                    filter_subject=subjects[0] if len(subjects) == 1 else None,
                    filter_subjects=list(subjects) if len(subjects) > 1 else None,
                ),
            )
            log.info("source.consumer_created", stream=stream, durable=durable)
    except NotFoundError:
        raise BrokerError(subject, f"the stream {stream} does not exist; create it first") from None
    except ServiceUnavailableError:
        raise BrokerError(subject, "JetStream is not enabled on the server, or not ready") from None
    except APIError as error:
        raise BrokerError(subject, f"the server rejects the consumer {durable}: {error.description}") from None

    await _warn_of_unmatched(jetstream, stream, subjects)
    config: api.ConsumerConfig = info.config
    _check(config, subject, durable, subjects)
    differing = {
        name: found
        for name, expected, found in (
            ("ack_wait", ack_wait, config.ack_wait),
            ("max_ack_pending", max_ack_pending, config.max_ack_pending),
        )
        if expected != found
    }
    if differing:
        log.warning("source.consumer_differs", stream=stream, durable=durable, **differing)
    return config


async def _warn_of_unmatched(jetstream: Any, stream: str, subjects: Sequence[str]) -> None:
    """Log the subjects that no message of a stream can have. A stream that copies others has their subjects."""
    if not subjects:
        return
    try:
        found = (await jetstream.stream_info(stream)).config
    except (APIError, nats.errors.Error, TimeoutError) as error:  # it is only a hint
        log.info("source.subjects_not_checked", stream=stream, error=describe(error))
        return
    if found.mirror is None and not found.sources and found.subjects:
        unmatched = [each for each in subjects if not any(overlap(each, other) for other in found.subjects)]
        if unmatched:
            log.warning(
                "source.subjects_match_nothing",
                stream=stream,
                subjects=unmatched,
                stream_subjects=sorted(found.subjects),
                advice="no message of the stream can have these subjects; check their spelling",
            )


def overlap(one: str, other: str) -> bool:
    """Return whether a subject can match both patterns, in which `*` is a token and `>` one or more at the end.

    >>> overlap("orders.*.new", "orders.>"), overlap("order.*", "orders.>")
    (True, False)
    """
    left, right = one.split("."), other.split(".")
    for ours, theirs in zip(left, right, strict=False):
        if ">" in (ours, theirs):
            return True
        if ours != theirs and "*" not in (ours, theirs):
            return False
    return len(left) == len(right)


def shortest_ack_wait(config: api.ConsumerConfig) -> float:
    """Return the seconds after which the server delivers a message again that has no answer."""
    waits: list[float] = [config.ack_wait or 30.0, *(config.backoff or ())]
    return min(waits)


def _check(config: api.ConsumerConfig, subject: str, durable: str, subjects: Sequence[str]) -> None:
    """Raise `BrokerError` for a consumer whose messages would be lost, or that has others than expected."""
    found = set(config.filter_subjects or ([config.filter_subject] if config.filter_subject else []))
    problems = (
        (config.deliver_subject is not None, "is a push consumer, expected a pull consumer"),
        (config.ack_policy != api.AckPolicy.EXPLICIT, "does not have the ack policy explicit"),
        ((config.max_deliver or -1) > 0, f"has max_deliver {config.max_deliver}, expected -1 (unlimited)"),
        (bool(config.headers_only), "has headers_only, which removes the messages"),
        (found - {">"} != set(subjects) - {">"}, f"has the subjects {sorted(found)}, expected {sorted(subjects)}"),
    )
    for applies, problem in problems:
        if applies:
            advice = "change it, delete it, or use another name for durable"
            raise BrokerError(subject, f"the consumer {durable} {problem}; {advice}")
