"""The certificate of `penstock serve`: checked at the start, read again after SIGHUP, used for new connections."""

from __future__ import annotations

import re
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import structlog

from penstock.settings import Settings, SettingsError
from penstock.support.tasks import to_thread_uncancellable

log: structlog.stdlib.BoundLogger = structlog.get_logger()

WARN_SECONDS = 14 * 86400
"""A certificate that expires sooner is warned of whenever it is read."""

_CERTIFICATE = re.compile(r"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)
_KEY = re.compile(r"-----BEGIN (?:[A-Z0-9]+ )*PRIVATE KEY-----")

_TIMES = {0x17: "%y%m%d%H%M%SZ", 0x18: "%Y%m%d%H%M%SZ"}
"""UTCTime, until 2049, and GeneralizedTime (RFC 5280, section 4.1.2.5)."""


class CertificateError(SettingsError):
    """The files of `--tls-cert` and `--tls-key` cannot be used."""


@dataclass(frozen=True, slots=True)
class Certificate:
    """A certificate and its key, ready for connections, and the time in which it is valid."""

    context: ssl.SSLContext
    valid_from: datetime
    expires: datetime

    def warn(self, now: datetime) -> None:
        """Log a warning if it is not valid now, or not for much longer. Clients decide what they accept."""
        times = {"valid_from": self.valid_from.isoformat(), "expires": self.expires.isoformat()}
        if now >= self.expires:
            log.warning("tls.certificate_expired", **times)
        elif now < self.valid_from:
            log.warning("tls.certificate_not_yet_valid", **times)
        elif (self.expires - now).total_seconds() < WARN_SECONDS:
            log.warning("tls.certificate_expires_soon", **times)


class Tls:
    """The certificate for new connections. Open ones keep the one that they began with. Raises `CertificateError`."""

    def __init__(self, cert: str, key: str) -> None:
        self._load = partial(load_certificate, cert, key)
        self._current = self._load()

    @property
    def context(self) -> ssl.SSLContext:
        """What new connections use."""
        return self._current.context

    def expires(self) -> float:
        """Return when the certificate expires, in seconds since 1970."""
        return self._current.expires.timestamp()

    def warn(self) -> None:
        """Log a warning if the certificate is not valid, or not for much longer."""
        self._current.warn(datetime.now(UTC))

    async def reload(self) -> None:
        """Read the files again. If they cannot be used, log why, and keep the certificate."""
        try:
            self._current = await to_thread_uncancellable(self._load)
        except CertificateError as error:
            log.error("tls.reload_failed", error=str(error), expires=self._current.expires.isoformat())
        else:
            log.info("tls.reloaded", expires=self._current.expires.isoformat())
            self.warn()


def tls_of(settings: Settings) -> Tls | None:
    """Return the certificate of the settings, or None without one. Raises `CertificateError`."""
    if settings.tls_cert:
        return Tls(settings.tls_cert, settings.tls_key)
    if settings.tls_key:
        raise CertificateError("--tls-key: expected --tls-cert too, the certificate that belongs to the key")
    return None


def load_certificate(cert: str, key: str) -> Certificate:
    """Read a certificate, with those that sign it, and its key, which may be in the same file.

    Raises `CertificateError`, which names the file and what is wrong with it.
    """
    chain = _CERTIFICATE.search(_read("--tls-cert", cert))
    if chain is None:
        raise CertificateError(f"--tls-cert: {cert}: expected a certificate in PEM (-----BEGIN CERTIFICATE-----)")
    if not _KEY.search(_read("--tls-key", key) if key else _read("--tls-cert", cert)):
        place = f"--tls-key: {key}: " if key else f"--tls-cert: {cert}: give its key with --tls-key; without that "
        raise CertificateError(f"{place}expected a private key in PEM (-----BEGIN PRIVATE KEY-----)")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION  # in TLS 1.2 a client can make the server work for nothing
    context.set_alpn_protocols(["http/1.1"])
    try:
        context.load_cert_chain(cert, key or None, password=_refuse_password)
        valid_from, expires = validity(ssl.PEM_cert_to_DER_cert(chain[0]))
    except ssl.SSLError as error:
        raise CertificateError(_problem(error, cert, key)) from error
    except (OSError, ValueError, IndexError) as error:
        raise CertificateError(f"--tls-cert: {cert}: {error}") from error
    return Certificate(context, valid_from, expires)


def validity(certificate: bytes) -> tuple[datetime, datetime]:
    """Return from when until when a certificate in DER is valid. Raises `ValueError` or `IndexError`.

    The standard library shows this only of certificates that it has verified. RFC 5280, section 4.1: the fields before
    it are the version, which has the tag 0xA0 and may be missing, the serial number, the algorithm and the issuer.
    """
    _, body = next(_parts(certificate))
    _, to_be_signed = next(_parts(body))
    fields = [content for tag, content in _parts(to_be_signed) if tag != 0xA0]
    valid_from, expires = (
        datetime.strptime(content.decode("ascii"), _TIMES[tag]).replace(tzinfo=UTC)
        for tag, content in _parts(fields[3])
    )
    return valid_from, expires


def _parts(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Split a sequence in DER into tags and contents."""
    at = 0
    while at < len(data):
        tag, length, at = data[at], data[at + 1], at + 2
        if length >= 0x80:  # the number of bytes that have the length
            at, length = at + length - 0x80, int.from_bytes(data[at : at + length - 0x80])
        yield tag, data[at : at + length]
        at += length


def _read(option: str, path: str) -> str:
    try:
        return Path(path).read_text(encoding="latin-1")
    except OSError as error:
        raise CertificateError(f"{option}: {path} cannot be read: {error.strerror}") from error


def _problem(error: ssl.SSLError, cert: str, key: str) -> str:
    """Say why OpenSSL does not take the files."""
    if error.reason == "KEY_VALUES_MISMATCH":
        files = f"the key in {key} does not belong to" if key else "the key does not belong to"
        return f"--tls-key: {files} the first certificate in {cert}; the certificate of this server comes first"
    reason = (error.reason or str(error)).lower().replace("_", " ")
    return f"--tls-cert: {cert}{f' with the key {key}' if key else ''} cannot be used: {reason}"


def _refuse_password() -> str:
    """Reject an encrypted key: OpenSSL would ask for its password on the terminal."""
    raise ValueError("the key is encrypted; decrypt it: openssl pkey -in KEY -out PLAIN")
