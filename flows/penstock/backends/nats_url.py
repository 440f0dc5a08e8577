"""The URL of NATS servers, for sources and sinks. Needs no client, so flows can be checked without it."""

from __future__ import annotations

from penstock.backends.server_url import ServerUrl, invalid_url, parse_server_url
from penstock.support.environment import substitute

_STORE_OPTIONS = ("create", "replicas")
"""Options that only a dead-letter store has, because it may create its stream."""


def parse_nats_url(url: str, subject: str) -> ServerUrl:
    """Parse `nats://[USER:PASSWORD@]HOST[:PORT][,HOST…][?tls=yes&credentials=FILE]`, with variables substituted.

    `subject` is what has the URL, for errors, which show no password. Raises `FlowDefinitionError`.
    """
    resolved = substitute(url)
    if not resolved.startswith("nats://"):
        raise invalid_url(url, "expected nats://HOST[:PORT]", subject)
    parts = parse_server_url(resolved, url, subject=subject, named=False)
    for option in _STORE_OPTIONS:
        if option in parts.options:
            raise invalid_url(url, f"unknown option {option!r}; allowed: tls, credentials", subject)
    return parts
