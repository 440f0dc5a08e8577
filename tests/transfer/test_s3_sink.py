"""S3Sink: objects and manifests in a real bucket."""

from __future__ import annotations

import asyncio
import re
import time
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from penstock import Flow, FlowDefinitionError, from_async_iterable, from_iterable
from penstock.errors import SinkWriteFailed
from penstock.graph import build_graph
from penstock.sinks import S3Sink, s3_objects
from servers import S3Server
from transfer.buckets import TestBucket
from waiting import until_async


@pytest.fixture
def bucket(s3_server: S3Server) -> TestBucket:
    """An empty bucket."""
    return TestBucket(s3_server)


@pytest.mark.parametrize(("compression", "suffix"), [(None, ""), ("gzip", ".gz"), ("zstd", ".zst")])
async def test_values_become_lines_of_objects(bucket: TestBucket, compression: Any, suffix: str) -> None:
    """Named by the template, and listed in a manifest that says that the session is over."""
    sink = S3Sink(bucket.url(), compression=compression, max_values=400, max_wait=0.2)
    summary = await Flow("out").window(1000).to(sink).run(from_iterable({"n": n} for n in range(1000)))
    assert (summary.ok, summary.failed) == (1000, 0)
    keys = bucket.objects()
    assert all(re.fullmatch(rf"out/\d{{4}}-\d\d-\d\d/[0-9a-f-]{{36}}\.ndjson{suffix}", key) for key in keys)
    assert bucket.values() == [{"n": n} for n in range(1000)]
    (manifest,) = bucket.manifests()
    assert (manifest["sealed"], manifest["last"], manifest["number"]) == (True, True, 1)
    sizes = {found["path"]: found["size"] for found in bucket.client.list("out").collect()}
    assert [(each["key"], each["bytes"]) for each in manifest["objects"]] == [(key, sizes[key]) for key in keys]
    assert [each["values"] for each in manifest["objects"]] == [400, 400, 200]


async def test_a_value_that_is_no_json_fails_alone(bucket: TestBucket) -> None:
    """The others of its object are stored."""
    values = [1, float("nan"), 3, object(), 5]
    summary = await Flow("out").to(S3Sink(bucket.url(), max_wait=0)).run(from_iterable(values))
    assert (summary.ok, summary.failed) == (3, 2)
    assert bucket.values() == [1, 3, 5]


async def test_an_object_is_divided_by_size(bucket: TestBucket) -> None:
    """A large one is uploaded in parts, and arrives complete."""
    values = ["x" * 900_000 + str(number) for number in range(40)]
    sink = S3Sink(bucket.url(), max_bytes=20_000_000)
    await sink.open()
    assert await sink.write(values) is None
    assert await sink.write(["y" * 30_000_000]) is None
    await sink.aclose()
    assert bucket.values() == [*values, "y" * 30_000_000]
    assert [each["values"] for each in bucket.manifests()[0]["objects"]] == [22, 18, 1]


async def test_an_object_is_written_after_max_wait(bucket: TestBucket) -> None:
    """Although more values could come; until then its elements are in flight."""
    first = asyncio.Event()

    async def values() -> Any:
        yield 1
        yield 2
        await first.wait()
        yield 3

    flow = Flow("out").to(S3Sink(bucket.url(), max_wait=0.5))
    results = aiter(flow.stream(from_async_iterable(values())))
    begun = time.monotonic()
    found = [(await anext(results)).value, (await anext(results)).value]
    assert time.monotonic() - begun >= 0.5
    assert found == bucket.values() == [1, 2]
    first.set()
    assert [result.value async for result in results] == [3]


async def test_a_full_window_does_not_wait(bucket: TestBucket) -> None:
    """All elements that the run can hold have arrived, so no others will come until they are written."""
    begun = time.monotonic()
    flow = Flow("out").window(50).to(S3Sink(bucket.url(), max_wait=30))
    summary = await flow.run(from_iterable(range(500)))
    assert time.monotonic() - begun < 15
    assert summary.ok == 500
    assert [each["values"] for each in bucket.manifests()[0]["objects"]] == [50] * 10


