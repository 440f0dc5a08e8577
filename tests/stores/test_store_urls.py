"""URLs of stores: what is valid, what is expected instead, and that no message shows a password."""

import pytest

from penstock.backends import extras
from penstock.backends.server_url import hide_password, parse_server_url
from penstock.cli.check import NameConflicts, check_file, format_report
from penstock.deadletters import MemoryStore, create_store, validate_store_url
from penstock.deadletters.log import is_log, is_queue
from penstock.deadletters.stores import identity_of
from penstock.errors import ExtraMissing, FlowDefinitionError
from penstock.flowfile import load
from penstock.settings import Settings


@pytest.mark.parametrize(
    "url",
    [
        "memory",
        "memory:",
        "sqlite:///x.db",
        "s3://bucket/letters/of/orders?endpoint=http://127.0.0.1:9000&region=eu-1",
        "s3://bucket",
        "kafka://host/topic",
        "kafka://me:p%40ss@one:9092,two/dead.letters?tls=yes&sasl=SCRAM-SHA-256",
        "kafka://[::1]:9092/topic",
        "nats://token@host/ORDERS",
    ],
)
def test_a_valid_url_is_accepted(url):
    """Packages of all extras are installed for the tests."""
    validate_store_url(url)


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("redis://me:s3cret@host/0", "unknown dead-letter store 'redis://host/0': use sqlite:///FILE, postgresql://"),
        ("sqlite://x.db", "the file name is missing; use sqlite:///FILE"),
        ("postgresql://me:s3cret@host", "the database is missing; use postgresql://USER@HOST"),
        ("postgresql://me:s3cret@host:x/db", "invalid port; use postgresql://"),
        ("s3:///letters", "the bucket is missing; use s3://BUCKET/PREFIX"),
        ("s3://a_b!/x", "invalid bucket 'a_b!'; use s3://BUCKET/PREFIX"),
        ("s3://bucket/x?secret_access_key=s3cret&endpoint=host", "invalid option endpoint"),
        ("s3://bucket/x?regoin=eu", "unknown option 'regoin'; did you mean region?"),
        ("kafka://me:s3cret@host", "the topic is missing; use kafka://HOST[:PORT]/TOPIC"),
        ("kafka://me:s3cret@host/a b", "invalid topic 'a b'"),
        ("kafka:///topic", "the host is missing"),
        ("kafka://me:s3@cret@host:99999/topic", "invalid host 'host:99999'"),
        ("kafka://host/topic?tls=maybe", "invalid option tls; expected yes or no"),
        ("nats://host/a.b", "invalid stream 'a.b'"),
        ("nats://host/a?stream=b", "unknown option 'stream'; allowed: tls, credentials, create, replicas"),
        ("kafka://me:s3/cret@host/topic", "/ before @: write it as %2F in a user or password"),
        ("nats://me:s3#cret@host/ORDERS", "# before @: write it as %23"),
        ("nats://s3?cret:s3?cret@host/ORDERS", "? before @: write it as %3F"),
        ("nats://me:s3/c?ret@host/ORDERS", "/ before @"),
        ("kafka://me:12?s3cret@host/topic", "? before @"),
        ("nats://s3?cret@host/ORDERS", "? before @"),
        ("postgresql://me:s3/cret@host/db", "/ before @: write it as %2F"),
        ("postgresql://me:s3#cret@host/db", "# before @: write it as %23"),
        ("postgresql://me:s3[cret@host/db", "[ before @: write it as %5B"),
        ("postgresql://[::1/db", "invalid host; use postgresql://"),
        ("nats://me:s3cret@host/a\n", "the URL contains a line break"),
    ],
)
def test_an_invalid_url_says_what_is_expected_without_its_password(url, reason):
    """The same message appears in `check`, in `run` and in the settings."""
    with pytest.raises(FlowDefinitionError) as caught:
        validate_store_url(url)
    assert reason in str(caught.value)
    assert "s3cret" not in str(caught.value)
    assert "cret@" not in str(caught.value)


