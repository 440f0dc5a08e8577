"""Buckets of a real S3 server, for tests."""

from __future__ import annotations

import gzip
import json
from typing import Any

from backports import zstd
from obstore.store import S3Store

from servers import S3Server


class TestBucket:
    """An empty bucket, and an independent client of it."""

    __test__ = False

    def __init__(self, server: S3Server) -> None:
        self.server = server
        self.name = server.new_bucket()
        keys = "access_key_id=test&secret_access_key=s3cret"
        self.options = f"endpoint={server.endpoint}&{keys}"
        self.client = S3Store(
            self.name,
            config={
                "endpoint": server.endpoint,
                "region": "us-east-1",
                "access_key_id": "test",
                "secret_access_key": "x",
            },
            client_options={"allow_http": True},
        )

    def url(self, prefix: str = "out") -> str:
        """The URL of a prefix."""
        return f"s3://{self.name}/{prefix}?{self.options}"

    def keys(self, prefix: str | None = None) -> list[str]:
        """All keys, sorted."""
        return sorted(found["path"] for found in self.client.list(prefix).collect())

    def objects(self, prefix: str = "out") -> list[str]:
        """The keys below a prefix that are not hidden."""
        return [key for key in self.keys(prefix) if "/_" not in key]

    def put(self, key: str, content: bytes | str) -> None:
        """Write an object."""
        self.client.put(key, content.encode() if isinstance(content, str) else content)

    def get(self, key: str) -> bytes:
        """Read an object, decompressed by its name."""
        content = bytes(self.client.get(key).bytes())
        if key.endswith(".gz"):
            return gzip.decompress(content)
        return zstd.decompress(content) if key.endswith(".zst") else content

    def lines(self, key: str) -> list[Any]:
        """The values of an object."""
        return [json.loads(line) for line in self.get(key).splitlines()]

    def values(self, prefix: str = "out") -> list[Any]:
        """The values of all objects below a prefix."""
        return [value for key in self.objects(prefix) for value in self.lines(key)]

    def manifests(self, prefix: str = "out") -> list[dict[str, Any]]:
        """The manifests of a sink."""
        return [json.loads(self.get(key)) for key in self.keys(f"{prefix}/_manifests")]
