"""Log lines: whatever happens, each is one line of JSON, and none breaks what it tells of."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog

from penstock.observe import LogFile, configure_logging


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    """What is set up here is for one test."""
    config, root = structlog.get_config(), logging.getLogger()
    handlers, level = root.handlers, root.level
    yield
    structlog.configure(**config)
    root.handlers, root.level = handlers, level


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize("form", ["json", "console"])
@pytest.mark.parametrize("said", ["half a pair \ud800", b"bytes", {1: object()}, float("nan")])
def test_every_event_is_a_line(tmp_path: Path, form: str, said: Any) -> None:
    """What JSON or UTF-8 has no words for is said in others."""
    path = tmp_path / "log"
    with path.open("w") as stream:
        file = configure_logging(form, stream=stream)
        structlog.get_logger().bind().info("tried", said=said, number=3)

    assert file.lost == 0
    assert len(path.read_text().splitlines()) == 1
    if form == "json":
        (event,) = lines_of(path)
        assert (event["event"], event["level"], event["number"]) == ("tried", "info", 3)


PROGRAM = """
import asyncio, logging, structlog
from penstock import Flow, from_iterable
from penstock.observe import configure_logging

def values():
    yield 1
    raise ValueError("\\ud800" + 100_000 * "x")

def broken(*_):
    raise RuntimeError("no log today")

async def main():
    return await Flow("f").run(from_iterable(values()))

{setup}
summary = asyncio.run(main())
assert (summary.reason, summary.received, summary.ok) == ("failed", 1, 1)
assert summary.error.startswith("the source iterable failed: \\ud800xxx") and len(summary.error) == 2000
"""


def outcome_of(setup: str) -> subprocess.CompletedProcess[str]:
    """What becomes of a program that logs in a way of its own; loggers are cached, so it is a process of its own."""
    return subprocess.run(
        [sys.executable, "-c", PROGRAM.format(setup=setup)], capture_output=True, text=True, timeout=60, check=False
    )


@pytest.mark.parametrize("setup", ["configure_logging('console')", "logging.basicConfig()"])
def test_a_traceback_shows_no_values(setup: str) -> None:
    """What items hold is nothing for the screen. (With rich, which the linters bring, structlog would show it all.)"""
    program = """
def break_off(elements):
    secret = elements[0].value["card"]
    raise RuntimeError("a bug")

flow = Flow("f").operator(lambda source: source.pipe(ops.do_action(break_off))).dead_letters("memory:", redact=["card"])

async def main():
    await flow.run(from_iterable([{{"card": "4111"}}]))

{setup}
asyncio.run(main())
"""
    imports = PROGRAM.split("\n\n")[0] + "\nfrom reactivex import operators as ops\n"
    broke = subprocess.run(
        [sys.executable, "-c", imports + program.format(setup=setup)],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip

    assert broke.returncode == 0, broke.stderr
    assert "RuntimeError: a bug" in broke.stderr
    assert "4111" not in broke.stderr


NOISY = """
import asyncio, logging, structlog
from contextlib import suppress
from penstock import Flow, Service, from_iterable
from penstock.services import Backoff

async def flaky(value):
    if value == 1:
        raise ConnectionError("flaky")
    if value == 2:
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(20)
        await asyncio.sleep(0.2)  # the call is abandoned, and fails later
        raise ValueError("late")
    return value

def values():
    yield from range(5)
    raise OSError("the source broke")

def bug(_):
    raise RuntimeError("a bug")

