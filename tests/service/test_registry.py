"""The registry: one revision of a flow replaces another without affecting open runs."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from structlog.testing import capture_logs

from laws.virtual import quiet, within
from penstock import Flow, Service, from_iterable
from penstock.deadletters import DeadLetterQuery
from penstock.errors import ShuttingDown
from penstock.flow.serving import Worker
from penstock.observe import HttpCounters, MetricSources, ReloadCounters, collector
from penstock.results import DiscardResults, ResultStream
from penstock.runtime import Cron, Event, Every, Once, Run, Supervisor
from penstock.settings import Settings
from penstock.sinks import DiscardSink, FileSink
from penstock.sources import KafkaSource, generate, ticks
from penstock.sources.iterables import Generated
from penstock.support.ids import now
from penstock_http.deployments.progress import Progress, after_crash, decode_progress, encode_progress
from penstock_http.deployments.registry import FlowRegistry
from penstock_http.deployments.result import DeploymentResult, DeploymentStatus
from penstock_http.deployments.revision import FlowCandidate
from penstock_http.processes.member import PROGRESS
from penstock_http.server.connection import ConnectionFactory
from penstock_http.server.leadership import report_progress
from penstock_http.server.retirement import retire
from service.connected import LocalParent


def candidate(flow: Flow[Any], digest: str = "1", source: str = "a.yaml") -> FlowCandidate:
    """A candidate with a flow."""
    return FlowCandidate(flow, digest, source)


class Fixture:
    """A registry with its supervisor and counters."""

    def __init__(self, keep_open: str = "", process: int = 0) -> None:
        self.supervisor = Supervisor()
        self.counters = ReloadCounters()
        self.registry = FlowRegistry(self.supervisor, self.counters, keep_open=keep_open, process=process)

    async def deploy(
        self, flow: Flow[Any], digest: str = "1", source: str = "a.yaml", **options: Any
    ) -> DeploymentResult:
        """Deploy one flow."""
        (result,) = await self.registry.deploy(candidate(flow, digest, source), **options)
        return result

    def start(self, name: str, source: Any, sink: Any = None, kind: str = "http") -> Run:
        """Start a run of the active revision."""
        active = self.registry.flows[name].active
        assert active is not None
        return self.supervisor.start(active, source, sink or DiscardResults(), kind=kind)

    def states(self, name: str) -> list[str]:
        """The states of the revisions of a flow, oldest first."""
        return [revision.state.value for revision in self.registry.flows[name].revisions]

    async def close(self) -> None:
        """Shut everything down, and check that no task is left."""
        await self.registry.aclose()
        await self.supervisor.shut_down(60)
        assert [task.get_name() for task in asyncio.all_tasks() if task is not asyncio.current_task()] == []


def run_in_virtual_time(scenario: Callable[[Fixture], Awaitable[Any]]) -> Any:
    """Run a test in virtual time, and return its result."""

    async def main() -> Any:
        fixture = Fixture()
        result = await scenario(fixture)
        await fixture.close()
        return result

    with capture_logs():
        return quiet(within(100_000, main()))


def times(factor: int, seconds: float = 0) -> Flow[Any]:
    """A flow that multiplies, after some seconds."""

    async def multiply(value: int) -> int:
        await asyncio.sleep(seconds)
        return value * factor

    return Flow("times").map_async(multiply, name="multiply")


async def values(run: Run, sink: ResultStream) -> list[Any]:
    """The values of the results of a run."""
    found = []
    while (result := await sink.next()) is not None:
        found.append(result.value)
    await run.finished
    return found


def test_new_runs_use_the_new_revision_and_open_runs_keep_theirs() -> None:
    """An open run processes all of its input with the steps with which it started."""

    async def scenario(fixture: Fixture) -> None:
        first = await fixture.deploy(times(2, 1), "one")
        old_sink, new_sink = ResultStream(), ResultStream()
        old = fixture.start("times", ticks(1, 10), old_sink)
        await asyncio.sleep(3.5)
        second = await fixture.deploy(times(3), "two")
        new = fixture.start("times", from_iterable([1, 2]), new_sink)

        assert [(r.outcome, r.revision, r.digest) for r in (first, second)] == [
            (DeploymentStatus.ACCEPTED, 1, "one"),
            (DeploymentStatus.ACCEPTED, 2, "two"),
        ]
        assert (old.revision, new.revision) == (1, 2)
        assert await values(new, new_sink) == [3, 6]
        assert fixture.states("times") == ["draining", "active"]
        assert await values(old, old_sink) == [2 * number for number in range(10)]
        assert (await old.finished).reason == "completed"
        await asyncio.sleep(0.1)
        assert fixture.states("times") == ["active"]
        assert fixture.supervisor.flow_statistics["times"].received == 12

    run_in_virtual_time(scenario)


def test_a_request_can_start_a_run_of_a_replaced_revision() -> None:
    """A body that is read before its run starts is processed by the revision with which the request began."""

    async def scenario(fixture: Fixture) -> None:
        await fixture.deploy(times(2))
        revision = fixture.registry.by_path["times"]
        with revision.use():
            await fixture.deploy(times(3), "2")
            await asyncio.sleep(1000)
            assert fixture.states("times") == ["draining", "active"]
            sink = ResultStream()
            run = fixture.supervisor.start(revision, from_iterable([1]), sink)
        assert await values(run, sink) == [2]
        await asyncio.sleep(0.1)
        assert fixture.states("times") == ["active"]

    run_in_virtual_time(scenario)


def test_an_unchanged_flow_is_not_replaced() -> None:
    """The same digest changes nothing, and the result says so."""

    async def scenario(fixture: Fixture) -> None:
        await fixture.deploy(times(2), "one")
        result = await fixture.deploy(times(3), "one")
        assert (result.outcome, result.revision) == (DeploymentStatus.UNCHANGED, 1)
        assert fixture.states("times") == ["active"]
        assert fixture.counters.outcomes == {("times", "accepted"): 1, ("times", "unchanged"): 1}

    run_in_virtual_time(scenario)


def test_a_dry_run_changes_nothing() -> None:
    """Its result is that of the deployment."""

    async def scenario(fixture: Fixture) -> None:
        result = await fixture.deploy(times(2), dry_run=True)
        assert (result.outcome, result.revision) == (DeploymentStatus.ACCEPTED, 1)
        assert (fixture.registry.flows, fixture.supervisor.flow_statistics, fixture.counters.outcomes) == ({}, {}, {})
        await fixture.deploy(times(2))
        assert (await fixture.deploy(times(3), "2", dry_run=True)).revision == 2
        assert fixture.states("times") == ["active"]

    run_in_virtual_time(scenario)


# Services


async def identity(value: Any) -> Any:
    """Return the value."""
    return value


def calling(name: str, *, attempts: int = 1) -> Flow[Any]:
    """A flow with a service that is created anew each time."""
    return Flow(name).map_async(Service("oracle", identity, attempts=attempts, max_in_flight=3))


def test_equal_services_share_one_bulkhead() -> None:
    """Across revisions and flows, also within one deployment; a changed service has its own."""

    async def scenario(fixture: Fixture) -> None:
        await fixture.registry.deploy(candidate(calling("a")), candidate(calling("b")))
        await fixture.deploy(calling("a"), "2")
        services = [revision.all_services[0] for revision in fixture.registry.active]
        assert services[0] is services[1]
        await fixture.deploy(calling("a", attempts=2), "3")
        assert fixture.registry.by_path["a"].all_services[0] is not services[0]
        assert fixture.registry.by_path["b"].all_services[0] is services[0]

    run_in_virtual_time(scenario)


def test_counters_of_calls_survive_a_replaced_service() -> None:
    """Counters never decrease while a service of that name exists."""

    async def scenario(fixture: Fixture) -> None:
        await fixture.deploy(calling("a"))
        await fixture.start("a", from_iterable(range(5))).finished
        await fixture.deploy(calling("a", attempts=2), "2")
        await fixture.start("a", from_iterable(range(2))).finished
        await asyncio.sleep(1)
        calls = fixture.supervisor.service_counters["oracle"]
        assert (len(calls.services), calls.statistics().max_in_flight, calls.statistics().results["ok"]) == (1, 3, 7)
        assert sum(calls.statistics().durations["ok"].counts) == 7

    run_in_virtual_time(scenario)


def test_a_flow_has_the_services_of_its_revisions_in_use() -> None:
    """The services of a replaced revision count until its runs have ended."""

    def flow(service: str, seconds: float = 0) -> Flow[Any]:
        async def wait(value: int) -> int:
            await asyncio.sleep(seconds)
            return value

        return Flow("a").map_async(Service(service, wait))

    async def scenario(fixture: Fixture) -> None:
        def services() -> list[str]:
            sources = MetricSources(supervisor=fixture.supervisor, requests=HttpCounters(), version="1")
            return [service for (_, service), _ in collector.flow_service_info(sources)]

        await fixture.deploy(flow("old", 5))
        run = fixture.start("a", from_iterable([1]))
        await fixture.deploy(flow("new"), "2")
        assert services() == ["old", "new"]
        await run.finished
        await asyncio.sleep(1)
        assert services() == ["new"]

    run_in_virtual_time(scenario)


def test_services_with_the_same_name_in_one_flow_are_not_shared() -> None:
    """They cannot be told apart by name, so each keeps its own bulkhead."""

    async def double(value: int) -> int:
        return value * 2

    def flow() -> Flow[Any]:
        return Flow("a").map_async(Service("s", identity)).map_async(Service("s", double))

    async def scenario(fixture: Fixture) -> None:
        await fixture.deploy(flow())
        await fixture.deploy(flow(), "2")
        sink = ResultStream()
        assert await values(fixture.start("a", from_iterable([4]), sink), sink) == [8]

    run_in_virtual_time(scenario)


# Workers


def working(
    log: list[tuple[str, str]], tag: str, seconds: float = 3, names: tuple[str, ...] = ("A",), every: float = 10
) -> Flow[Any]:
    """A flow with workers that log what they do."""

    async def work(value: int) -> int:
        log.append((tag, "begins"))
        await asyncio.sleep(seconds)
        log.append((tag, "ends"))
        return value

    flow = Flow[Any]("works").map_async(work, name="work", max_in_flight=1).window(1)
    for name in names:
        flow = flow.worker(name, generate(2, int), Every(every))
    return flow


def test_workers_are_drained_before_the_new_ones_start() -> None:
    """Elements in flight are finished first, so two workers never run at once."""
    log: list[tuple[str, str]] = []

    async def scenario(fixture: Fixture) -> None:
        await fixture.deploy(working(log, "old"))
        await asyncio.sleep(1)
        await fixture.deploy(working(log, "new"), "2")
        await asyncio.sleep(9)

    run_in_virtual_time(scenario)
    assert log[:4] == [("old", "begins"), ("old", "ends"), ("new", "begins"), ("new", "ends")]
    assert {tag for tag, _ in log[4:]} == {"new"}


def test_workers_of_a_skipped_revision_never_run() -> None:
    """Of three revisions in a row, while the workers of the first one drain, only those of the last one wait."""
    log: list[tuple[str, str]] = []

    async def scenario(fixture: Fixture) -> None:
        await fixture.deploy(working(log, "1"))
        await asyncio.sleep(1)
        await fixture.deploy(working(log, "2", names=("A", "B")), "2")
        await fixture.deploy(working(log, "3"), "3")
        with capture_logs() as logged:
            await asyncio.sleep(100)
        assert {event["revision"] for event in logged if event["event"] == "run.ended"} == {1, 3}
        assert fixture.states("works") == ["active"]
        assert list(fixture.supervisor.workers) == [("works", "A")]

    run_in_virtual_time(scenario)
    assert {tag for tag, _ in log} == {"1", "3"}


def test_removed_workers_are_stopped() -> None:
    """A worker that the new revision does not have, and all workers of a removed flow."""
    log: list[tuple[str, str]] = []

    async def scenario(fixture: Fixture) -> None:
        await fixture.deploy(working(log, "1", names=("A", "B")))
        await asyncio.sleep(50)
        await fixture.deploy(working(log, "2", names=("B",)), "2")
        await asyncio.sleep(50)
        assert list(fixture.supervisor.workers) == [("works", "B")]
        await fixture.registry.deploy(removals={"works": None})
        await asyncio.sleep(50)
        assert (fixture.supervisor.workers, fixture.supervisor.runs) == ({}, {})

    run_in_virtual_time(scenario)


class Shared(Generated[int]):
    """A source that several processes may run at once, and that knows which process runs it."""

    competes = True

    def __init__(self, seen: list[int]) -> None:
        super().__init__(2, int)
        self._seen = seen

    def for_process(self, number: int) -> Shared:
        self._seen.append(number)
        return self


def test_one_of_several_processes_runs_workers_that_must_not_run_twice() -> None:
    """It drains them before another process leads. Workers of shared sources run in every process at any time."""
    log: list[tuple[str, str]] = []
    seen: list[int] = []

    async def scenario(_: Fixture) -> None:
        first, second = Fixture(process=1), Fixture(process=2)
        flow = working(log, "1").worker("shared", Shared(seen), Every(1000))
        for each in (first, second):
            await each.deploy(flow)
        await asyncio.sleep(50)
        assert (log, sorted(seen)) == ([("1", "begins"), ("1", "ends")] * 4, [1, 2])
        log.clear()

        await first.registry.lead(True)
        await asyncio.sleep(1)
        await first.registry.lead(False)
        assert log == [("1", "begins"), ("1", "ends")]
        await second.registry.lead(True)
        await second.deploy(working(log, "2").worker("shared", Shared(seen), Every(1000)), "2")
        await asyncio.sleep(50)
        assert list(first.supervisor.workers) == [("works", "shared")]
        assert {tag for tag, _ in log[4:]} == {"2"}
        assert sorted(seen) == [1, 2, 2]
        for each in (first, second):
            await each.registry.stop_workers()
            assert (each.supervisor.workers, each.supervisor.runs) == ({}, {})
            await each.registry.lead(True)
            await each.registry.aclose()
            assert not each.supervisor.workers
            await each.supervisor.shut_down(60)

    run_in_virtual_time(scenario)


def test_the_lead_is_released_when_the_workers_have_stopped() -> None:
    """Also when the reload timeout ends the retirement of a process before that. Then the shutdown ends them."""
    log: list[tuple[str, str]] = []

    async def scenario(_: Fixture) -> None:
        leader = Fixture(process=1)
        await leader.deploy(working(log, "1", seconds=20))
        await leader.registry.lead(True)
        await asyncio.sleep(1)
        server = web.Server(unused)
        connections = ConnectionFactory(HttpCounters(), server, Settings(), None)
        retiring = asyncio.create_task(retire(server, connections, leader.registry, asyncio.Event(), timeout=5))
        await asyncio.sleep(1)
        released = asyncio.create_task(leader.registry.lead(False))  # the parent asks for it
        workers = await retiring
        await asyncio.sleep(1)
        assert (log, released.done()) == ([("1", "begins")], False)
        await leader.registry.aclose()
        await leader.supervisor.shut_down(60)
        await asyncio.gather(workers, released)
        assert log == [("1", "begins"), ("1", "ends")]

    async def unused(_: web.BaseRequest) -> web.Response:
        return web.Response()

    run_in_virtual_time(scenario)


def test_workers_go_on_in_the_next_leader() -> None:
    """One that has finished does not run again, unless its flow has changed. One that was interrupted does, at once."""
    log: list[str] = []

    def flow() -> Flow[Any]:
        async def work(value: str) -> None:
            log.append(value)
            await asyncio.sleep(10)

        flow = Flow[Any]("works").map_async(work).window(1)
        for name, count, schedule in (("once", 1, Once()), ("every", 1, Every(3600)), ("endless", 99, Once())):
            flow = flow.worker(name, generate(count, lambda _, name=name: name), schedule)
        return flow

    async def led(leader: Fixture, progress: Progress, released: bool = True) -> list[str]:
        """What a process that leads for a while begins, when the previous leader has passed its progress on."""
        log.clear()
        await leader.registry.lead(True, progress if released else after_crash(progress, now()))
        await asyncio.sleep(15)
        await leader.registry.lead(False)
        return sorted(log)

    async def scenario(_: Fixture) -> None:
        first, second, third, changed = processes = [Fixture(process=number) for number in (1, 2, 3, 4)]
        for each in processes:
            await each.deploy(flow(), "2" if each is changed else "1")
        assert await led(first, {}) == ["endless", "endless", "every", "once"]
        progress = decode_progress(encode_progress(first.registry.progress))
        assert await led(second, progress) == ["endless", "endless"]
        assert await led(third, second.registry.progress, released=False) == ["endless", "endless"]
        assert await led(changed, third.registry.progress) == ["endless", "endless", "every", "once"]
        for each in processes:
            await each.registry.aclose()
            await each.supervisor.shut_down(60)

    run_in_virtual_time(scenario)


def test_a_leader_reports_which_workers_have_finished() -> None:
    """So that the next one knows it if the leader dies. What is running then begins again."""

    async def scenario(_: Fixture) -> None:
        parent, reports = LocalParent(2), list[Progress]()

        async def note(number: int, payload: bytes) -> bytes:
            reports.append(decode_progress(payload))
            if len(reports) == 1:
                raise ZeroDivisionError("the first report fails")
            return b""

        parent.on(PROGRESS, note)
        leader = Fixture(process=1)
        reporting = asyncio.create_task(report_progress(parent.process(1), leader.registry, leader.supervisor))
        flow = times(2, 5)
        for name, schedule in (("once", Once()), ("every", Every(3600)), ("often", Every(0.5))):
            flow = flow.worker(name, generate(1, int), schedule)
        await leader.deploy(flow.worker("shared", Shared([]), Once()))
        await leader.registry.lead(True)
        await asyncio.sleep(60)
        assert 2 < len(reports) < 20
        known = after_crash(reports[-1], now())["times"]
        assert (known.revision, known.digest) == (1, "1")
        assert known.due["once"] is None
        assert now() < (known.due["every"] or now())
        assert set(reports[-1]["times"].due) == {"once", "every", "often"}
        await leader.registry.lead(False)
        reporting.cancel()
        await asyncio.wait((reporting,))
        await leader.close()

    run_in_virtual_time(scenario)


def test_a_cron_worker_runs_in_one_process() -> None:
    """A broker divides its messages, but every process would run at each time."""
    source = Shared([])
    assert Worker("A", source).runs_everywhere
    assert not Worker("A", source, Cron("* * * * *")).runs_everywhere
    assert not Worker("A", generate(1, int)).runs_everywhere


def test_processes_are_different_members_of_a_kafka_group() -> None:
    """Two with one name would take turns to throw each other out."""
    source = KafkaSource("kafka://broker", "orders", "pricing", instance_id="host")
    assert [source.for_process(number).instance_id for number in (1, 2)] == ["host-1", "host-2"]
    unnamed = KafkaSource("kafka://broker", "orders", "pricing")
    assert unnamed.for_process(1) is unnamed


# Conflicts


def test_names_and_paths_are_unique() -> None:
    """A later candidate is rejected with the reason, and the active revision stays."""

    async def scenario(fixture: Fixture) -> None:
        await fixture.deploy(Flow("a"))
        both = await fixture.registry.deploy(
            candidate(Flow("b"), source="b.yaml"), candidate(Flow("b"), source="c.yaml")
        )
        taken = await fixture.deploy(Flow[Any]("c").serve("a"))
        own = await fixture.deploy(Flow[Any]("d").serve("flows"))
        hidden = await fixture.deploy(Flow[Any]("health").serve(http=False))
        assert [result.outcome for result in (*both, taken, own, hidden)] == [
            "accepted",
            "rejected",
            "rejected",
            "rejected",
            "accepted",
        ]
        assert [str(result.diagnostics[0]) for result in (both[1], taken, own)] == [
            "c.yaml: flow 'b' is already defined in b.yaml; use another name",
            "a.yaml: the path 'a' is already used by flow 'a'; use another name",
            "a.yaml: the path 'flows' is reserved; use another name",
        ]
        assert set(fixture.registry.by_path) == {"a", "b"}
        assert set(fixture.supervisor.flow_statistics) == {"a", "b", "health"}

    run_in_virtual_time(scenario)


def test_flows_that_write_one_file_must_write_it_in_the_same_way(tmp_path: Path) -> None:
    """A flow can change its own way, and then another flow can use it."""
    path, same = tmp_path / "out.csv", f"{tmp_path}/./out.csv"

    async def scenario(fixture: Fixture) -> None:
        taken = [
            await fixture.deploy(Flow[Any](name).to(outlet), digest, source=f"{name}.yaml")
            for name, digest, outlet in (
                ("a", "1", FileSink(path)),
                ("b", "1", FileSink(same)),
                ("c", "1", FileSink(same, fields=["n"])),
                ("a", "2", FileSink(path, fields=["n"])),
                ("b", "2", DiscardSink()),
                ("a", "3", FileSink(path, fields=["n"])),
            )
        ]
        outcomes = [result.outcome for result in taken]
        assert outcomes == ["accepted", "accepted", "rejected", "rejected", "accepted", "accepted"]
        assert [str(taken[number].diagnostics[0]).split(", and ")[0] for number in (2, 3)] == [
            f"c.yaml: {same} cannot be written to: it is the same file as {path} of the flow 'a' (csv)",
            f"a.yaml: {path} cannot be written to: it is the same file as {same} of the flow 'b' (csv)",
        ]

    run_in_virtual_time(scenario)


def test_flows_can_swap_their_paths_in_one_deployment() -> None:
    """Conflicts are checked for all candidates together."""

    async def scenario(fixture: Fixture) -> None:
        one, two = Flow[Any]("one"), Flow[Any]("two")
        await fixture.registry.deploy(candidate(one.serve("x")), candidate(two.serve("y")))
        results = await fixture.registry.deploy(candidate(one.serve("y"), "2"), candidate(two.serve("x"), "2"))
        assert [result.outcome for result in results] == ["accepted"] * 2
        assert {path: revision.name for path, revision in fixture.registry.by_path.items()} == {"x": "two", "y": "one"}

    run_in_virtual_time(scenario)


def test_a_rejected_flow_keeps_its_path() -> None:
    """So candidates that needed that path are rejected too."""

    async def scenario(fixture: Fixture) -> None:
        one, two = Flow[Any]("one"), Flow[Any]("two")
        await fixture.registry.deploy(candidate(one.serve("x")), candidate(two.serve("y")))
        results = await fixture.registry.deploy(candidate(one.serve("health"), "2"), candidate(two.serve("x"), "2"))
        assert [result.outcome for result in results] == ["rejected"] * 2
        assert {path: revision.name for path, revision in fixture.registry.by_path.items()} == {"x": "one", "y": "two"}

    run_in_virtual_time(scenario)


def test_a_flow_stays_if_its_replacement_is_rejected() -> None:
    """A file that now has another name removes its old flow only if the new one is accepted."""

    async def scenario(fixture: Fixture) -> None:
        await fixture.registry.deploy(candidate(Flow("old")), candidate(Flow("other")))
        bad = candidate(Flow[Any]("new").serve("other"))
        (result,) = await fixture.registry.deploy(bad, removals={"old": bad})
        assert (result.outcome, set(fixture.registry.by_path)) == ("rejected", {"old", "other"})
        good = candidate(Flow[Any]("new").serve("old"))
        results = await fixture.registry.deploy(good, removals={"old": good})
        assert [(each.flow, each.outcome) for each in results] == [("new", "accepted"), ("old", "removed")]
        assert fixture.registry.by_path["old"].name == "new"

    run_in_virtual_time(scenario)


def test_deployments_are_rejected_during_shutdown() -> None:
    """Like runs."""

    async def scenario(fixture: Fixture) -> None:
        fixture.supervisor.signal(Event.SIGNAL)
        with pytest.raises(ShuttingDown):
            await fixture.deploy(Flow("a"))

    run_in_virtual_time(scenario)


# Removing


def test_a_removed_flow_starts_no_new_runs() -> None:
    """Its open runs continue to their end; its revision numbers continue if it comes back."""

    async def scenario(fixture: Fixture) -> None:
        await fixture.deploy(times(2, 1))
        sink = ResultStream()
        run = fixture.start("times", ticks(1, 5), sink)
        (result,) = await fixture.registry.deploy(removals={"times": None})
        assert (result.outcome, result.revision) == (DeploymentStatus.REMOVED, 1)
        assert (fixture.registry.by_path, fixture.registry.active, fixture.counters.active) == ({}, [], {})
        assert await fixture.registry.deploy(removals={"times": None}) == []
        assert await values(run, sink) == [0, 2, 4, 6, 8]
        await asyncio.sleep(1)
        assert "times" not in fixture.registry.flows
        assert (await fixture.deploy(times(3))).revision == 2

    run_in_virtual_time(scenario)


def test_a_revision_is_retired_after_its_last_run() -> None:
    """Only the active revision and those with runs are listed, and the services of the others are released."""

    async def scenario(fixture: Fixture) -> None:
        await fixture.deploy(times(1, 1), "0")
        run = fixture.start("times", ticks(1, 100))
        for number in range(1, 30):
            await fixture.deploy(times(number), str(number))
            await asyncio.sleep(0.01)
        assert fixture.states("times") == ["draining", "active"]
        assert len(fixture.supervisor.service_counters["multiply"].services) == 2
        run.drain()
        await run.finished
        await asyncio.sleep(0.01)
        assert [revision.number for revision in fixture.registry.flows["times"].revisions] == [30]
        assert len(fixture.supervisor.service_counters["multiply"].services) == 1

    run_in_virtual_time(scenario)


def test_a_removed_flow_leaves_nothing_behind() -> None:
    """Neither revisions nor counters; the counts of deployments are kept without its name."""

    async def scenario(fixture: Fixture) -> None:
        for name in "abc":
            await fixture.deploy(Flow(name))
        for name in "bc":
            await fixture.registry.deploy(removals={name: None})
            await asyncio.sleep(0.01)
        assert fixture.registry.flows.keys() == fixture.supervisor.flow_statistics.keys() == {"a"}
        assert fixture.counters.outcomes == {("a", "accepted"): 1, ("", "accepted"): 2, ("", "removed"): 2}

    run_in_virtual_time(scenario)


def test_revision_numbers_only_grow() -> None:
    """Also those of a flow that was removed and comes back while or after others were removed."""

    async def scenario(fixture: Fixture) -> None:
        for digest in "12345":
            await fixture.deploy(Flow("a"), digest)
        await fixture.deploy(Flow("b"))
        for name in "ba":
            await fixture.registry.deploy(removals={name: None})
            await asyncio.sleep(0.01)
        results = await fixture.registry.deploy(candidate(Flow("a"), "6"), candidate(Flow("b"), "2"))
        assert [result.revision for result in results] == [6, 6]
        (result,) = await fixture.registry.deploy(removals={"b": None})
        assert result.revision == 6
        assert (await fixture.deploy(Flow("b"), "3")).revision == 7

    run_in_virtual_time(scenario)


def test_a_flow_that_is_deployed_again_while_it_ends_is_kept() -> None:
    """Its last run may end while the next revision is being deployed."""

    async def scenario(fixture: Fixture) -> None:
        await fixture.deploy(times(2, 1))
        run = fixture.start("times", from_iterable([1]))
        await fixture.registry.deploy(removals={"times": None})
        deployment = asyncio.create_task(fixture.deploy(times(3), "2"))
        await run.finished
        assert (await deployment).revision == 2
        await asyncio.sleep(1)
        assert fixture.states("times") == ["active"]
        assert fixture.supervisor.flow_statistics["times"].received == 1

    run_in_virtual_time(scenario)


# Stores


async def fails(value: Any) -> Any:
    """Fail."""
    raise ValueError(value)


def failing(url: str) -> Flow[Any]:
    """A flow whose items all fail."""
    return Flow[Any]("fails").map_async(fails, name="fails").dead_letters(url)


async def test_a_store_is_closed_after_the_last_revision_that_uses_it(tmp_path: Path) -> None:
    """The default store of the service and stores in memory stay open."""
    urls = [f"sqlite:///{tmp_path}/{name}.db" for name in "abk"]
    fixture = Fixture(keep_open=urls[2])
    stores = fixture.supervisor.stores
    await stores.get(urls[2])
    with capture_logs():
        await fixture.deploy(failing(urls[0]), "1")
        await fixture.start("fails", from_iterable(range(3))).finished
        for digest, url in enumerate((urls[1], "memory:", urls[2], urls[1]), start=2):
            await fixture.deploy(failing(url), str(digest))
            while len(fixture.states("fails")) > 1:
                await asyncio.sleep(0.01)
        assert {store.url for store in stores.all()} == {urls[1], urls[2], "memory:"}
        letters = await (await stores.get(urls[0])).page(DeadLetterQuery())
        assert [letter.revision for letter in letters.letters] == [1, 1, 1]
        await fixture.close()


async def test_a_store_that_cannot_be_opened_rejects_its_flow(tmp_path: Path) -> None:
    """The previous revision stays active, and nothing of the rejected one is left."""
    fixture = Fixture()
    with capture_logs():
        await fixture.deploy(failing("memory:"))
        result = await fixture.deploy(failing(f"sqlite:///{tmp_path}/nowhere/x.db"), "2")
        other = await fixture.deploy(Flow[Any]("other").dead_letters(f"sqlite:///{tmp_path}/nowhere/x.db"))
        assert [result.outcome, other.outcome] == ["rejected"] * 2
        assert "there is no folder" in result.diagnostics[0].message
        assert fixture.states("fails") == ["active"]
        assert set(fixture.supervisor.flow_statistics) == {"fails"}
        assert len(fixture.supervisor.service_counters["fails"].services) == 1
        await fixture.close()
