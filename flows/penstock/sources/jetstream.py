"""JetStreamSource: the messages of a NATS JetStream stream, acknowledged when their elements are settled."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from penstock.backends.extras import require_extra
from penstock.backends.nats_url import parse_nats_url
from penstock.errors import FlowDefinitionError
from penstock.sources.source import Emitter, Source
from penstock.support.environment import variable_names

_NAME = re.compile(r"[^\s.*>/\\]{1,255}")
"""The names of streams and consumers. https://docs.nats.io/nats-concepts/jetstream/streams"""

_SUBJECT = re.compile(r"[^\s.]+(\.[^\s.]+)*")


@dataclass(unsafe_hash=True)
class JetStreamSource(Source[bytes]):
    """The messages of a stream, each as the bytes of one element, until the run is drained.

    Credits are the pull: never more messages are requested than the run has room for. Settling is the acknowledgement:

    | element | answer to the server |
    |---|---|
    | ok, filtered, or failed with a durable dead letter | acknowledged |
    | failed without a dead letter | delivered again after 1 s, 2 s, 4 s … at most 1 min |
    | cancelled, or received while the run stops | delivered again at once |
    | delivered more than `deliveries` times | fails as `Poisoned` at the step `source`, then is terminated |

    Each worker of a process or of several processes that names the same `durable` receives a share of the messages.
    Messages of a killed worker are delivered to the others after `ack_wait` seconds. A message may be processed twice
    then, or when the server is killed; none is lost.

    `url` is `nats://[USER:PASSWORD@]HOST[:PORT][,HOST…][?tls=yes&credentials=FILE]` and may contain variables. The
    stream must exist. `subjects` are those of the stream to receive, all if empty. The consumer `durable` is created if
    it does not exist: from the first message of the stream on, with `ack_wait` (seconds, extended as long as an element
    is in flight) and `max_ack_pending` (maximum of messages that all workers together have open; at least the sum of
    their windows). An existing consumer is used as it is: other values of `ack_wait` and `max_ack_pending` are used and
    logged (`source.consumer_differs`), other settings that change which messages are received fail the run.

    `deliveries` counts each delivery, also one that was answered by a stop. With `on_failure="redeliver"` an element
    that failed is delivered again instead of becoming a dead letter, until `deliveries` are used up. The dead
    letter that it then becomes names its last failure, if that was in the same run.

    Raises `FlowDefinitionError` for invalid settings. Fails with `BrokerError` if it cannot begin.

    >>> source = JetStreamSource("nats://localhost", "ORDERS", "pricing")
    """

    name = "jetstream"
    competes = True

    url: str
    stream: str
    durable: str
    subjects: tuple[str, ...] = field(default=(), kw_only=True)
    ack_wait: float = field(default=30.0, kw_only=True)
    deliveries: int = field(default=5, kw_only=True)
    on_failure: Literal["dead_letter", "redeliver"] = field(default="dead_letter", kw_only=True)
    max_ack_pending: int = field(default=10_000, kw_only=True)

    def __post_init__(self) -> None:
        super().__init__()
        self.subjects = (self.subjects,) if isinstance(self.subjects, str) else tuple(self.subjects)
        require_extra("nats", f"source {self.title}")
        if not variable_names(self.url):
            parse_nats_url(self.url, f"source {self.title}")
        _check_name("stream", self.stream)
        _check_name("durable", self.durable)
        _check_subjects(self.subjects)
        if not self.ack_wait >= 1:
            raise FlowDefinitionError(f"ack_wait: expected at least 1 second, got {self.ack_wait!r}")
        if self.deliveries < 1:
            raise FlowDefinitionError(f"deliveries: expected at least 1, got {self.deliveries!r}")
        if self.max_ack_pending < 1:
            raise FlowDefinitionError(f"max_ack_pending: expected at least 1, got {self.max_ack_pending!r}")
        if self.on_failure not in ("dead_letter", "redeliver"):
            raise FlowDefinitionError(f"on_failure: expected dead_letter or redeliver, got {self.on_failure!r}")

    @property
    def title(self) -> str:
        """The stream and the consumer, for messages."""
        return f"nats {self.stream}/{self.durable}"

    @property
    def endless(self) -> bool:
        return True

    async def produce(self, emitter: Emitter[bytes]) -> None:
        from penstock.sources.jetstream_run import JetStreamRun  # imports the client

        run = JetStreamRun(self, emitter)
        emitter.lease_from(run, redeliver=self.on_failure == "redeliver")
        await run.open()
        emitter.on_stop(run.stop)
        await run.receive()


def _check_name(setting: str, name: str) -> None:
    if not _NAME.fullmatch(name):
        raise FlowDefinitionError(f"{setting}: invalid name {name!r}; use no spaces and none of . * > / \\")


def _check_subjects(subjects: Sequence[str]) -> None:
    for subject in subjects:
        if not _SUBJECT.fullmatch(subject):
            raise FlowDefinitionError(f"subjects: invalid subject {subject!r}; use tokens with dots: orders.*.new")
