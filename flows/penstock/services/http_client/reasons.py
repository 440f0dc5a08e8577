"""Why a connection failed, in one line without the host."""

from __future__ import annotations

import os
import socket
import ssl

from penstock.errors import describe
from penstock.services.http_client.exchange import ExchangeFailed

HOSTNAME_MISMATCHES = (62, 63, 64)
"""OpenSSL's codes for a certificate of another host, e-mail or IP address (X509_V_ERR_…_MISMATCH)."""


def connection_error_reason(error: Exception) -> str:
    """Describe a connection error in one line, without the host.

    The host may come from a variable of the environment, and errors are read by more people than may know it.
    """
    match error:
        case ExchangeFailed():
            return error.reason
        case ssl.SSLCertVerificationError():
            mismatch = error.verify_code in HOSTNAME_MISMATCHES
            return "its certificate is for another host" if mismatch else error.verify_message
        case socket.gaierror() | ssl.SSLError():
            return error.strerror or type(error).__name__
        case OSError():
            # `strerror` of asyncio contains the address. If several addresses failed, there is no `errno`.
            return os.strerror(error.errno) if error.errno else "no connection could be made"
        case _:
            return describe(error)
