"""`--drain-delay`: after SIGTERM requests are served on, so that a rolling deployment loses none."""

from __future__ import annotations

import signal
import threading
from datetime import datetime, timedelta
from pathlib import Path

from service.conftest import Serve
from service.processes import Process, until
from service.wire import Client, orders


class Clients:
    """Clients behind a load balancer: they send requests to the servers that are in rotation."""

    def __init__(self, *servers: Process) -> None:
        self.rotation = list(servers)
        self.statuses: list[int] = []
        self.errors: list[BaseException] = []
        self.targets: dict[int, Process] = {}
        """The server that each client sends its requests to."""
        self._stopped = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(number,)) for number in range(3)]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Stop them."""
        self._stopped.set()
        for thread in self._threads:
            thread.join()

    def more(self, count: int = 50) -> None:
        """Wait for some more responses."""
        wanted = len(self.statuses) + count
        until(lambda: len(self.statuses) >= wanted or self.errors)

    def _run(self, number: int) -> None:
        """Send one request after the other.

        One client makes a connection for each; the others keep theirs until the server announces that it closes them.
        """
        client: Client | None = None
        try:
            while not self._stopped.is_set():
                if client is None:
                    self.targets[number] = self.rotation[-1]
                    client = self.targets[number].connect()
                client.request("POST", "/orders/bulk", orders(3), Content_Type="application/x-ndjson")
                response = client.response().complete()
                self.statuses.append(response.status)
                assert not response.cut
                assert response.end["reason"] == "completed", response.end
                if number == 0 or response.headers.get("connection") == "close":
                    client.close()
                    client = None
        except BaseException as error:
            self.errors.append(error)
        finally:
            if client is not None:
                client.close()


def test_a_rolling_deployment_loses_no_request(serve: Serve, tmp_path: Path) -> None:
    """The old server is taken out of rotation because it is not ready, and its connections come to an end meanwhile."""
    old = serve("--drain-delay", "10m")
    new = serve("--dead-letters", f"sqlite:///{tmp_path}/new.db")
    clients = Clients(old)
    try:
        clients.more()
        old.signal(signal.SIGTERM)
        until(lambda: old.request("GET", "/health/ready").status == 503)
        assert old.request("GET", "/health/ready").json() == {"status": "draining"}
        clients.more()  # a load balancer notices it some time later
        clients.rotation.append(new)
        until(lambda: clients.errors or all(target is new for target in clients.targets.values()))
        clients.more()
        old.signal(signal.SIGTERM)  # skips the rest of the delay
        assert old.wait() == 0
        clients.more()
    finally:
        clients.stop()
    assert clients.errors == []
    assert set(clients.statuses) == {200}
    assert old.event("shutdown.delayed")["seconds"] == 600
    assert old.event("shutdown.completed")["forced"] is False


def test_the_shutdown_begins_after_the_delay(serve: Serve) -> None:
    """Without a second signal. Streams that are open then are drained."""
    server = serve("--drain-delay", "250ms", "--grace-period", 60)
    with server.connect() as client:
        client.upload()
        response = client.response()
        client.chunk(orders(1))
        assert response.next()["ok"]
        server.signal(signal.SIGTERM)
        assert response.complete().end["reason"] == "draining"
    assert server.wait() == 0
    begun, drained = (server.event(name)["timestamp"] for name in ("shutdown.delayed", "shutdown.phase"))
    assert datetime.fromisoformat(drained) - datetime.fromisoformat(begun) >= timedelta(seconds=0.2)
