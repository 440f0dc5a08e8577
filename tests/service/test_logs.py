"""The log of a process, where it is written to, and what happens when it cannot be."""

from __future__ import annotations

import fcntl
import json
import signal
from collections.abc import Iterator

import pytest

from service.processes import Process

FLAGS = (
    "--port",
    0,
    "--workers",
    0,
    "--latency-scale",
    0,
    "--dead-letters",
    "memory:",
    "--grace-period",
    0.3,
    "--exit-timeout",
    0.3,
)


class Unheard(Process):
    """A process whose log nobody reads once it listens."""

    def _read(self) -> None:
        assert self.popen.stderr is not None
        for line in self.popen.stderr:
            with self._news:
                self.events.append(json.loads(line))
                self._news.notify_all()
            if self.said("http.listening"):
                return

    def close_log(self) -> None:
        """Nobody will ever read it again."""
        self._reader.join()
        assert self.popen.stderr is not None
        self.popen.stderr.close()


def answers(process: Process) -> bool:
    """Whether it answers a request."""
    with process.connect() as client:
        client.sock.settimeout(10)  # a process whose log is stuck never answers
        client.request("GET", "/orders/bulk?count=1")
        try:
            client.answer().complete()
        except TimeoutError:
            return False
    return True


@pytest.fixture
def unheard() -> Iterator[Unheard]:
    """A process that listens."""
    process = Unheard("serve", *FLAGS)
    try:
        process.listen()
        yield process
    finally:
        process.close()


def test_a_log_that_nobody_reads_any_more_breaks_nothing(unheard: Unheard) -> None:
    """Streams come to their end, lines that are lost are counted, and the stop is as clean as any."""
    unheard.close_log()

    answers = [unheard.ask("GET", "/orders/bulk?count=3") for _ in range(3)]

    assert [answer.end["reason"] for answer in answers] == ["completed"] * 3
    assert unheard.metric("penstock_log_lines_lost_total") == 3
    assert unheard.metric("penstock_runs_active") == 0
    unheard.signal(signal.SIGTERM)
    assert unheard.wait() == 0


def test_a_log_that_is_stuck_does_not_stop_the_hard_stop(unheard: Unheard) -> None:
    """A pipe that is full and that nobody reads holds the process up in the middle of a line; it exits all the same."""
    assert unheard.popen.stderr is not None
    fcntl.fcntl(unheard.popen.stderr, fcntl.F_SETPIPE_SZ, 4096)
    assert not all(answers(unheard) for _ in range(50))

    unheard.signal(signal.SIGTERM)

    assert unheard.wait() == 1
