"""S3Source: the objects of a real bucket, with a checkpoint."""

from __future__ import annotations

import asyncio
import gzip
import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from backports import zstd
from structlog.testing import capture_logs

import forking
from penstock import Flow, FlowDefinitionError, RunError, from_iterable
from penstock.deadletters.memory import MemoryStore
from penstock.sinks import S3Sink
from penstock.sources import S3Source, s3_reader
from servers import S3Server
from transfer.buckets import TestBucket


@pytest.fixture
def bucket(s3_server: S3Server) -> TestBucket:
    """An empty bucket."""
    return TestBucket(s3_server)


def lines(*values: Any) -> bytes:
    """NDJSON."""
    return b"".join(json.dumps(value).encode() + b"\n" for value in values)


async def values_of(source: S3Source, flow: Flow[Any] | None = None) -> list[Any]:
    """The results of one run."""
    return [result.value for result in [each async for each in (flow or Flow("in")).stream(source)] if result.ok]


def state_of(bucket: TestBucket, name: str = "penstock") -> dict[str, Any]:
    """The content of a checkpoint."""
    return json.loads(bucket.get(f"in/_checkpoints/{name}.json"))


async def test_objects_are_read_in_the_order_of_their_keys(bucket: TestBucket) -> None:
    """Compressed or not, NDJSON or CSV; hidden ones are not read."""
    bucket.put("in/b.ndjson", lines(3, 4))
    bucket.put("in/a/x.ndjson.gz", gzip.compress(lines(1)) + gzip.compress(lines(2)))
    bucket.put("in/c.csv", "id,name\n5,x\n")
    bucket.put("in/d.jsonl.zst", zstd.compress(lines(6)))
    bucket.put("in/e.csv.gz", gzip.compress(b"id\n7"))
    bucket.put("in/_hidden/f.ndjson", lines(99))
    bucket.put("in/.g.ndjson", lines(99))
    bucket.put("inside/h.ndjson", lines(99))
    bucket.put("in/empty.ndjson", b"")
    source = S3Source(bucket.url("in"))
    assert await values_of(source) == [1, 2, 3, 4, {"id": "5", "name": "x"}, 6, {"id": "7"}]
    assert sorted(state_of(bucket)["done"]) == [
        f"in/{name}" for name in ("a/x.ndjson.gz", "b.ndjson", "c.csv", "d.jsonl.zst", "e.csv.gz", "empty.ndjson")
    ]


async def test_each_object_is_read_once(bucket: TestBucket) -> None:
    """The next run reads new and replaced ones; another checkpoint reads all."""
    source = S3Source(bucket.url("in"))
    bucket.put("in/b.ndjson", lines(1))
    assert await values_of(source) == [1]
    assert await values_of(source) == []
    bucket.put("in/a.ndjson", lines(2))
    bucket.put("in/c.ndjson", lines(3))
    assert await values_of(source) == [2, 3]
    bucket.put("in/b.ndjson", lines(4))
    assert await values_of(source) == [4]
    assert await values_of(S3Source(bucket.url("in"), checkpoint="other")) == [2, 4, 3]
    bucket.client.delete("in/a.ndjson")
    bucket.put("in/d.ndjson", lines(5))
    await values_of(source)
    assert sorted(state_of(bucket)["done"]) == ["in/b.ndjson", "in/c.ndjson", "in/d.ndjson"]


async def test_a_format_for_other_names(bucket: TestBucket) -> None:
    """Without it they are reported, and read by a later run that has it."""
    bucket.put("in/data", lines(1))
    with capture_logs() as logs:
        assert await values_of(S3Source(bucket.url("in"))) == []
    assert [entry["object"] for entry in logs if entry["event"] == "s3.unknown_format"] == ["in/data"]
    assert await values_of(S3Source(bucket.url("in"), format="ndjson")) == [1]  # type: ignore[arg-type]