async def main():
    service = Service("flaky", flaky, timeout=0.05, attempts=2, backoff=Backoff(0.001))
    flow = Flow("f").map(lambda value: 6 // (value - 3) and value, name="divide").map_async(service)
    summary = await flow.dead_letters("memory:").run(from_iterable(values()))
    assert (summary.reason, summary.received, summary.failed) == ("failed", 5, 3), summary
    summary = await Flow("bug").operator(lambda source: source.pipe(ops.do_action(bug))).run(from_iterable([1]))
    assert summary.error == "a bug", summary
    await asyncio.sleep(0.5)

from reactivex import operators as ops
{setup}
asyncio.run(main())
"""


def test_a_program_that_configures_no_logs_gets_none() -> None:
    """A source that breaks, a failed element, a retry, a call that does not end and a bug: nothing is printed."""
    ended = subprocess.run([sys.executable, "-c", NOISY.format(setup="")], capture_output=True, text=True, timeout=60)

    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")


def test_a_program_that_configures_logging_gets_events_as_text() -> None:
    """They come from the logger `penstock`, with the level of the event."""
    setup = "logging.basicConfig(level='INFO', format='%(name)s %(levelname)s %(message)s')"
    ended = subprocess.run(
        [sys.executable, "-c", NOISY.format(setup=setup)], capture_output=True, text=True, timeout=60
    )

    assert ended.returncode == 0, ended.stderr
    lines = [line for line in ended.stderr.splitlines() if line.startswith("penstock ")]
    events = [tuple(line.split(" ")[1:3]) for line in lines]
    assert {("WARNING", "source.failed"), ("INFO", "run.ended")} <= set(events)
    assert ("ERROR", "run.failed") in events
    assert "run.ended flow='f'" in lines[1]
    assert "reason='failed' received=5 ok=2 failed=3" in lines[1]
    assert "RuntimeError: a bug" in ended.stderr


def test_what_others_send_is_no_command_to_the_terminal(tmp_path: Path) -> None:
    """A path or a message may hold escape sequences; on the screen they are shown as what they are."""
    path = tmp_path / "log"
    with path.open("w") as stream:
        configure_logging("console", stream=stream)
        try:
            raise ValueError("\x1b[2J")
        except ValueError:
            structlog.get_logger().error("http\x07", path="/\x1b[31mred\n\u202e", exc_info=True)
    text = path.read_text()
    assert "\x1b" not in text
    assert all(said in text for said in ("http\\x07", "/\\x1b[31mred\\n\\u202e", "ValueError: \\x1b[2J"))


def test_a_run_ends_whatever_its_error_says() -> None:
    """A message that is no UTF-8, and is longer than anybody reads, is told as far as it can be."""
    ended = outcome_of("configure_logging('json')")

    assert ended.returncode == 0, ended.stderr
    assert [json.loads(line)["event"] for line in ended.stderr.splitlines()] == ["source.failed", "run.ended"]


def test_a_log_that_breaks_does_not_keep_a_run_from_its_end() -> None:
    """A program may log in its own way, and that way may break."""
    ended = outcome_of("structlog.configure(processors=[broken])")

    assert ended.returncode == 0, ended.stderr


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="/dev/full is of Linux")
def test_lines_that_a_full_disk_does_not_take_are_counted() -> None:
    """Whoever logs does not hear of it."""
    with open("/dev/full", "wb", buffering=0) as full, open(full.fileno(), "w", closefd=False) as stream:
        file = LogFile(stream)
        file.write(b"one\n")
        file.write(b"two\n")
    file.write(b"three\n")

    assert file.lost == 3


def test_a_line_of_a_library_that_does_not_fit_together_is_said_in_pieces(tmp_path: Path) -> None:
    """It is a bug of the library, and no reason to break what it was doing."""
    path = tmp_path / "log"
    with path.open("w") as stream:
        configure_logging("json", stream=stream)
        logging.getLogger("lib").warning("%d items", "many")
    (line,) = lines_of(path)
    assert (line["event"], line["message"]) == ("library.log", "'%d items' ('many',)")


def test_a_library_that_logs_what_it_raises_is_silent(tmp_path: Path) -> None:
    """The error of the store says it, once."""
    path = tmp_path / "log"
    with path.open("w") as stream:
        configure_logging("json", stream=stream)
        logging.getLogger("aiokafka.producer.sender").error("Unexpected error during InitProducerIdRequest")
    assert lines_of(path) == []
