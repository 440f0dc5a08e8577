"""Access to one bucket of an S3-compatible server."""

from __future__ import annotations

import os
from collections.abc import Mapping
from datetime import timedelta
from typing import TYPE_CHECKING

from obstore.store import S3Store as Bucket

if TYPE_CHECKING:
    from obstore.store import S3Config

REQUEST_SECONDS = 15.0
"""Timeout of one request."""

RETRY_SECONDS = 20.0
"""Time for a request with its retries. The client's default, 180 s, would keep its caller waiting for too long."""


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
