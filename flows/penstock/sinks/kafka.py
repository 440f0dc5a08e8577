"""KafkaSink: writes values to a Kafka topic and waits until all replicas have them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

from msgspec import Struct

from penstock.backends.extras import require_extra
from penstock.backends.kafka_url import parse_kafka_url
from penstock.errors import ElementTooLarge, FlowDefinitionError, SinkWriteFailed
from penstock.expressions import Expression
from penstock.sinks.payload import payload_of, text_payload_of
from penstock.support.environment import substitute, variable_names

if TYPE_CHECKING:
    from penstock.backends.kafka_producer import KafkaProducer

Getter: TypeAlias = str | Callable[[Any], Any]
"""What is computed from a value: the text of an expression, such as `value.orderId`, or a function."""


@dataclass(unsafe_hash=True)
class KafkaSink:
    """Writes each value as a record: as JSON, or unchanged if it is bytes. The records of one write are sent together.

    `url` is `kafka://[USER:PASSWORD@]HOST[:PORT][,HOST…][?tls=yes&sasl=…]`; it and `topic` may contain variables.
    `key` is a function of the value, or the text of an expression such as `value.orderId`; records with equal keys are
    in one partition, in order. `headers` has the same for each header. Text is written as it is, null as no key and no
    header, anything else as JSON.

    The producer is idempotent, if the broker supports that: a record whose reply was lost is not written twice. A value
    that is written again, such as after a redelivery, is (at least once). A value alone fails with `ExpressionFailed`
    if an expression has no result for it, with `EncodingFailed` if it cannot be written as JSON, with `ElementTooLarge`
    if it has more bytes than the option `max_message_bytes` of the URL, 1,000,000 by default, and with
    `SinkWriteFailed` if the broker rejects it. While no broker can be reached, values wait; one that was sent and not
    confirmed when the broker went away may be written twice.

    >>> sink = KafkaSink("kafka://localhost", "priced", key="value.orderId", headers={"source": "'penstock'"})
    """

    url: str
    topic: str
    key: Getter | None = None
    headers: Mapping[str, Getter] = field(default_factory=dict[str, Getter], hash=False)
    name: str = field(default="", compare=False, kw_only=True)

    def __post_init__(self) -> None:
        require_extra("kafka", f"sink {self.title}")
        if not self.topic:
            raise FlowDefinitionError("topic: expected a name, got an empty text")
        if not variable_names(self.url):
            parse_kafka_url(self.url, f"sink {self.title}")
        self._key = self.key = None if self.key is None else _function(self.key)
        self.headers = {name: _function(getter) for name, getter in self.headers.items()}
        self._headers = [(name, _function(getter)) for name, getter in self.headers.items()]
        self._producer: KafkaProducer | None = None

    repeatable = True

    @property
    def title(self) -> str:
        """The topic, for messages."""
        return f"kafka {self.topic}"

    async def open(self) -> None:
        """Connect, and check that the topic exists. Raises `SinkWriteFailed`."""
        from penstock.backends.kafka_producer import KafkaProducer  # imports the client

        parts = parse_kafka_url(self.url, f"sink {self.title}")
        self._producer = await KafkaProducer.connect(parts, substitute(self.topic), self.title)

    async def write(self, values: Sequence[Any]) -> Sequence[Exception | None] | None:
        """Write values; return when the broker has confirmed each. Returns the errors of those that it has not."""
        producer = self._producer
        if producer is None:
            raise SinkWriteFailed(self.title, "it is not open")
        errors: list[Exception | None] = [None] * len(values)
        sent: list[tuple[int, asyncio.Future[Any]]] = []
        for number, value in enumerate(values):
            try:
                record = self._record(value)
                if record.size > producer.max_message_bytes:
                    raise ElementTooLarge(record.size, producer.max_message_bytes)
            except Exception as error:
                errors[number] = error
            else:
                sent.append((number, await producer.send(record.value, record.key, record.headers)))
        for number, future in sent:
            errors[number] = await producer.confirmed(future)
        return errors if any(errors) else None

    async def aclose(self) -> None:
        """Close the connections."""
        producer, self._producer = self._producer, None
        if producer is not None:
            await producer.close()

    def _record(self, value: Any) -> OutgoingRecord:
        key = None if self._key is None else text_payload_of(self._key(value))
        headers = [
            (name, content)
            for name, function in self._headers
            if (content := text_payload_of(function(value))) is not None
        ]
        payload = payload_of(value)
        assert payload is not None
        return OutgoingRecord(payload, key, headers)


class OutgoingRecord(Struct, frozen=True):
    """A record to write."""

    value: bytes
    key: bytes | None
    headers: Sequence[tuple[str, bytes]]

    @property
    def size(self) -> int:
        """Its bytes, without those that the protocol adds."""
        return len(self.value) + len(self.key or b"") + sum(len(name) + len(content) for name, content in self.headers)


def _function(getter: Getter) -> Callable[[Any], Any]:
    return Expression(getter) if isinstance(getter, str) else getter
