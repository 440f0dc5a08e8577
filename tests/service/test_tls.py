"""TLS in `penstock serve`: streams behave as without it, and the certificate changes without a restart."""

from __future__ import annotations

import os
import shutil
import signal
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import trustme
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)

import forking
from penstock.settings import Settings
from penstock_http.server.tls import CertificateError, load_certificate, tls_of
from service.conftest import Serve
from service.processes import Process, serving, until
from service.wire import NDJSON, orders
from waiting import HANG_SECONDS, end

needs_curl = pytest.mark.skipif(not shutil.which("curl"), reason="curl is not on this machine")

COUNT, PADDING = 16_000, 800


class Authority:
    """A certificate authority, and the files of certificates that it issues."""

    def __init__(self, folder: Path) -> None:
        self._ca = trustme.CA()
        self.file = folder / "ca.pem"
        self._ca.cert_pem.write_to_path(str(self.file))
        self.cert, self.key = folder / "cert.pem", folder / "key.pem"
        self.issue()

    def issue(self, expires: datetime | None = None) -> None:
        """Replace the certificate and its key by new ones."""
        issued = self._ca.issue_cert("127.0.0.1", "localhost", not_after=expires)
        self.cert.write_bytes(b"".join(part.bytes() for part in issued.cert_chain_pems))
        self.key.write_bytes(issued.private_key_pem.bytes())

    @property
    def flags(self) -> tuple[object, ...]:
        """The options of a server with the certificate."""
        return "--tls-cert", self.cert, "--tls-key", self.key

    def context(self) -> ssl.SSLContext:
        """The context of a client that trusts the authority."""
        context = ssl.create_default_context(cafile=self.file)
        context.verify_flags &= ~getattr(ssl, "VERIFY_X509_STRICT", 0)
        return context


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("tls"))


