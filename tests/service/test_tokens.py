"""Tokens with scopes: which settings are valid, who may do what, and that secrets are never shown."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from penstock.settings import Settings, SettingsError, load_settings
from penstock.tokens import SCOPES
from service.processes import Process, serving

READER = "6f1d1c5e8f6a4d57-reader"
DEPLOYER = "b0c27f9a4e3d4c11-deployer"
ADMIN = "s3cret-admin"

FILE = f"""
[tokens.on-call]
token = "{READER}"
scopes = ["read"]

[tokens.deploy]
sha256 = "{hashlib.sha256(DEPLOYER.encode()).hexdigest()}"
scopes = ["flows"]
"""

FLOW = b"flow: fresh\nkey: id\n"
YAML = {"Content_Type": "application/yaml"}


def load(folder: Path, text: str, **environment: str) -> Settings:
    """The settings of a file."""
    file = folder / "penstock.toml"
    file.write_text(text)
    return load_settings({"config": str(file)}, environment)


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    """A server with three tokens."""
    folder = tmp_path_factory.mktemp("guarded")
    (folder / "penstock.toml").write_text(FILE)
    with serving(folder, "--config", folder / "penstock.toml", env={"PENSTOCK_TOKEN": ADMIN}) as process:
        yield process
    assert not any(secret in json.dumps(process.events) for secret in (READER, DEPLOYER, ADMIN))


def test_tokens_are_read_from_the_settings_file(tmp_path: Path) -> None:
    """As text or as a digest; PENSTOCK_TOKEN has all scopes. No secret and no digest is shown."""
    settings = load(tmp_path, FILE, PENSTOCK_TOKEN=ADMIN)
    scopes = {token.name: set(token.scopes) for token in settings.all_tokens}
    assert scopes == {"on-call": {"read"}, "deploy": {"flows"}, "token": set(SCOPES)}
    shown = repr(settings) + repr(settings.all_tokens)
    assert not any(secret in shown for secret in (READER, DEPLOYER, ADMIN, "digest", "\\x"))


GOOD = 'token = "6f1d1c5e8f6a4d57"'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('tokens = "x"', "tokens in {file}: expected a table for each token, such as [tokens.deploy], got str"),
        ('[tokens]\na = "secret-secret-secret"', 'a: expected a table with token = "…" or sha256 = "…"'),
        ('[tokens."a b"]', "the name 'a b': expected letters, digits"),
        (f'[tokens.token]\n{GOOD}\nscopes = ["read"]', "the name 'token' is reserved"),
        (f'[tokens.local]\n{GOOD}\nscopes = ["read"]', "the name 'local' is reserved"),
        ('[tokens.a]\nscopes = ["read"]', "a: expected either token or sha256, got neither"),
        (f'[tokens.a]\n{GOOD}\nsha256 = "{"0" * 64}"\nscopes = ["read"]', "got both"),
        (f"[tokens.a]\n{GOOD}", 'a.scopes: expected a list such as ["read", "redrive"]; scopes: read, redrive, edit'),
        (f"[tokens.a]\n{GOOD}\nscopes = []", "a.scopes: expected a list"),
        (f'[tokens.a]\n{GOOD}\nscopes = "read"', "a.scopes: expected a list"),
        (f'[tokens.a]\n{GOOD}\nscopes = ["reed"]', "a.scopes: unknown scope 'reed'; did you mean read?"),
        (f'[tokens.a]\n{GOOD}\nscopes = ["admin"]', "a.scopes: unknown scope 'admin'; scopes: read, redrive"),
        (f'[tokens.a]\n{GOOD}\nscope = ["read"]', "a: unknown key 'scope'; did you mean scopes?"),
        ('[tokens.a]\ntoken = "secret"\nscopes = ["read"]', "a.token: expected at least 16 characters, got 6"),
        ('[tokens.a]\ntoken = "secretsecret secret"\nscopes = ["read"]', "a.token: expected a token without spaces"),
        ('[tokens.a]\ntoken = "aaaaaaaaaaaaaaaaaaaaaa"\nscopes = ["read"]', "a.token: expected a random text"),
        ('[tokens.a]\ntoken = 4711471147114711\nscopes = ["read"]', "a.token: expected a text, got int"),
        ('[tokens.a]\nsha256 = "secret"\nscopes = ["read"]', "a.sha256: expected the SHA-256 digest of a token"),
        (f'[tokens.a]\nsha256 = "{"g" * 64}"\nscopes = ["read"]', "64 hexadecimal digits"),
        (
            f'[tokens.a]\nsha256 = "{hashlib.sha256().hexdigest()}"\nscopes = ["read"]',
            "a.sha256: is the digest of an empty token",
        ),
        (
            f'[tokens.a]\n{GOOD}\nscopes = ["read"]\n[tokens.b]\n{GOOD}\nscopes = ["purge"]',
            "b: has the same secret as a",
        ),
    ],
)
def test_an_invalid_token_is_rejected(tmp_path: Path, text: str, message: str) -> None:
    """The message has the name of the token and what to do, but never the secret."""
    with pytest.raises(SettingsError) as rejected:
        load(tmp_path, text)
    found = str(rejected.value)
    assert message.format(file=tmp_path / "penstock.toml") in found
    assert not any(secret in found for secret in ("secret-", "secrets", "6f1d1c5e", "4711", "aaaa", "gggg"))


def test_a_named_token_must_differ_from_the_default_one(tmp_path: Path) -> None:
    """It would have scopes that the file does not give it."""
    with pytest.raises(SettingsError, match="on-call: has the same secret as PENSTOCK_TOKEN") as rejected:
        load(tmp_path, FILE, PENSTOCK_TOKEN=READER)
    assert READER not in str(rejected.value)


def test_named_tokens_are_not_read_from_a_variable() -> None:
    """The message says where they belong."""
    with pytest.raises(SettingsError, match=r"only read from a settings file, from \[tokens\.NAME\]"):
        load_settings({}, {"PENSTOCK_TOKENS": "x"})


@pytest.mark.parametrize(
    ("secret", "reads", "deploys"), [(READER, 200, 403), (DEPLOYER, 403, 200), (ADMIN, 200, 200), ("none", 401, 401)]
)
def test_a_token_permits_its_scopes_only(guarded: Process, secret: str, reads: int, deploys: int) -> None:
    """PENSTOCK_TOKEN permits everything. A 403 names the scope, also as RFC 6750 describes."""
    bearer = {"Authorization": f"Bearer {secret}"}
    read = guarded.request("GET", "/dead-letters", **bearer)
    deploy = guarded.request("PUT", "/flows/fresh?dry-run=true", FLOW, **bearer, **YAML)
    assert (read.status, deploy.status) == (reads, deploys)
    for response, scope in ((read, "read"), (deploy, "flows")):
        if response.status == 403:
            problem = response.json()
            assert (problem["code"], problem["scope"]) == ("insufficient_scope", scope)
            assert f"it needs the scope {scope}" in problem["detail"]
            assert f'error="insufficient_scope", scope="{scope}"' in response.headers["www-authenticate"]
        assert secret not in response.body.decode()


def test_diagnostics_are_only_shown_to_tokens_that_may_read(guarded: Process) -> None:
    """`lastReload` quotes flow files, as dead letters quote customers."""
    flows = [guarded.request("GET", "/flows", Authorization=f"Bearer {each}").status for each in (READER, "none")]
    assert flows == [200, 200]


@pytest.mark.parametrize(
    "headers",
    [
        b"Authorization: Bearer %b\r\nAuthorization: Bearer %b" % (READER.encode(), READER.encode()),
        b"Authorization: Bearer  %b" % READER.encode(),
        b"Authorization: Bearer %b," % READER.encode(),
        b"Authorization: Basic %b" % READER.encode(),
        b"Authorization: Bearer",
        b"Authorization: Bearer \xff\xfe\x80",
        b"Authorization: Bearer " + b"A" * 7000,
        b"Authorization: %b" % READER.encode(),
        b"Authorization: Bearer %b" % hashlib.sha256(DEPLOYER.encode()).hexdigest().encode(),
    ],
)
def test_a_hostile_token_header_is_a_401(guarded: Process, headers: bytes) -> None:
    """Repeated, of another scheme, not UTF-8, long, or the digest instead of the secret."""
    with guarded.connect() as client:
        client.send(b"GET /dead-letters HTTP/1.1\r\nHost: 127.0.0.1\r\n" + headers + b"\r\n\r\n")
        response = client.response().complete()
    assert (response.status, response.json()["code"]) == (401, "unauthorized")
    assert READER not in response.body.decode()
