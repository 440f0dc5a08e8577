"""Background workers A, B, …: started with the service, seen in its metrics and in its log."""

from __future__ import annotations

from service.conftest import Serve
from service.processes import until


def test_two_workers_run_at_the_start(serve: Serve) -> None:
    """A and B make 20 orders each, of which a third fails, and end; requests are served meanwhile."""
    server = serve("--workers", 2, "--latency-scale", 0.5)
    assert server.post({"orderId": 1}).end["ok"] == 1
    until(lambda: server.metric("penstock_runs_total", kind="worker", reason="completed") == 2)
    ended = until(lambda: len(found := server.said("run.ended", kind="worker")) == 2 and found)
    assert [(run["received"], run["ok"], run["failed"]) for run in ended] == [(20, 14, 6)] * 2
    assert server.metric("penstock_received_total") == 41
    assert server.metric("penstock_runs_active", kind="worker") == 0
    assert server.metric("penstock_worker_restarts_total") == 0
    assert len(server.ask("GET", f"/dead-letters?run={ended[0]['run']}").json()["letters"]) == 6


def test_workers_may_run_again_and_again(serve: Serve) -> None:
    """`--worker-every`: so many seconds after a run ended the next one starts, until the service stops."""
    server = serve("--workers", 3, "--worker-orders", 2, "--worker-every", 0.1)
    until(lambda: server.metric("penstock_runs_total", kind="worker", reason="completed") >= 9)
    assert server.stop() == 0
    ended = server.said("run.ended", kind="worker")
    assert {(run["received"], run["ok"]) for run in ended if run["reason"] == "completed"} == {(2, 2)}


def test_a_worker_that_runs_is_drained(serve: Serve) -> None:
    """A stop waits for what its workers have in flight, as for any other run."""
    server = serve("--workers", 1, "--latency-scale", 20, "--grace-period", 60)
    until(lambda: server.metric("penstock_in_flight") == 20)
    assert server.stop() == 0
    report = server.event("shutdown.completed")
    assert (report["runs"], report["received"], report["cancelled"]) == (1, 20, 0)
