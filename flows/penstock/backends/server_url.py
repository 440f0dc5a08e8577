"""URLs of servers, such as those of brokers and dead-letter stores, and how they are displayed without passwords."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import parse_qsl, unquote

from penstock.errors import FlowDefinitionError
from penstock.support.text import suggest

_CREDENTIALS = re.compile(r"//(?:[^?]*|[^/?#@:[]*:(?!\d+(?:[,/?#]|$)).*|[^/?#]*\?.*)@", re.DOTALL)
"""User and password in a URL, also a password with `@`, `/`, `?` or `#`, which has to be escaped but may not be yet.

What follows `?` belongs to them if what precedes it is not a host, which may have a port, and a path.
"""

_WITHOUT_CREDENTIALS = ("sqlite:", "s3:")
"""URLs whose path may contain `@`."""

_SECRET_OPTION = re.compile(r"([?&][^=&#]*(?:secret|token|passw|pwd|key|credential)[^=&#]*)=[^&#]*", re.IGNORECASE)

_NAME = re.compile(r"[A-Za-z0-9._-]{1,249}")
"""The names of Kafka topics. https://github.com/apache/kafka, `Topic.java`."""

_STREAM = re.compile(r"[^\s.*>/\\]{1,255}")
"""The names of JetStream streams. https://docs.nats.io/nats-concepts/jetstream/streams"""

_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,62}")

_HOST = re.compile(r"(?:[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::(?P<port>[0-9]{1,5}))?")


def hide_password(url: str) -> str:
    """Remove user and password from a URL, and the values of options that may be secret.

    >>> hide_password("kafka://me:s3cret@host/letters?tls=yes")
    'kafka://host/letters?tls=yes'
    >>> hide_password("s3://bucket/letters?secret_access_key=s3cret")
    's3://bucket/letters?secret_access_key=***'
    """
    if not url.startswith(_WITHOUT_CREDENTIALS):
        url = _CREDENTIALS.sub("//", url, count=1)
    return hide_secret_options(url)


def hide_secret_options(url: str) -> str:
    """Replace the values of options of a URL that may be secret by `***`."""
    return _SECRET_OPTION.sub(r"\1=***", url)


@dataclass(frozen=True, slots=True)
class Scheme:
    """A kind of URL: how that of a dead-letter store is written, the extra that it needs, and its options."""

    extra: str
    usage: str
    name: re.Pattern[str]
    """The bucket, topic or stream."""
    port: int | None = None
    """The default port; None if the URL names no server."""
    options: Mapping[str, str] | None = None
    """Options by name, each with the pattern of its values. None: any."""


_YES_NO = "yes|no"

SCHEMES: Mapping[str, Scheme] = {
    "postgresql": Scheme("postgres", "postgresql://USER@HOST[:PORT]/DATABASE", re.compile(r".+"), 5432),
    "s3": Scheme(
        "s3",
        "s3://BUCKET/PREFIX[?endpoint=URL&region=REGION]",
        _BUCKET,
        options={
            "endpoint": r"https?://.+",
            "region": r"[a-z0-9-]+",
            "access_key_id": ".+",
            "secret_access_key": ".+",
            "session_token": ".+",
        },
    ),
    "kafka": Scheme(
        "kafka",
        "kafka://HOST[:PORT]/TOPIC",
        _NAME,
        9092,
        {"tls": _YES_NO, "sasl": "PLAIN|SCRAM-SHA-256|SCRAM-SHA-512", "max_message_bytes": "[1-9][0-9]{3,8}"},
    ),
    "nats": Scheme(
        "nats",
        "nats://HOST[:PORT]/STREAM",
        _STREAM,
        4222,
        {"tls": _YES_NO, "credentials": ".+", "create": _YES_NO, "replicas": "[1-5]"},
    ),
}


@dataclass(frozen=True, slots=True)
class ServerUrl:
    """The parts of a URL."""

    scheme: str
    servers: Sequence[str]
    """`host:port` of each server; empty for S3."""
    name: str
    """The bucket, topic or stream; empty if the URL names servers only."""
    prefix: str
    """What follows the bucket, without slashes at its ends."""
    user: str | None
    password: str | None
    options: Mapping[str, str]


