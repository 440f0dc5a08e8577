"""What a command says that has no keys for a bucket, and how a command that used a bucket ends."""

import subprocess
import sys

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from penstock.deadletters.s3 import S3Store
from penstock.errors import StoreError

VARIABLES = ("ACCESS_KEY_ID", "SECRET_ACCESS_KEY", "CONTAINER_CREDENTIALS_RELATIVE_URI", "WEB_IDENTITY_TOKEN_FILE")

COMMAND = """
import atexit, os, sys
import obstore
from penstock.cli.main import main
atexit.register(os.abort)  # as the threads of the client do sometimes
sys.argv = ["penstock", "--version"]
sys.exit(main())
"""


async def test_missing_keys_are_reported(monkeypatch):
    """Without keys the client asks an address of AWS for them, which says nothing to users."""

    async def refuse(_):
        return web.Response(status=403)

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", refuse)
    for name in VARIABLES:
        monkeypatch.delenv(f"AWS_{name}", raising=False)
    async with TestServer(app) as server:
        monkeypatch.setenv("AWS_METADATA_ENDPOINT", str(server.make_url("")).rstrip("/"))
        store = S3Store("s3://bucket/x?endpoint=http://127.0.0.1:9", create=True, display_url="s3://bucket/x")
        with pytest.raises(StoreError, match=r"there are no keys, .*; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"):
            await store.open()
        await store.aclose()


def test_a_command_that_used_a_bucket_ends_with_its_exit_code():
    """Threads of the client may abort the process while the interpreter ends."""
    ended = subprocess.run([sys.executable, "-c", COMMAND], capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout.startswith("penstock ")