async def test_an_invalid_line_fails_alone(bucket: TestBucket) -> None:
    """Its dead letter is stored, and the object is done."""
    bucket.put("in/a.ndjson", b'1\n{"x\n3\n')
    store = MemoryStore()
    assert await values_of(S3Source(bucket.url("in")), Flow("in").dead_letters(store)) == [1, 3]
    assert list(state_of(bucket)["done"]) == ["in/a.ndjson"]


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("b.ndjson.gz", gzip.compress(lines(*range(5)), mtime=0)[:-4], "cut off"),
        ("b.ndjson.gz", b"no gzip", "cannot be decompressed"),
        ("b.ndjson.zst", zstd.compress(lines(1))[:-1], "cut off"),
        ("b.csv", b"id,id\n1,2\n", "names the field 'id' twice"),
    ],
    ids=["gzip cut off", "no gzip", "zstd cut off", "header"],
)
async def test_a_damaged_object_fails_alone(bucket: TestBucket, name: str, content: bytes, reason: str) -> None:
    """It is logged and recorded, not read again, and does not stop the others."""
    bucket.put("in/a.ndjson", lines(1))
    bucket.put(f"in/{name}", content)
    bucket.put("in/c.ndjson", lines(2))
    source = S3Source(bucket.url("in"))
    with capture_logs() as logs:
        found = await values_of(source)
        assert (found[0], found[-1]) == (1, 2)
        assert await values_of(source) == []
    (entry,) = [entry for entry in logs if entry["event"] == "s3.object_failed"]
    assert reason in entry["error"]
    assert reason in state_of(bucket)["failed"][f"in/{name}"]["error"]


async def test_a_large_object_is_not_read_ahead(bucket: TestBucket, monkeypatch: pytest.MonkeyPatch) -> None:
    """While the flow is slow, the source reads no more than a chunk ahead."""
    monkeypatch.setattr(s3_reader, "CHUNK", 10_000)
    get, read = s3_reader.S3Reader._get, 0

    async def counted(self: Any, found: Any, start: int, end: int) -> bytes:
        nonlocal read
        read += end - start
        return await get(self, found, start, end)

    monkeypatch.setattr(s3_reader.S3Reader, "_get", counted)
    content = lines(*(f"{number:0100}" for number in range(20_000)))
    bucket.put("in/a.ndjson", content)
    settled = 0

    async for result in Flow("in").window(20).stream(S3Source(bucket.url("in"))):
        assert result.value == f"{settled:0100}"
        settled += 1
        if settled % 1000 == 0:
            assert read <= settled * 103 + 3 * 10_000
    assert (settled, read) == (20_000, len(content))


async def interrupted(bucket: TestBucket, how: str, after: int, **options: Any) -> list[Any]:
    """Start a run, and stop it after some results. The results that it has reported."""
    reported: list[Any] = []

    async def slow(value: Any) -> Any:
        await asyncio.sleep(0.001)
        reported.append(value)
        return value

    run = Flow("in").window(32).map_async(slow, max_in_flight=8).start(S3Source(bucket.url("in"), **options))
    while len(reported) < after:
        await asyncio.sleep(0.002)
    getattr(run, how)()
    await run.finished
    return reported


@pytest.mark.parametrize("how", ["drain", "abort"])
async def test_an_interrupted_run_is_continued(bucket: TestBucket, how: str) -> None:
    """In the middle of an object. Nothing is lost; only what was in flight is repeated, and nothing after a drain."""
    for number in range(4):
        bucket.put(f"in/{number}.ndjson.gz", gzip.compress(lines(*range(number * 500, number * 500 + 500))))
    before = asyncio.all_tasks()
    first = await interrupted(bucket, how, 700)
    assert asyncio.all_tasks() == before
    second = await values_of(S3Source(bucket.url("in")))
    counts = Counter(first + second)
    assert sorted(counts) == list(range(2000))
    assert sum(counts.values()) - 2000 <= (0 if how == "drain" else 32)
    assert await values_of(S3Source(bucket.url("in"))) == []


