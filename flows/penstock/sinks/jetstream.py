"""JetStreamSink: publishes values to NATS JetStream and waits for the acknowledgement of each."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from msgspec import Struct

from penstock.backends.extras import require_extra
from penstock.backends.nats_url import parse_nats_url
from penstock.errors import BrokerUnreachable, FlowDefinitionError, InvalidItem, SinkUnreachable, SinkWriteFailed
from penstock.expressions import Expression
from penstock.services.template import Field, field_of, parse_template, text_of
from penstock.sinks.payload import payload_of
from penstock.support.environment import variable_names

if TYPE_CHECKING:
    from penstock.sinks.jetstream_publisher import Publisher

_SUBJECT = re.compile(r"[^\s.*>]+(\.[^\s.*>]+)*")


@dataclass(unsafe_hash=True)
class JetStreamSink:
    """Publishes each value as a message, as JSON, or unchanged if it is bytes. Acknowledgements are awaited together.

    `url` is `nats://[USER:PASSWORD@]HOST[:PORT][,HOST…][?tls=yes&credentials=FILE]` and may contain variables.
    `subject` may contain variables and fields of the value: `orders.{country}.{orderId}`. The text of a field is
    always one token: characters with a meaning in subjects are percent-encoded (`1.2` becomes `1%2E2`).

    `id` is the message id (`Nats-Msg-Id`), a function of the value or the text of an expression such as
    `value.orderId`. The stream stores one message for each id within its `duplicate_window`, 2 minutes by default; so
    a value that is written again, such as by a redelivery, is stored once. When the connection breaks, messages that
    were not acknowledged are published again if they have an id. Without an id, they fail and may be stored: a value
    that is written again after that is stored twice (at least once). Values that were not published wait while the
    server cannot be reached, and so do those with an id.

    A value alone fails with `InvalidItem` if a field is missing, empty or not text or a number, with `EncodingFailed`
    if it cannot be written as JSON, and with `SinkWriteFailed` if the server rejects it or no stream has the subject.

    >>> sink = JetStreamSink("nats://localhost", "orders.{country}", id="value.orderId")
    """

    url: str
    subject: str
    id: str | Callable[[Any], Any] | None = None
    name: str = field(default="", compare=False, kw_only=True)

    def __post_init__(self) -> None:
        require_extra("nats", f"sink {self.title}")
        if not variable_names(self.url):
            parse_nats_url(self.url, f"sink {self.title}")
        if not variable_names(self.subject):
            SubjectTemplate(self.subject)
        if isinstance(self.id, str):
            self.id = Expression(self.id)  # the text and the expression are the same sink
        self._id: Callable[[Any], Any] | None = self.id
        self._publisher: Publisher | None = None
        self._template: SubjectTemplate | None = None
        self._was_unreachable = False

    @property
    def repeatable(self) -> bool:
        """Whether values may be published again that may have been stored."""
        return self.id is not None

    @property
    def title(self) -> str:
        """The subject, for messages."""
        return f"nats {self.subject}"

    async def open(self) -> None:
        """Connect. Raises `BrokerError`, or `SinkUnreachable`."""
        from penstock.sinks.jetstream_publisher import Publisher  # imports the client

        self._template = SubjectTemplate(self.subject)
        url = parse_nats_url(self.url, f"sink {self.title}")
        try:
            publisher = await Publisher.connect(url, self.title, starting=self._was_unreachable)
        except BrokerUnreachable as error:
            self._was_unreachable = True
            raise SinkUnreachable(self.title, error.reason) from error
        self._publisher, self._was_unreachable = publisher, False

    async def write(self, values: Sequence[Any]) -> Sequence[Exception | None] | None:
        """Publish values; return when each is acknowledged. Returns the errors of those that are not."""
        publisher = self._publisher
        if publisher is None:
            raise SinkWriteFailed(self.title, "it is not open")
        errors: list[Exception | None] = [None] * len(values)
        numbers: list[int] = []
        messages: list[Message] = []
        for number, value in enumerate(values):
            try:
                messages.append(self._message(value))
                numbers.append(number)
            except Exception as error:
                errors[number] = error
        for number, result in zip(numbers, await publisher.publish(messages), strict=True):
            errors[number] = result
        return errors if any(errors) else None

    async def aclose(self) -> None:
        """Close the connection."""
        publisher, self._publisher = self._publisher, None
        if publisher is not None:
            await publisher.close()

    def _message(self, value: Any) -> Message:
        assert self._template is not None
        id = None if self._id is None else message_id(self._id(value))
        return Message(self._template.render(value), payload_of(value), id)


class Message(Struct, frozen=True):
    """A message to publish."""

    subject: str
    payload: bytes
    id: str | None


class SubjectTemplate:
    """A subject that may contain fields of the value, each as one token or a part of one."""

    def __init__(self, template: str) -> None:
        """Raises `FlowDefinitionError` for an invalid subject, and `MissingVariable`."""
        try:
            parts = list(parse_template(template))
        except ValueError as error:
            raise FlowDefinitionError(f"subject {template!r}: {error}") from None
        sample = "".join("x" if isinstance(part, Field) else part[-1] for part in parts)
        if not _SUBJECT.fullmatch(sample) or sample.startswith("$"):
            raise FlowDefinitionError(
                f"subject {template!r}: expected tokens with dots between them, without spaces, * and >"
            )
        self._parts = [(part.name, "") if isinstance(part, Field) else ("", part[-1]) for part in parts]

    def render(self, value: Any) -> str:
        """Return the subject for a value. Raises `InvalidItem` if a field is missing or cannot be sent."""
        return "".join([text or _token(field, value) for field, text in self._parts])


def _token(field: str, value: Any) -> str:
    found = field_of(value, field)
    if type(found) is int:
        return str(found)
    text = text_of(field, found, "a subject")
    if text.isalnum() and text.isascii():
        return text
    if not text:
        raise InvalidItem(f"the field {field} is empty, and cannot be a token of a subject")
    try:
        return quote(text, safe="").replace(".", "%2E")
    except UnicodeEncodeError as error:
        raise InvalidItem(f"the field {field} is not valid text: {error.reason}") from error


def message_id(found: object) -> str:
    """Return a message id as it is sent. Raises `InvalidItem` for one that the client would change.

    Two different ids must stay different: the second message would be taken for a copy of the first.
    """
    if isinstance(found, bool) or not isinstance(found, str | int):
        raise InvalidItem(f"expected text or an integer as message id, got {found!r}")
    id = str(found)
    if not id or not id.isprintable() or id != id.strip():
        raise InvalidItem(f"expected printable text without spaces around it as message id, got {id!r}")
    return id
