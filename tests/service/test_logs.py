"""The log of a process, and what happens when it cannot be written."""

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


class UnreadProcess(Process):
    """A process whose log is not read after it listens."""

    def _read(self) -> None:
        assert self.popen.stderr is not None
        for line in self.popen.stderr:
            with self._news:
                self.events.append(json.loads(line))
                self._news.notify_all()
            if self.logged("http.listening"):
                return

    def close_log(self) -> None:
        """Close the reading end of the log."""
        self._reader.join()
        assert self.popen.stderr is not None
        self.popen.stderr.close()


def responds(process: Process) -> bool:
    """Return whether it responds to a request."""
    with process.connect() as client:
        client.sock.settimeout(10)  # a process whose log is stuck never responds
        client.request("GET", "/orders/bulk?count=1")
        try:
            client.response().complete()
        except TimeoutError:
            return False
    return True


@pytest.fixture
def unread() -> Iterator[UnreadProcess]:
    """A process that listens."""
    process = UnreadProcess("serve", *FLAGS)
    try:
        process.listen()
        yield process
    finally:
        process.close()


def test_a_closed_log_pipe_breaks_nothing(unread: UnreadProcess) -> None:
    """Streams complete, lost lines are counted, and the shutdown is clean."""
    unread.close_log()

    responses = [unread.request("GET", "/orders/bulk?count=3") for _ in range(3)]

    assert [response.end["reason"] for response in responses] == ["completed"] * 3
    assert unread.metric("penstock_log_lines_lost_total") == 3
    assert unread.metric("penstock_runs_active") == 0
    unread.signal(signal.SIGTERM)
    assert unread.wait() == 0


@pytest.mark.long
def test_a_blocked_log_pipe_does_not_delay_the_exit_timeout(unread: UnreadProcess) -> None:
    """A full pipe that is not read blocks the process in the middle of a line; it exits all the same."""
    assert unread.popen.stderr is not None
    fcntl.fcntl(unread.popen.stderr, fcntl.F_SETPIPE_SZ, 4096)
    assert not all(responds(unread) for _ in range(50))

    unread.signal(signal.SIGTERM)

    assert unread.wait() == 1
