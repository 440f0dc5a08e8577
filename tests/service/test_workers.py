"""Background workers A, B, … in the service, its metrics and its log."""

from __future__ import annotations

from service.conftest import Serve
from service.processes import until


def test_two_workers_run_after_the_start(serve: Serve) -> None:
    """A and B run 20 orders each, of which a third fails; requests are served meanwhile."""
    server = serve("--workers", 2, "--latency-scale", 0.5)
    assert server.post({"orderId": 1}).end["ok"] == 1
    until(lambda: server.metric("penstock_runs_total", kind="worker", reason="completed") == 2, period=0.1)
    ended = until(lambda: len(found := server.logged("run.ended", kind="worker")) == 2 and found)
    assert [(run["received"], run["ok"], run["failed"]) for run in ended] == [(20, 14, 6)] * 2
    assert server.metric("penstock_received_total") == 41
    assert server.metric("penstock_runs_active", kind="worker") == 0
    assert server.metric("penstock_worker_restarts_total") == 0
    assert len(server.request("GET", f"/dead-letters?run={ended[0]['run']}").json()["letters"]) == 6


def test_workers_can_run_repeatedly(serve: Serve) -> None:
    """`--worker-every` is the time between the end of a run and the start of the next."""
    server = serve("--workers", 3, "--worker-orders", 2, "--worker-every", 0.1)
    until(lambda: server.metric("penstock_runs_total", kind="worker", reason="completed") >= 9, period=0.1)
    assert server.stop() == 0
    ended = server.logged("run.ended", kind="worker")
    assert {(run["received"], run["ok"]) for run in ended if run["reason"] == "completed"} == {(2, 2)}


def test_a_running_worker_is_drained(serve: Serve) -> None:
    """The shutdown waits for its elements in flight, as for other runs."""
    server = serve("--workers", 1, "--latency-scale", 20, "--grace-period", 60)
    until(lambda: server.metric("penstock_in_flight") == 20, period=0.1)
    assert server.stop() == 0
    report = server.event("shutdown.completed")
    assert (report["runs"], report["received"], report["cancelled"]) == (1, 20, 0)