async def test_a_checkpoint_is_saved_during_the_run(bucket: TestBucket, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a killed process repeats little."""
    monkeypatch.setattr(s3_reader, "SAVE_SECONDS", 0.05)
    bucket.put("in/a.ndjson", lines(*range(500)))
    bucket.put("in/b.ndjson", lines(*range(500, 2000)))
    saved = 0
    async for result in Flow("in").window(10).stream(S3Source(bucket.url("in"))):
        if result.value > 100 and result.value % 100 == 0:
            await asyncio.sleep(0.2)
            state = state_of(bucket)
            saved = state["partial"].get("in/b.ndjson", {}).get("lines", 0) + 500 * ("in/a.ndjson" in state["done"])
            saved = saved or state["partial"]["in/a.ndjson"]["lines"]
            assert result.value - 30 <= saved <= result.value + 1
    assert saved > 1800


async def test_two_runs_with_one_checkpoint(bucket: TestBucket, monkeypatch: pytest.MonkeyPatch) -> None:
    """One of them fails, and says why."""
    monkeypatch.setattr(s3_reader, "SAVE_SECONDS", 0.01)
    bucket.put("in/a.ndjson", lines(*range(5000)))

    async def slow(value: Any) -> Any:
        await asyncio.sleep(0.01)
        return value

    flow = Flow("in").map_async(slow, max_in_flight=32)
    found = await asyncio.gather(*(flow.run(S3Source(bucket.url("in"))) for _ in range(2)), return_exceptions=True)
    errors = [each for each in found if isinstance(each, BaseException)]
    summaries = [each for each in found if not isinstance(each, BaseException)]
    failed = [str(error) for error in errors] + [str(each.error) for each in summaries if getattr(each, "error", None)]
    assert len(failed) == 1
    assert "another run changed the checkpoint in/_checkpoints/penstock.json" in failed[0]


async def test_a_killed_server(bucket: TestBucket) -> None:
    """Reading continues after its restart."""
    for number in range(10):
        bucket.put(f"in/{number}.ndjson", lines(*range(number * 300, number * 300 + 300)))
    found: list[Any] = []
    restart: asyncio.Future[None] | None = None
    async for result in Flow("in").window(16).stream(S3Source(bucket.url("in"))):
        found.append(result.value)
        if len(found) == 700:
            restart = asyncio.ensure_future(asyncio.to_thread(bucket.server.restart))
        await asyncio.sleep(0)
    assert restart is not None
    await restart
    assert found == list(range(3000))
    assert len(state_of(bucket)["done"]) == 10


@pytest.mark.long
async def test_a_killed_process(bucket: TestBucket, tmp_path: Path) -> None:
    """Nothing is lost. What it has done since its last save, and what was in flight, is repeated."""
    for number in range(5):
        bucket.put(f"in/{number}.ndjson", lines(*range(number * 2000, number * 2000 + 2000)))
    file = tmp_path / "values"
    file.touch()
    kills = 0
    while True:
        known = file.read_bytes().count(b"\n")
        worker = forking.start_python(str(Path(__file__).with_name("s3_worker.py")), bucket.url("in"), str(file))
        ended = asyncio.ensure_future(asyncio.to_thread(worker.wait))
        while not ended.done() and (kills == 3 or file.read_bytes().count(b"\n") < known + 2500):
            await asyncio.sleep(0.01)
        if ended.done():
            break
        worker.kill()
        kills += 1
        await ended
    assert (kills, ended.result()) == (3, 0)
    counts = Counter(map(int, file.read_bytes().split()))
    assert sorted(counts) == list(range(10_000))
    assert 0 < sum(counts.values()) - 10_000 < 3 * 3000  # a process is killed after about 2,500 values
    assert await values_of(S3Source(bucket.url("in"))) == []


async def test_what_a_sink_writes_a_source_reads(bucket: TestBucket) -> None:
    """Without its manifests."""
    await (
        Flow("out")
        .to(S3Sink(bucket.url("in"), compression="zstd", max_wait=0))
        .run(from_iterable({"n": n} for n in range(100)))
    )
    assert await values_of(S3Source(bucket.url("in"))) == [{"n": n} for n in range(100)]


async def test_a_bucket_that_does_not_exist(bucket: TestBucket) -> None:
    """The run fails with the reason, without the keys."""
    with pytest.raises(
        RunError, match=r"s3://missing-bucket/in cannot be read: there is no bucket missing-bucket"
    ) as caught:
        await values_of(S3Source(f"s3://missing-bucket/in?{bucket.options}"))
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"url": "http://x"}, "expected s3://BUCKET"),
        ({"format": "xml"}, "format: expected one of ndjson, csv"),
        ({"checkpoint": "a/b"}, "checkpoint: expected letters"),
        ({"format": "ndjson", "delimiter": ";"}, "delimiter: expected only with CSV"),
    ],
)
def test_invalid_settings(options: dict[str, Any], message: str) -> None:
    """They are found when the source is made."""
    with pytest.raises(FlowDefinitionError, match=re.escape(message)):
        S3Source(**({"url": "s3://bucket/x"} | options))