def parse_server_url(
    resolved: str, display_url: str, *, subject: str = "dead-letter store", named: bool = True
) -> ServerUrl:
    """Parse a URL whose scheme is one of `SCHEMES`, except PostgreSQL. Raises `FlowDefinitionError`.

    `subject` is what has the URL, for messages. `named` is whether the URL names a bucket, topic or stream.
    """
    kind, _, rest = resolved.partition("://")
    scheme = SCHEMES[kind]
    usage = scheme.usage if named else scheme.usage.rpartition("/")[0]
    if scheme.port:
        check_credentials(resolved, display_url, subject)
    rest, _, query = rest.partition("?")
    credentials, _, location = rest.rpartition("@") if scheme.port else ("", "", rest)
    hosts, _, path = location.partition("/")
    if scheme.port is None:
        name, prefix, servers = hosts, path.strip("/"), []
    else:
        name, prefix = unquote(path), ""
        servers = [_server(host, scheme, usage, display_url, subject) for host in hosts.split(",")]
    if not named and name:
        raise invalid_url(display_url, f"unexpected {name!r} after the host; use {usage}", subject)
    if named and not scheme.name.fullmatch(name):
        thing = scheme.usage.split("/")[2 if scheme.port is None else 3]
        problem = f"invalid {thing.lower()} {name!r}" if name else f"the {thing.lower()} is missing"
        raise invalid_url(display_url, f"{problem}; use {usage}", subject)
    user, _, password = credentials.partition(":")
    return ServerUrl(
        kind,
        servers,
        name,
        prefix,
        unquote(user) or None,
        unquote(password) or None,
        _options(query, scheme, display_url, subject),
    )


def check_credentials(resolved: str, display_url: str, subject: str = "dead-letter store") -> None:
    """Raise `FlowDefinitionError` if the user or the password of a URL contains a character that ends them."""
    found = _CREDENTIALS.search(resolved)
    if found is not None and (character := re.search(r"[/?#\[\]]", found[0][2:])):
        escape = f"%{ord(character[0]):02X}"
        problem = f"{character[0]} before @: write it as {escape} in a user or password, and @ elsewhere as %40"
        raise invalid_url(display_url, problem, subject)


def check_s3_url(url: str, subject: str) -> None:
    """Raise `FlowDefinitionError` for a text that is not a URL of a bucket. One with variables is checked later."""
    if "${" in url:
        return
    if not url.startswith("s3://"):
        raise invalid_url(url, f"expected {SCHEMES['s3'].usage}", subject)
    parse_server_url(url, url, subject=subject)


def check_postgres_url(url: str, subject: str) -> None:
    """Raise `FlowDefinitionError` for a text that is not a URL of PostgreSQL. A variable at its beginning may be."""
    if url.startswith("${"):
        return
    if not url.startswith("postgresql://"):
        raise invalid_url(url, f"expected {SCHEMES['postgresql'].usage}", subject)
    check_credentials(url, url, subject)


def invalid_url(display_url: str, problem: str, subject: str = "dead-letter store") -> FlowDefinitionError:
    """Return the error for an invalid URL. The message shows no password."""
    return FlowDefinitionError(f"{subject} {hide_password(display_url)!r}: {problem}")


def _server(host: str, scheme: Scheme, usage: str, display_url: str, subject: str) -> str:
    found = _HOST.fullmatch(host)
    if found is None or int(found["port"] or 0) > 65535:
        problem = f"invalid host {host!r}" if host else "the host is missing"
        raise invalid_url(display_url, f"{problem}; use {usage}", subject)
    return host if found["port"] else f"{host}:{scheme.port}"


def _options(query: str, scheme: Scheme, display_url: str, subject: str) -> Mapping[str, str]:
    options = dict(parse_qsl(query, keep_blank_values=True))
    known = scheme.options or {}
    for name, value in options.items():
        if name not in known:
            meant = suggest(name, known)
            hint = f"did you mean {meant}?" if meant else f"allowed: {', '.join(known)}"
            raise invalid_url(display_url, f"unknown option {name!r}; {hint}", subject)
        if not re.fullmatch(known[name], value):
            expected = known[name].replace("|", " or ") if re.fullmatch(r"[\w|-]+", known[name]) else None
            problem = f"invalid option {name}" + (f"; expected {expected}" if expected else "")
            raise invalid_url(display_url, problem, subject)
    return options