@pytest.fixture(scope="module")
def server(authority: Authority, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    """A server that the tests share. Its timeout of idle connections is that of handshakes too."""
    flags = ("--window", 256, "--send-buffer", 65_536, "--keep-alive", 2)
    with serving(tmp_path_factory.mktemp("served"), *authority.flags, *flags) as process:
        process.tls = authority.context()
        yield process


def test_requests_are_answered_in_tls(server: Process) -> None:
    """The log has the URL, keep-alive works, and versions before 1.2 are refused."""
    assert server.event("http.listening")["url"] == f"https://127.0.0.1:{server.port}"
    assert server.post({"orderId": 1}, {"orderId": 3}).end["failed"] == 1
    with server.connect() as client:
        for _ in range(2):
            client.request("GET", "/health/ready")
            assert client.response().complete().json() == {"status": "ready"}
        assert client.sock.version() == "TLSv1.3"  # type: ignore[attr-defined]  # of a TLS socket
    old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    old.check_hostname, old.verify_mode = False, ssl.CERT_NONE
    old.set_ciphers("DEFAULT@SECLEVEL=0")
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        old.minimum_version = old.maximum_version = ssl.TLSVersion.TLSv1_1
    with pytest.raises(ssl.SSLError):
        server.connect(tls=old)


def test_failed_handshakes_are_counted(server: Process) -> None:
    """With the reason in the log. Plain HTTP is told what to use; a client that only connects is not counted."""

    def failed() -> float:
        return server.metric("penstock_http_rejected_total", reason="tls_handshake_failed")

    before = failed()
    with server.connect(tls=None) as plain:
        plain.request("GET", "/health/ready")
        response = plain.response().complete()
        assert (response.status, "https://" in response.json()["detail"]) == (400, True)
    with server.connect(tls=None) as garbage:
        garbage.send(b"x" * 100)
        assert garbage.closed()
    with server.connect(tls=None) as silent:
        assert silent.closed()
    server.connect(tls=None).close()
    server.connect(tls=None).reset()

    assert until(lambda: failed() - before) == 3
    reasons = [event["error"] for event in server.logged("http.rejected", reason="tls_handshake_failed")]
    assert [reasons[-3], reasons[-1]] == ["http request", "the client did not complete it in time"]


@contextmanager
def curl_upload(server: Process, authority: Authority, folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A curl that uploads orders and writes its results into a pipe, which is not read yet."""
    (folder / "orders").write_bytes(orders(COUNT, padding=PADDING))
    url = f"https://127.0.0.1:{server.port}/orders/bulk"
    curl = subprocess.Popen(
        [
            *("curl", "-sSN", "--cacert", authority.file, "-X", "POST", "-H", f"Content-Type: {NDJSON}"),
            *("-T", folder / "orders", url),
        ],
        stdout=subprocess.PIPE,
    )
    try:
        yield curl
    finally:
        end(curl)


@needs_curl
def test_a_slow_pipe_pauses_the_upload(server: Process, authority: Authority, tmp_path: Path) -> None:
    """At most the window is in flight, memory stays bounded, and at the end no result is missing."""
    server.post({"orderId": 1})
    memory = server.rss()
    with curl_upload(server, authority, tmp_path) as curl:
        until(lambda: stands(server))
        assert 0 < server.metric("penstock_in_flight", flow="orders") <= 256
        assert server.metric("penstock_backpressure_seconds_total", flow="orders") > 0
        assert server.rss() - memory < 20
        assert server.post({"orderId": 1}).end["ok"] == 1
        results, _ = curl.communicate(timeout=HANG_SECONDS)
        assert curl.returncode == 0
    lines = results.splitlines()
    assert len(lines) == COUNT + 1
    assert b'"reason":"completed","received":16000' in lines[-1]


@needs_curl
def test_a_killed_client_cancels_its_run(server: Process, authority: Authority, tmp_path: Path) -> None:
    """While reading is paused too: the state of the socket below TLS shows it."""
    with curl_upload(server, authority, tmp_path) as curl:
        until(lambda: stands(server))
        assert server.metric("penstock_in_flight", flow="orders") > 0
        curl.kill()
        curl.wait()
        ended = server.event("run.ended", reason="disconnected")
    assert ended["cancelled"] > 0
    until(lambda: server.metric("penstock_runs_active") == 0, period=0.1)
    assert server.metric("penstock_in_flight") == 0


def stands(server: Process) -> bool:
    """Whether a run has begun and no element is received for a while."""
    before = server.metric("penstock_received_total")
    time.sleep(0.3)  # nothing must happen in this time
    return server.metric("penstock_runs_active") > 0 and server.metric("penstock_received_total") == before


def test_stalled_streams_are_ended(serve: Serve, authority: Authority) -> None:
    """That of a client that stops reading, and that of one that stops sending."""
    server = serve(*authority.flags, "--stall-timeout", 1, "--send-buffer", 16_384)
    server.tls = authority.context()
    with server.connect(receive_buffer=4096) as reader, server.connect() as sender:
        reader.request("GET", "/orders/bulk?count=50000")
        sender.upload()
        sender.chunk(orders(2))
        assert sender.response().complete().end["reason"] == "stalled"
        server.event("stream.stalled", stalled_on="reader")
    assert {event["stalled_on"] for event in server.logged("stream.stalled")} == {"input", "reader"}


def test_a_shutdown_drains_streams_in_tls(serve: Serve, authority: Authority) -> None:
    """Their end record arrives; idle connections and unfinished handshakes do not delay it."""
    server = serve(*authority.flags, "--grace-period", 600, "--keep-alive", 600)
    server.tls = authority.context()
    with server.connect() as client, server.connect() as idle, server.connect(tls=None) as silent:
        silent.send(b"\x16\x03\x01")
        idle.request("GET", "/health/live")
        idle.response().complete()
        client.upload()
        response = client.response()
        client.chunk(orders(1))
        assert response.next()["ok"]
        server.signal(signal.SIGTERM)
        assert response.complete().end["reason"] == "draining"
        assert server.wait() == 0
        assert idle.closed()
        assert silent.closed()
    assert server.event("shutdown.completed")["forced"] is False


def test_sighup_replaces_the_certificate(serve: Serve, tmp_path: Path) -> None:
    """For new connections; open ones go on. One that cannot be used changes nothing."""
    authority = Authority(tmp_path)
    server = serve(*authority.flags)
    server.tls = authority.context()
    first = serial(server)
    expiry = server.metric("penstock_tls_certificate_expiry_timestamp_seconds")
    with server.connect() as open_stream:
        open_stream.upload()
        response = open_stream.response()

        authority.issue(expires=datetime.now(UTC) + timedelta(days=2))
        server.signal(signal.SIGHUP)
        server.event("tls.reloaded")
        second = serial(server)
        assert second != first
        assert server.metric("penstock_tls_certificate_expiry_timestamp_seconds") < min(expiry, time.time() + 2 * 86400)
        server.event("tls.certificate_expires_soon")

        key = authority.key.read_bytes()
        authority.issue()
        authority.key.write_bytes(key)
        server.signal(signal.SIGHUP)
        assert "does not belong to" in server.event("tls.reload_failed")["error"]
        assert serial(server) == second

        open_stream.chunk(orders(1))
        assert response.next()["ok"]
        open_stream.chunk(b"")
        assert response.complete().end["reason"] == "completed"


def test_several_processes_change_the_certificate_one_by_one(serve: Serve, tmp_path: Path) -> None:
    """An open stream goes on, a certificate that cannot be used replaces nothing, and all obey the drain delay."""
    authority = Authority(tmp_path)
    server = serve(*authority.flags, "--processes", 2, "--drain-delay", "10m")
    server.tls = authority.context()
    assert server.event("http.listening", processes=2)["url"].startswith("https://")
    first = serial(server)
    with server.connect() as client:
        client.upload()
        response = client.response()

        authority.issue()
        server.signal(signal.SIGHUP)
        server.event("reload.completed", processes=2)
        until(lambda: serial(server) != first)  # the last one that is replaced may accept for a moment
        second = serial(server)
        authority.key.write_text("no key")
        server.signal(signal.SIGHUP)
        assert "expected a private key" in server.event("reload.failed")["error"]
        assert serial(server) == second

        client.chunk(orders(1))
        assert response.next()["ok"]
        client.chunk(b"")
        assert response.complete().end["reason"] == "completed"
    server.signal(signal.SIGTERM)
    until(lambda: server.request("GET", "/health/ready").status == 503)
    assert server.post({"orderId": 1}).end["ok"] == 1
    server.signal(signal.SIGTERM)
    assert server.wait() == 0


def serial(server: Process) -> str:
    """The serial number of the certificate of new connections."""
    with server.connect() as client:
        return str(client.sock.getpeercert()["serialNumber"])  # type: ignore[attr-defined]  # of a TLS socket


def encrypted(key: bytes) -> bytes:
    """A private key, encrypted."""
    return load_pem_private_key(key, None).private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret")
    )


@pytest.mark.parametrize(
    ("cert", "key", "message"),
    [
        ("missing.pem", "key.pem", r"--tls-cert: .*missing.pem cannot be read: No such file"),
        ("cert.pem", "missing.pem", r"--tls-key: .*missing.pem cannot be read: No such file"),
        ("key.pem", "key.pem", r"--tls-cert: .*key.pem: expected a certificate in PEM"),
        ("cert.pem", "cert.pem", r"--tls-key: .*cert.pem: expected a private key in PEM"),
        ("cert.pem", "", r"--tls-cert: .*cert.pem: give its key with --tls-key"),
        ("cert.pem", "other.pem", r"other.pem does not belong to the first certificate in .*cert.pem"),
        ("cert.pem", "encrypted.pem", r"the key is encrypted; decrypt it"),
        ("damaged.pem", "key.pem", r"--tls-cert: .*damaged.pem .*cannot be used"),
        ("", "key.pem", "--tls-key: expected --tls-cert too"),
    ],
)
def test_files_that_cannot_be_used_prevent_the_start(
    authority: Authority, tmp_path: Path, cert: str, key: str, message: str
) -> None:
    """With a message that says which file, what was expected and what to do."""
    other = trustme.CA().issue_cert("localhost")
    private = other.private_key_pem.bytes()
    files = {
        "cert.pem": other.cert_chain_pems[0].bytes(),
        "key.pem": private,
        "other.pem": authority.key.read_bytes(),
        "encrypted.pem": encrypted(private),
        "damaged.pem": b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
    }
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    settings = Settings(tls_cert=str(tmp_path / cert) if cert else "", tls_key=str(tmp_path / key) if key else "")
    with pytest.raises(CertificateError, match=message):
        tls_of(settings)


def test_the_command_ends_with_the_message(tmp_path: Path) -> None:
    """As for other settings, with exit code 2."""
    words = ("serve", "--port", "0", "--dead-letters", "memory:", "--tls-cert", str(tmp_path / "missing.pem"))
    done = forking.run(*words, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith("penstock serve: --tls-cert: ")


def test_a_key_may_be_in_the_file_of_the_certificate(tmp_path: Path) -> None:
    """And the time of expiry is that of the certificate."""
    expires = datetime(2031, 5, 6, 7, 8, 9, tzinfo=UTC)
    issued = trustme.CA().issue_cert("localhost", not_after=expires)
    (tmp_path / "both.pem").write_bytes(issued.private_key_and_cert_chain_pem.bytes())
    assert load_certificate(str(tmp_path / "both.pem"), "").expires == expires


def test_dead_letters_of_a_service_in_tls(server: Process, authority: Authority) -> None:
    """The own authority is named as for all programs that use OpenSSL; without it the message says how."""
    server.post({"orderId": 3})
    words = ("dead-letters", "list", "--url", f"https://127.0.0.1:{server.port}")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PENSTOCK_")}
    trusted = subprocess.run(  # not forked: aiohttp reads the authorities when it is imported
        [sys.executable, "-m", "penstock", *words],
        env=environment | {"SSL_CERT_FILE": str(authority.file)},
        capture_output=True,
        text=True,
    )
    assert (trusted.returncode, "InventoryUnavailable" in trusted.stdout) == (0, True), trusted.stderr
    refused = forking.run(*words, capture_output=True, text=True)
    assert refused.returncode == 1
    assert "SSL_CERT_FILE" in refused.stderr
