"""Bearer tokens of the HTTP API, each with a name and scopes. Only digests are kept, and no message shows a secret."""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import cast

from penstock.support.text import suggest

SCOPES: Mapping[str, str] = {
    "read": "see dead letters",
    "redrive": "redrive dead letters",
    "edit": "change dead letters",
    "purge": "delete dead letters",
    "flows": "deploy flows",
}
"""What a token with each scope permits, as the end of a message: "a token is needed to see dead letters"."""

DEFAULT_NAME = "token"
"""The name of the token in `PENSTOCK_TOKEN`, which has all scopes."""

LOCAL_NAME = "local"
"""The name of clients on this machine, when no token is set."""

MIN_LENGTH = 16
"""The minimum number of characters of a named token. Shorter ones can be guessed."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_HINT = "make one with `openssl rand -hex 32`"


class InvalidToken(ValueError):
    """A token in the settings is invalid. The message does not show the secret."""


@dataclass(frozen=True, slots=True)
class Token:
    """A token: its name, the digest of its secret, and what it permits."""

    name: str
    digest: bytes = field(repr=False)
    """The SHA-256 digest of the secret in UTF-8."""
    scopes: frozenset[str]


def digest_of(secret: bytes) -> bytes:
    """Return the digest of a secret.

    A fast hash is enough, because tokens are random and long: there is no dictionary of them to try.
    """
    return hashlib.sha256(secret).digest()


def default_token(secret: str) -> Token:
    """Return the token with all scopes."""
    return Token(DEFAULT_NAME, digest_of(secret.encode()), frozenset(SCOPES))


def find_token(tokens: Sequence[Token], secret: bytes) -> Token | None:
    """Return the token with a secret, or None. The time it takes says nothing about the secrets."""
    digest, found = digest_of(secret), None
    for token in tokens:
        if hmac.compare_digest(token.digest, digest):
            found = token  # and compare with the others too
    return found


def parse_tokens(table: object) -> tuple[Token, ...]:
    """Parse the table `tokens` of a settings file. Raises `InvalidToken`."""
    if not isinstance(table, dict):
        raise InvalidToken(f"expected a table for each token, such as [tokens.deploy], got {type(table).__name__}")
    tokens = tuple(_parse_token(str(name), entry) for name, entry in cast("dict[str, object]", table).items())
    names: dict[bytes, str] = {}
    for token in tokens:
        if (other := names.setdefault(token.digest, token.name)) != token.name:
            raise InvalidToken(f"{token.name}: has the same secret as {other}; {_HINT} for each")
    return tokens


def _parse_token(name: str, table: object) -> Token:
    if not _NAME.fullmatch(name):
        raise InvalidToken(f"the name {name[:70]!r}: expected letters, digits, and . _ - inside, at most 64 characters")
    if name in (DEFAULT_NAME, LOCAL_NAME):
        raise InvalidToken(f"the name {name!r} is reserved; choose another one")
    if not isinstance(table, dict):
        raise InvalidToken(f'{name}: expected a table with token = "…" or sha256 = "…", and scopes = ["read"]')
    entry = cast("dict[str, object]", table)
    known = ("token", "sha256", "scopes")
    for key in entry:
        if key not in known:
            similar = suggest(key, known)
            hint = f"did you mean {similar}?" if similar else f"known keys: {', '.join(known)}"
            raise InvalidToken(f"{name}: unknown key {key[:70]!r}; {hint}")
    if ("token" in entry) == ("sha256" in entry):
        raise InvalidToken(f"{name}: expected either token or sha256, got {'both' if 'token' in entry else 'neither'}")
    digest = _parse_secret(name, entry["token"]) if "token" in entry else _parse_digest(name, entry["sha256"])
    return Token(name, digest, _parse_scopes(name, entry.get("scopes")))


def _parse_secret(name: str, secret: object) -> bytes:
    if not isinstance(secret, str):
        raise InvalidToken(f"{name}.token: expected a text, got {type(secret).__name__}")
    if re.search(r"[\s\x00-\x1f\x7f-\x9f]", secret):
        raise InvalidToken(f"{name}.token: expected a token without spaces and control characters; {_HINT}")
    if len(secret) < MIN_LENGTH:
        raise InvalidToken(f"{name}.token: expected at least {MIN_LENGTH} characters, got {len(secret)}; {_HINT}")
    if len(set(secret)) < 6:
        raise InvalidToken(f"{name}.token: expected a random text, got few different characters; {_HINT}")
    return digest_of(secret.encode())


def _parse_digest(name: str, digest: object) -> bytes:
    expected = "expected the SHA-256 digest of a token, 64 hexadecimal digits: printf %s TOKEN | sha256sum"
    if not isinstance(digest, str):
        raise InvalidToken(f"{name}.sha256: {expected}; got {type(digest).__name__}")
    if not _SHA256.fullmatch(digest.lower()):
        raise InvalidToken(f"{name}.sha256: {expected}; got {len(digest)} characters")
    found = bytes.fromhex(digest)
    if found in (digest_of(b""), digest_of(b"\n")):
        raise InvalidToken(f"{name}.sha256: is the digest of an empty token; {_HINT}")
    return found


def _parse_scopes(name: str, scopes: object) -> frozenset[str]:
    given = cast("list[object]", scopes) if isinstance(scopes, list) else []
    names = [scope for scope in given if isinstance(scope, str)]
    if not names or len(names) < len(given):
        raise InvalidToken(f'{name}.scopes: expected a list such as ["read", "redrive"]; scopes: {", ".join(SCOPES)}')
    for scope in names:
        if scope not in SCOPES:
            similar = suggest(scope, SCOPES)
            hint = f"did you mean {similar}?" if similar else f"scopes: {', '.join(SCOPES)}"
            raise InvalidToken(f"{name}.scopes: unknown scope {scope[:70]!r}; {hint}")
    return frozenset(names)
