"""Files that other processes left incomplete: what is incomplete is moved to FILE.torn, damage is left alone."""

from __future__ import annotations

import gzip
import os
import signal
import stat
from pathlib import Path

import pytest
from structlog.testing import capture_logs

import forking
from flows.test_files import SECONDS, really
from flows.test_outlets import contents, put, written
from penstock.errors import SinkWriteFailed
from penstock.formats.format import Format
from penstock.sinks import FileSink
from penstock.sinks.torn_tail import CHUNK, is_complete_gzip

WHOLE = {"a.ndjson": b'{"a":"1"}\n', "a.csv": b'a,b\r\n"x\r\ny",1\r\n'}


@pytest.mark.parametrize(
    ("name", "torn"),
    [("a.ndjson", b'{"a":'), ("a.ndjson", b"x" * 600_000), ("a.csv", b"2"), ("a.csv", b'"2\r\n3\r\n')],
)
def test_an_incomplete_last_line_is_moved(tmp_path: Path, name: str, torn: bytes) -> None:
    """No new line is appended to a part of one; that part is in FILE.torn, and the log says so."""
    path = tmp_path / name
    data = WHOLE[name] * 1000 if name == "a.ndjson" else WHOLE[name]
    whole = len(data)
    path.write_bytes(data + torn)
    with capture_logs() as logs:
        really(put(FileSink(path), [{"a": "last", "b": "0"}]))

    assert contents(path)[:whole] == data
    assert contents(path)[whole:] in (b'{"a":"last","b":"0"}\n', b"last,0\r\n")
    assert [entry["moved_bytes"] for entry in logs if entry["event"] == "sink.torn_tail_moved"] == [len(torn)]
    assert path.with_name(f"{path.name}.torn").read_bytes() == torn + b"\n"


@pytest.mark.parametrize("name", ["a.ndjson.gz", "a.csv.gz"])
def test_a_compressed_file_of_a_killed_process_is_moved(tmp_path: Path, name: str) -> None:
    """After kill -9 a new file is started; the old one can be read up to the last write."""
    path, torn = tmp_path / name, tmp_path / f"{name}.torn"
    program = f"""
import asyncio, os, signal
from penstock.sinks import FileSink

async def main():
    outlet = FileSink({str(path)!r})
    await outlet.open()
    for number in range(50):
        await outlet.write([{{"id": str(number)}}])
    os.kill(os.getpid(), signal.SIGKILL)

asyncio.run(main())
"""
    died = forking.complete(forking.start_python("-c", program), timeout=SECONDS)
    assert died.returncode == -signal.SIGKILL
    data = path.read_bytes()
    with pytest.raises(EOFError):
        gzip.decompress(data)
    with capture_logs() as logs:
        really(put(FileSink(path), [{"id": "50"}]))

    assert written(path) == [{"id": "50"}]
    assert torn.read_bytes() == data
    (entry,) = (entry for entry in logs if entry["event"] == "sink.torn_tail_moved")
    assert (entry["moved_bytes"], entry["moved_to"]) == (len(data), str(torn))


def test_a_file_that_was_moved_earlier_is_kept(tmp_path: Path) -> None:
    """The next one gets another name."""
    path = tmp_path / "a.ndjson.gz"
    for number in range(3):
        path.write_bytes(MEMBERS[number][:-1])
        with capture_logs():
            really(put(FileSink(path), [{"id": "5"}]))

    torn = [f"{path}.torn", f"{path}.torn-2", f"{path}.torn-3"]
    assert [Path(name).read_bytes() for name in torn] == [member[:-1] for member in MEMBERS[:3]]


@pytest.mark.parametrize("name", ["a.ndjson.gz", "a.csv.gz"])
def test_a_compressed_file_with_an_incomplete_last_line_is_moved(tmp_path: Path, name: str) -> None:
    """All its members may be complete nevertheless."""
    path = tmp_path / name
    data = gzip.compress(WHOLE[name.removesuffix(".gz")] + b'"x')
    path.write_bytes(data)
    with capture_logs():
        really(put(FileSink(path), [{"id": "5"}]))

    assert written(path) == [{"id": "5"}]
    assert path.with_name(f"{name}.torn").read_bytes() == data