def test_a_path_with_an_at_sign_is_shown():
    """Only URLs of servers have passwords."""
    for url in ("sqlite:////home/me@work/letters.db", "s3://bucket/a@b", "kafka://host:9092/t?sasl=@"):
        assert hide_password(url) == url


def test_a_missing_extra_is_reported_with_its_command_and_its_place(tmp_path, monkeypatch):
    """`check` and `run` name the line; the packages are not imported to find out."""
    monkeypatch.setattr(extras, "find_spec", lambda name: None)
    file = tmp_path / "f.yaml"
    file.write_text("flow: f\ndead_letters: kafka://me:s3cret@host/topic\nsteps: [{filter: 'true'}]\n")

    with pytest.raises(FlowDefinitionError) as caught:
        load(file)

    assert "f.yaml:2:15: dead-letter store kafka://host/topic: its packages are not installed" in str(caught.value)
    assert 'pip install "penstock[kafka]"' in str(caught.value)
    assert "s3cret" not in str(caught.value)
    with pytest.raises(ExtraMissing, match=r"penstock\[nats\]"):
        create_store("nats://host/stream")


def test_an_invalid_url_of_a_flow_file_is_reported_with_its_place(tmp_path):
    """`check` names the line and what is expected."""
    file = tmp_path / "f.yaml"
    file.write_text("flow: f\ndead_letters: {store: 'kafka://host'}\nsteps: [{filter: 'true'}]\n")
    with pytest.raises(
        FlowDefinitionError, match=r"f\.yaml:2:\d+: dead-letter store 'kafka://host': the topic is miss"
    ):
        load(file)


def test_the_parts_of_a_url_are_decoded():
    """Passwords and names may need escapes in a URL."""
    parts = parse_server_url("kafka://me:p%40%2Fss@one,two:1/dead.letters?tls=yes", "")
    assert (parts.servers, parts.name) == (["one:9092", "two:1"], "dead.letters")
    assert (parts.user, parts.password, parts.options) == ("me", "p@/ss", {"tls": "yes"})
    assert parse_server_url("s3://bucket/a/b/?region=x", "").prefix == "a/b"


def test_settings_do_not_show_the_password_of_a_store():
    """They are printed for debugging."""
    shown = repr(Settings(dead_letters="postgresql://me:s3cret@host/db"))
    assert "dead_letters='postgresql://host/db'" in shown
    assert hide_password("s3://b/p?session_token=t0p&region=x") == "s3://b/p?session_token=***&region=x"


def test_a_store_says_whether_it_is_a_queue():
    """Stores of users that have the methods of a plain store are neither."""
    assert is_queue(MemoryStore())
    assert not is_log(MemoryStore())
    assert not is_queue(object())  # type: ignore[arg-type]


def test_check_says_what_a_log_cannot_do(tmp_path):
    """Before the first letter is there."""
    file = tmp_path / "f.yaml"
    file.write_text("flow: f\ndead_letters: kafka://me:s3cret@host/topic\nsteps: [{filter: 'true'}]\n")
    report = check_file(file, NameConflicts())
    assert (
        "  dead letters go to a log, kafka://host/topic: they can be listed, exported and redriven, but not"
        in "\n".join(format_report(report, quiet=False))
    )


async def test_messages_have_the_url_that_a_variable_stands_for(monkeypatch):
    """Beside the variable, whose default may be another store; without the password."""
    text = "${STORE:-sqlite:///shop.db}"
    monkeypatch.setenv("STORE", "nats://me:s3cret@host/ORDERS")

    store = create_store(text)

    assert store.url == "nats://host/ORDERS (${STORE:-sqlite:///shop.db})"
    assert identity_of(store.url) == identity_of(text) == identity_of("nats://me:s3cret@host/ORDERS")