async def test_long_sessions_have_several_manifests(bucket: TestBucket, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each lists the next objects; all but the last are sealed while the session goes on."""
    monkeypatch.setattr(s3_objects, "MANIFEST_OBJECTS", 3)
    sink = S3Sink(bucket.url())
    await sink.open()
    for number in range(7):
        await sink.write([number])
    found = bucket.manifests()
    assert [(each["number"], len(each["objects"]), each["sealed"]) for each in found] == [
        (1, 3, True),
        (2, 3, True),
        (3, 1, False),
    ]
    await sink.aclose()
    assert [each["last"] for each in bucket.manifests()] == [False, False, True]
    assert len({each["session"] for each in found}) == 1


async def test_a_killed_server(bucket: TestBucket) -> None:
    """Writes wait for its restart. Each value is stored once, in objects that a manifest lists."""
    sink = S3Sink(bucket.url(), max_values=100, max_wait=0)
    sent = 0

    def values() -> Any:
        nonlocal sent
        while sent < 3000:
            yield sent
            sent += 1

    flow = Flow("out").window(100).to(sink)

    async def failures() -> list[str]:
        return [str(result) async for result in flow.stream(from_iterable(values())) if not result.ok]

    failed = asyncio.create_task(failures())
    while sent < 500:
        await asyncio.sleep(0.005)
    await asyncio.to_thread(bucket.server.restart)
    assert await failed == []
    listed = [each["key"] for manifest in bucket.manifests() for each in manifest["objects"]]
    assert sorted(listed) == bucket.objects()
    assert sorted(bucket.values()) == list(range(3000))


async def test_an_unreachable_server(bucket: TestBucket, monkeypatch: pytest.MonkeyPatch) -> None:
    """The elements fail; the message has the reason and no key. Later writes work."""
    sink = S3Sink(bucket.url(), max_wait=0)
    await sink.open()
    await sink.write([1])
    monkeypatch.setattr(sink._writer, "_put", _refuse)
    errors = await sink.write([2, 3])
    monkeypatch.undo()
    assert [str(error) for error in errors or ()] == [
        f"s3://{bucket.name}/out?endpoint={bucket.server.endpoint}&access_key_id=***&secret_access_key=*** cannot be "
        "written to: no connection"
    ] * 2
    assert await sink.write([4]) is None
    await sink.aclose()
    assert bucket.values() == [1, 4]


async def _refuse(*_: object) -> Any:
    raise ConnectionError("no connection")


async def test_a_cancelled_write_leaves_nothing(bucket: TestBucket, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its objects are deleted, no manifest lists them, and no task is left."""
    before = asyncio.all_tasks()
    put = s3_objects.ObjectWriter._put_manifest
    opened = False

    async def slow(self: Any) -> None:
        nonlocal opened
        if opened and self._manifest.objects and not self._manifest.sealed:
            await asyncio.sleep(60)
        opened = True
        await put(self)

    monkeypatch.setattr(s3_objects.ObjectWriter, "_put_manifest", slow)
    run = Flow("out").to(S3Sink(bucket.url(), max_wait=0)).start(from_iterable([1, 2]))
    await until_async(bucket.objects)
    run.abort()
    summary = await run.finished
    await asyncio.sleep(0)
    assert summary.cancelled == 2
    assert bucket.keys() == []
    assert asyncio.all_tasks() == before


async def test_opening_a_bucket_that_does_not_exist(bucket: TestBucket) -> None:
    """Fails with the reason."""
    with pytest.raises(SinkWriteFailed, match=r"missing-bucket is denied, or it does not exist"):
        await S3Sink(f"s3://missing-bucket/x?{bucket.options}").open()


async def test_the_secret_is_not_shown(bucket: TestBucket) -> None:
    """Neither in graphs nor in logs."""
    flow = Flow("out").to(S3Sink(f"s3://missing-bucket/x?{bucket.options}"))
    with capture_logs() as logs:
        summary = await flow.run(from_iterable([1]))
    assert summary.failed == 1
    assert "s3cret" not in str(logs)
    assert any(entry["event"] == "sink.open_failed" for entry in logs)
    assert "s3cret" not in str(build_graph(flow))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"url": "http://x"}, "expected s3://BUCKET"),
        ({"url": "s3://bucket/x?colour=red"}, "unknown option 'colour'"),
        ({"template": "{date}.ndjson"}, "template: expected text with {id}"),
        ({"template": "{id}{name}"}, "template: expected text with {id}"),
        ({"template": "_x/{id}"}, "may not begin with /, _ or"),
        ({"compression": "bz2"}, "compression: expected gzip or zstd"),
        ({"max_values": 0}, "max_values: expected an integer >= 1"),
        ({"max_wait": float("nan")}, "max_wait: expected a number"),
    ],
)
def test_invalid_settings(options: dict[str, Any], message: str) -> None:
    """They are found when the sink is made."""
    with pytest.raises(FlowDefinitionError, match=re.escape(message)):
        S3Sink(**({"url": "s3://bucket/x"} | options))


def test_a_url_may_have_variables(tmp_path: Path) -> None:
    """They are substituted when the sink is opened."""
    assert S3Sink("s3://${BUCKET}/x").url == "s3://${BUCKET}/x"