MEMBERS = [gzip.compress(b'{"id":"%d"}\n' % number, mtime=0) for number in range(5)]


def flipped(data: bytes, place: int) -> bytes:
    """With a bit changed at a place."""
    return data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]


@pytest.mark.parametrize(
    "data",
    [
        b'{"precious":1}\n' * 3,
        flipped(MEMBERS[0], -6) + b"".join(MEMBERS[1:]),
        MEMBERS[0] + b"garbage" + MEMBERS[1],
        flipped(MEMBERS[0], -1),
    ],
    ids=["plain", "flipped", "between", "length"],
)
def test_what_is_no_whole_gzip_file_is_left_alone(tmp_path: Path, data: bytes) -> None:
    """A file that is damaged, and not only cut off, is refused with the way out; every byte of it stays."""
    path = tmp_path / "a.ndjson.gz"
    path.write_bytes(data)
    with pytest.raises(SinkWriteFailed, match="not a gzip file, or it is damaged; move it away"):
        really(put(FileSink(path), [{"id": "5"}]))

    assert path.read_bytes() == data
    assert os.listdir(tmp_path) == [path.name]


@pytest.mark.parametrize("kept", range(1, len(MEMBERS[4])))
def test_a_last_member_that_is_cut_off_anywhere_is_found(tmp_path: Path, kept: int) -> None:
    """In its header, its data or its trailer."""
    path = tmp_path / "a.ndjson.gz"
    data = b"".join(MEMBERS[:4]) + b"\0" * 512 + MEMBERS[4][:kept]
    path.write_bytes(data)
    with capture_logs():
        really(put(FileSink(path), [{"id": "5"}]))

    assert written(path) == [{"id": "5"}]
    assert path.with_name(f"{path.name}.torn").read_bytes() == data


def test_a_file_whose_members_are_complete_is_continued(tmp_path: Path) -> None:
    """Zero bytes after a member are padding."""
    path = tmp_path / "a.ndjson.gz"
    path.write_bytes(b"".join(MEMBERS) + b"\0" * 512)
    really(put(FileSink(path), [{"id": "5"}]))

    assert [value["id"] for value in written(path)] == ["0", "1", "2", "3", "4", "5"]
    assert os.listdir(tmp_path) == [path.name]


def test_a_member_without_its_trailer_is_incomplete(tmp_path: Path) -> None:
    """However its data fall into chunks."""
    path = tmp_path / "a.gz"
    for size in range(CHUNK - 300, CHUNK + 600, 50):
        whole = gzip.compress(b"a" * size + b"\n")
        path.write_bytes(whole)
        assert is_complete_gzip(str(path), Format.NDJSON)
        path.write_bytes(whole[:-8])
        assert not is_complete_gzip(str(path), Format.NDJSON)


@pytest.mark.parametrize("compressed", [False, True])
def test_a_repair_shows_a_file_to_nobody_else(tmp_path: Path, compressed: bool) -> None:
    """The file, the new one and FILE.torn have the permissions of the first; a link to it stays a link."""
    path, link = tmp_path / "a.ndjson", tmp_path / f"link.ndjson{'.gz' if compressed else ''}"
    data = b'{"id":"1"}\n{"id"'
    path.write_bytes(gzip.compress(data)[:-4] if compressed else data)
    path.chmod(0o600)
    link.symlink_to(path)
    with capture_logs() as logs:
        really(put(FileSink(link), [{"id": "2"}]))

    torn = tmp_path / ("a.ndjson.torn" if compressed else f"{link.name}.torn")
    lines = b'{"id":"1"}\n{"id":"2"}\n'
    assert written(link) == ([{"id": "2"}] if compressed else [{"id": "1"}, {"id": "2"}])
    assert compressed or path.read_bytes() == lines
    assert [stat.S_IMODE(file.stat().st_mode) for file in (path, torn)] == [0o600] * 2
    assert [entry["moved_to"] for entry in logs if entry["event"] == "sink.torn_tail_moved"] == [str(torn)]
    assert link.is_symlink()
