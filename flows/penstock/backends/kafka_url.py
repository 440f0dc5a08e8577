"""The URL of Kafka brokers, for sources and sinks. Needs no client, so flows can be checked without it."""

from __future__ import annotations

from penstock.backends.server_url import ServerUrl, invalid_url, parse_server_url
from penstock.support.environment import substitute


def parse_kafka_url(url: str, subject: str) -> ServerUrl:
    """Parse `kafka://[USER:PASSWORD@]HOST[:PORT][,HOST…][?tls=yes&sasl=…]`, with variables substituted.

    `subject` is what has the URL, for errors, which show no password. Raises `FlowDefinitionError`.
    """
    resolved = substitute(url)
    if not resolved.startswith("kafka://"):
        raise invalid_url(url, "expected kafka://HOST[:PORT]", subject)
    return parse_server_url(resolved, url, subject=subject, named=False)
