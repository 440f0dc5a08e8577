"""Why a connection failed, without the host: it may come from a variable, and errors are read by more people."""

from __future__ import annotations

import os
import socket
import ssl

import aiohttp

from penstock.errors import describe

MISFITS = (62, 63, 64)
"""What OpenSSL says of a certificate for another host, e-mail or IP address (X509_V_ERR_…_MISMATCH)."""


def reason_of(error: Exception) -> str:
    """What went wrong, in one line."""
    match error:
        case aiohttp.InvalidURL() | aiohttp.NonHttpUrlClientError():
            return "its URL is no address of HTTP"
        case aiohttp.ClientResponseError():
            return error.message
        case aiohttp.ClientConnectorCertificateError():
            return reason_of(error.certificate_error)
        case aiohttp.ClientConnectorError():
            return reason_of(error.os_error)
        case ssl.SSLCertVerificationError():
            return "its certificate is for another host" if error.verify_code in MISFITS else error.verify_message
        case socket.gaierror() | ssl.SSLError():
            return error.strerror or type(error).__name__
        case OSError():
            # asyncio puts the address into `strerror`; of several addresses that all failed there is no number
            return os.strerror(error.errno) if error.errno else _without_number(error)
        case _:
            return describe(error)


def _without_number(error: OSError) -> str:
    """An error of asyncio or aiohttp: what aiohttp says names no host, what asyncio says does."""
    return describe(error) if isinstance(error, aiohttp.ClientError) else "no connection could be made"
