"""Files that others left torn: half a line is put aside, a part without its end is made whole, damage is left alone."""

from __future__ import annotations

import gzip
import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from flows.test_files import SECONDS, really
from flows.test_outlets import contents, put, written
from penstock.errors import OutletBroke
from penstock.outlets import FileOutlet
from penstock.outlets.repairs import CHUNK, Decompressed

WHOLE = {"a.ndjson": b'{"a":"1"}\n', "a.csv": b'a,b\r\n"x\r\ny",1\r\n'}


@pytest.mark.parametrize(
    ("name", "torn"),
    [("a.ndjson", b'{"a":'), ("a.ndjson", b"x" * 600_000), ("a.csv", b"2"), ("a.csv", b'"2\r\n3\r\n')],
)
@pytest.mark.parametrize("compressed", [False, True])
def test_half_a_line_at_the_end_is_put_aside(tmp_path: Path, name: str, torn: bytes, compressed: bool) -> None:
    """No new line is glued to what a killed process left; that is in a file beside it, and the log says so."""
    path = tmp_path / (f"{name}.gz" if compressed else name)
    data = WHOLE[name] * 1000 if name == "a.ndjson" else WHOLE[name]
    whole = len(data)
    path.write_bytes(gzip.compress(data + torn) if compressed else data + torn)
    with capture_logs() as logs:
        really(put(FileOutlet(path), [{"a": "last", "b": "0"}]))

    assert contents(path)[:whole] == data
    assert contents(path)[whole:] in (b'{"a":"last","b":"0"}\n', b"last,0\r\n")
    assert [entry["moved_bytes"] for entry in logs if entry["event"] == "sink.torn_tail_moved"] == [len(torn)]
    assert path.with_name(f"{path.name}.torn").read_bytes() == torn + b"\n"


@pytest.mark.parametrize("name", ["a.ndjson.gz", "a.csv.gz"])
def test_a_compressed_file_that_was_never_ended_is_made_whole(tmp_path: Path, name: str) -> None:
    """After kill -9 everything up to the last write is there, and what is appended later can be read."""
    path = tmp_path / name
    program = f"""
import asyncio, os, signal
from penstock.outlets import FileOutlet

async def main():
    outlet = FileOutlet({str(path)!r})
    await outlet.open()
    for number in range(50):
        await outlet.write([{{"id": str(number)}}])
    os.kill(os.getpid(), signal.SIGKILL)

asyncio.run(main())
"""
    died = subprocess.run([sys.executable, "-c", program], timeout=SECONDS)
    assert died.returncode == -signal.SIGKILL
    with pytest.raises(EOFError):
        gzip.decompress(path.read_bytes())
    really(put(FileOutlet(path), [{"id": "50"}]))

    assert written(path) == [{"id": str(number)} for number in range(51)]
    assert os.listdir(tmp_path) == [name]


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
    with pytest.raises(OutletBroke, match="no gzip file, or damaged; move it away"):
        really(put(FileOutlet(path), [{"id": "5"}]))

    assert path.read_bytes() == data
    assert os.listdir(tmp_path) == [path.name]


@pytest.mark.parametrize("kept", range(len(MEMBERS[4])))
def test_a_last_part_that_is_cut_off_anywhere_is_made_whole(tmp_path: Path, kept: int) -> None:
    """In its header, its data or its trailer: the parts before it stay, with what of it can be read."""
    path = tmp_path / "a.ndjson.gz"
    path.write_bytes(b"".join(MEMBERS[:4]) + b"\0" * 512 + MEMBERS[4][:kept])
    with capture_logs():
        really(put(FileOutlet(path), [{"id": "5"}]))

    ids = [value["id"] for value in written(path)]
    assert ids in (["0", "1", "2", "3", "5"], ["0", "1", "2", "3", "4", "5"])


def test_a_part_without_its_trailer_is_read_to_its_last_byte(tmp_path: Path) -> None:
    """However its data fall into chunks."""
    path = tmp_path / "a.gz"
    for size in range(CHUNK - 300, CHUNK + 600, 50):
        path.write_bytes(gzip.compress(b"a" * size)[:-8])
        chunks = Decompressed(str(path))
        assert (sum(map(len, chunks)), chunks.complete) == (size, False)


@pytest.mark.parametrize("compressed", [False, True])
def test_a_repair_shows_a_file_to_nobody_else(tmp_path: Path, compressed: bool) -> None:
    """The rights of the file stay as they are, and what is put aside has the same; a link to it stays a link."""
    path, link = tmp_path / "a.ndjson", tmp_path / f"link.ndjson{'.gz' if compressed else ''}"
    data = b'{"id":"1"}\n{"id"'
    path.write_bytes(gzip.compress(data)[:-4] if compressed else data)
    path.chmod(0o600)
    link.symlink_to(path)
    with capture_logs():
        really(put(FileOutlet(link), [{"id": "2"}]))

    lines = b'{"id":"1"}\n{"id":"2"}\n'
    assert (gzip.decompress(path.read_bytes()) if compressed else path.read_bytes()) == lines
    assert [stat.S_IMODE(file.stat().st_mode) for file in (path, tmp_path / f"{link.name}.torn")] == [0o600] * 2
    assert link.is_symlink()
