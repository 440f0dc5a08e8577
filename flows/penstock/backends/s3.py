"""Access to one bucket of an S3-compatible server."""

from __future__ import annotations

import asyncio
import os
import re
import time
from collections.abc import Awaitable, Callable, Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, TypeVar

from obstore.exceptions import (
    AlreadyExistsError,
    BaseError,
    NotModifiedError,
    PermissionDeniedError,
    PreconditionError,
    UnauthenticatedError,
)
from obstore.store import S3Store as Bucket

from penstock.errors import describe
from penstock.support.logger import get_logger

if TYPE_CHECKING:
    from obstore.store import S3Config

T = TypeVar("T")

log = get_logger()

REQUEST_SECONDS = 15.0
"""Timeout of one request."""

RETRY_SECONDS = 20.0
"""Time for a request with its retries. The client's default, 180 s, would keep its caller waiting for too long."""

INSTANCE_METADATA = re.compile(r"https?://[^/\s]+/latest/(?:api/token|meta-data)")
"""The addresses at which instances of AWS give keys."""
_MISSING = "status code: 404"
"""In the error of a listing, if there is no bucket."""

_REFUSED = re.compile(r"status code: 4(?!08|29)\d\d")
"""In errors of the client that have no class of their own, if the server has refused the request."""

_ANSWERS = (
    AlreadyExistsError,
    FileNotFoundError,
    NotModifiedError,
    PermissionDeniedError,
    PreconditionError,
    UnauthenticatedError,
    ValueError,
)
"""Errors that another attempt would get too."""


def open_bucket(name: str, options: Mapping[str, str]) -> Bucket:
    """Return a client for a bucket. Options that are not given come from the variables that AWS tools use.

    These are AWS_ENDPOINT_URL, AWS_REGION, AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN, and in their
    absence the roles of containers and instances.
    """
    endpoint = options.get("endpoint") or os.environ.get("AWS_ENDPOINT_URL") or os.environ.get("AWS_ENDPOINT") or ""
    region = options.get("region") or os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    config: S3Config = {"region": region or "us-east-1"}
    if endpoint:
        config["endpoint"] = endpoint
    if "access_key_id" in options:
        config["access_key_id"] = options["access_key_id"]
    if "secret_access_key" in options:
        config["secret_access_key"] = options["secret_access_key"]
    if "session_token" in options:
        config["session_token"] = options["session_token"]
    return Bucket(
        name,
        config=config,
        client_options={
            "timeout": timedelta(seconds=REQUEST_SECONDS),
            "connect_timeout": timedelta(seconds=5),
            "allow_http": endpoint.startswith("http://"),
        },
        retry_config={"max_retries": 10, "retry_timeout": timedelta(seconds=RETRY_SECONDS)},
    )


def advice_of(error: Exception, bucket: str) -> tuple[str, bool] | None:
    """Return what to do about an error of a bucket, and whether it recurs until then. None for other errors."""
    if isinstance(error, FileNotFoundError) or (isinstance(error, BaseError) and _MISSING in str(error)):
        return f"there is no bucket {bucket}; create it, or name another one", True
    if isinstance(error, (PermissionDeniedError, UnauthenticatedError)):
        return (
            f"access to the bucket {bucket} is denied, or it does not exist; check the credentials "
            "(AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY) and their permissions to list, read and write",
            True,
        )
    if isinstance(error, BaseError) and INSTANCE_METADATA.search(str(error)):  # where the client asks last
        return (
            "there are no keys, and this machine has no role that gives them; set AWS_ACCESS_KEY_ID and "
            "AWS_SECRET_ACCESS_KEY",
            True,
        )
    if isinstance(error, BaseError):  # its text has several lines for debugging, and repeats the address
        return f"the request failed: {_first_line(error)}", False
    return None


def is_unreachable(error: Exception) -> bool:
    """Return whether the server cannot be reached, or cannot work now: another attempt may succeed."""
    if isinstance(error, BaseError) and not isinstance(error, _ANSWERS):
        return not _is_hopeless(str(error))
    return isinstance(error, (ConnectionError, TimeoutError))


async def repeat(request: Callable[[], Awaitable[T]], seconds: float = RETRY_SECONDS) -> T:
    """Make a request that may be repeated, and repeat it for up to `seconds` while the server does not answer it.

    The client makes ten attempts, but these are over in two seconds if connections are refused.
    """
    give_up_at = time.monotonic() + seconds
    wait = 0.1
    while True:
        try:
            return await request()
        except _ANSWERS:
            raise
        except Exception as error:
            if _is_hopeless(str(error)) or time.monotonic() + wait > give_up_at:
                raise
            log.warning("s3.request_repeated", error=_first_line(error), retry_in=wait)
        await asyncio.sleep(wait)
        wait = min(2 * wait, 2.0)


def _is_hopeless(text: str) -> bool:
    return bool(_REFUSED.search(text) or INSTANCE_METADATA.search(text))


def _first_line(error: Exception) -> str:
    """Return the message of an error without the lines for debugging, which repeat the address."""
    return (str(error).splitlines() or [describe(error)])[0]
