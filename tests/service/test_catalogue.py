"""The catalogue: one revision of a flow takes over from another, and nothing that runs notices."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from laws.virtual import quiet, within
from penstock import Flow, Service, from_iterable
from penstock.deadletters import DeadLetterQuery
from penstock.errors import ShuttingDown
from penstock.observe import ReloadCounters
from penstock.results import DiscardResults, ResultStream
from penstock.runtime import Event, Every, Run, Supervisor
from penstock.sinks import DiscardSink, FileSink
from penstock.sources import generate, ticks
from penstock_http.deployments.registry import FlowRegistry
from penstock_http.deployments.result import DeploymentResult, DeploymentStatus
from penstock_http.deployments.revision import FlowCandidate


def offered(flow: Flow[Any], digest: str = "1", source: str = "a.yaml") -> FlowCandidate:
    """An offer of a flow."""
    return FlowCandidate(flow, digest, source)


class House:
    """A catalogue with what it stands on."""

    def __init__(self, keep: str = "") -> None:
        self.supervisor = Supervisor()
        self.reloads = ReloadCounters()
        self.registry = FlowRegistry(self.supervisor, self.reloads, keep_open=keep)

    async def take(self, flow: Flow[Any], digest: str = "1", source: str = "a.yaml", **how: Any) -> DeploymentResult:
        """Offer one flow."""
        (receipt,) = await self.registry.deploy(offered(flow, digest, source), **how)
        return receipt

    def start(self, name: str, source: Any, sink: Any = None, kind: str = "http") -> Run:
        """A run of what is active."""
        active = self.registry.flows[name].active
        assert active is not None
        return self.supervisor.start(active, source, sink or DiscardResults(), kind=kind)

    def states(self, name: str) -> list[str]:
        """The states of a flow's revisions, oldest first."""
        return [revision.state.value for revision in self.registry.flows[name].revisions]

    async def close(self) -> None:
        """Take everything down; nothing is left."""
        await self.registry.aclose()
        await self.supervisor.shut_down(60)
        assert [task.get_name() for task in asyncio.all_tasks() if task is not asyncio.current_task()] == []


def inside(story: Callable[[House], Awaitable[Any]], keep: str = "") -> Any:
    """Tell a story in virtual time; returns what it returns."""

    async def main() -> Any:
        house = House(keep)
        told = await story(house)
        await house.close()
        return told

    with capture_logs():
        return quiet(within(100_000, main()))


def times(factor: int, seconds: float = 0) -> Flow[Any]:
    """A flow that multiplies, slowly."""

    async def multiply(value: int) -> int:
        await asyncio.sleep(seconds)
        return value * factor

    return Flow("times").map_async(multiply, name="multiply")


async def values(run: Run, sink: ResultStream) -> list[Any]:
    """What a run gives."""
    found = []
    while (result := await sink.next()) is not None:
        found.append(result.value)
    await run.finished
    return found


def test_new_runs_take_the_new_revision_and_old_ones_go_on() -> None:
    """A run that is open when a flow is replaced ends as it began: all its input, through its own steps."""

    async def story(house: House) -> None:
        first = await house.take(times(2, 1), "one")
        old_sink, new_sink = ResultStream(), ResultStream()
        old = house.start("times", ticks(1, 10), old_sink)
        await asyncio.sleep(3.5)
        second = await house.take(times(3), "two")
        new = house.start("times", from_iterable([1, 2]), new_sink)

        assert [(r.outcome, r.revision, r.digest) for r in (first, second)] == [
            (DeploymentStatus.ACCEPTED, 1, "one"),
            (DeploymentStatus.ACCEPTED, 2, "two"),
        ]
        assert (old.revision, new.revision) == (1, 2)
        assert await values(new, new_sink) == [3, 6]
        assert house.states("times") == ["draining", "active"]
        assert await values(old, old_sink) == [2 * number for number in range(10)]
        assert (await old.finished).reason == "completed"
        await asyncio.sleep(0.1)
        assert house.states("times") == ["active"]
        assert house.supervisor.totals["times"].received == 12

    inside(story)


def test_a_request_that_holds_a_revision_may_still_start_its_run() -> None:
    """A body that is gathered before its run starts is for the revision that it began with."""

    async def story(house: House) -> None:
        await house.take(times(2))
        revision = house.registry.by_path["times"]
        with revision.use():
            await house.take(times(3), "2")
            await asyncio.sleep(1000)
            assert house.states("times") == ["draining", "active"]
            sink = ResultStream()
            run = house.supervisor.start(revision, from_iterable([1]), sink)
        assert await values(run, sink) == [2]
        await asyncio.sleep(0.1)
        assert house.states("times") == ["active"]

    inside(story)


def test_what_is_the_same_is_not_loaded_again() -> None:
    """The same digest: nothing changes, and the receipt says so."""

    async def story(house: House) -> None:
        await house.take(times(2), "one")
        receipt = await house.take(times(3), "one")
        assert (receipt.outcome, receipt.revision) == (DeploymentStatus.UNCHANGED, 1)
        assert house.states("times") == ["active"]
        assert house.reloads.outcomes == {("times", "accepted"): 1, ("times", "unchanged"): 1}

    inside(story)


def test_a_dry_offer_changes_nothing() -> None:
    """Its receipt says what would have come of it."""

    async def story(house: House) -> None:
        receipt = await house.take(times(2), dry_run=True)
        assert (receipt.outcome, receipt.revision) == (DeploymentStatus.ACCEPTED, 1)
        assert (house.registry.flows, house.supervisor.totals, house.reloads.outcomes) == ({}, {}, {})
        await house.take(times(2))
        assert (await house.take(times(3), "2", dry_run=True)).revision == 2
        assert house.states("times") == ["active"]

    inside(story)


# Services


async def answer(value: Any) -> Any:
    """An answer."""
    return value


def asking(name: str, *, attempts: int = 1) -> Flow[Any]:
    """A flow that asks a service that is described anew each time."""
    return Flow(name).map_async(Service("oracle", answer, attempts=attempts, max_in_flight=3))


def test_equal_services_are_one_bulkhead() -> None:
    """Over revisions and over flows, also within one offer; a service that was changed is another one."""

    async def story(house: House) -> None:
        await house.registry.deploy(offered(asking("a")), offered(asking("b")))
        await house.take(asking("a"), "2")
        services = [revision.all_services[0] for revision in house.registry.active]
        assert services[0] is services[1]
        await house.take(asking("a", attempts=2), "3")
        assert house.registry.by_path["a"].services[0] is not services[0]
        assert house.registry.by_path["b"].services[0] is services[0]

    inside(story)


def test_calls_stay_counted_when_their_service_is_replaced() -> None:
    """Counters never go down while there is a service of their name."""

    async def story(house: House) -> None:
        await house.take(asking("a"))
        await house.start("a", from_iterable(range(5))).finished
        await house.take(asking("a", attempts=2), "2")
        await house.start("a", from_iterable(range(2))).finished
        await asyncio.sleep(1)
        calls = house.supervisor.calls["oracle"]
        assert (len(calls.services), calls.statistics().max_in_flight, calls.statistics().results["ok"]) == (1, 3, 7)

    inside(story)


def test_two_services_of_one_name_in_a_flow_are_not_mixed_up() -> None:
    """They cannot be told apart by their name, so both stay what they are."""

    async def double(value: int) -> int:
        return value * 2

    def flow() -> Flow[Any]:
        return Flow("a").map_async(Service("s", answer)).map_async(Service("s", double))

    async def story(house: House) -> None:
        await house.take(flow())
        await house.take(flow(), "2")
        sink = ResultStream()
        assert await values(house.start("a", from_iterable([4]), sink), sink) == [8]

    inside(story)


# Workers


def working(
    log: list[tuple[str, str]], tag: str, seconds: float = 3, names: tuple[str, ...] = ("A",), every: float = 10
) -> Flow[Any]:
    """A flow with workers that say what they do."""

    async def work(value: int) -> int:
        log.append((tag, "begins"))
        await asyncio.sleep(seconds)
        log.append((tag, "ends"))
        return value

    flow = Flow[Any]("works").map_async(work, name="work", max_in_flight=1).window(1)
    for name in names:
        flow = flow.worker(name, generate(2, int), Every(every))
    return flow


def test_workers_change_over() -> None:
    """The old one is drained: what it has in flight ends, then the new one begins; never do two run at once."""
    log: list[tuple[str, str]] = []

    async def story(house: House) -> None:
        await house.take(working(log, "old"))
        await asyncio.sleep(1)
        await house.take(working(log, "new"), "2")
        await asyncio.sleep(9)

    inside(story)
    assert log[:4] == [("old", "begins"), ("old", "ends"), ("new", "begins"), ("new", "ends")]
    assert {tag for tag, _ in log[4:]} == {"new"}


def test_workers_of_a_revision_that_was_skipped_never_run() -> None:
    """Three in a row: while the first one's workers drain, only the last one's wait for their turn."""
    log: list[tuple[str, str]] = []

    async def story(house: House) -> None:
        await house.take(working(log, "1"))
        await asyncio.sleep(1)
        await house.take(working(log, "2", names=("A", "B")), "2")
        await house.take(working(log, "3"), "3")
        with capture_logs() as said:
            await asyncio.sleep(100)
        assert {event["revision"] for event in said if event["event"] == "run.ended"} == {1, 3}
        assert house.states("works") == ["active"]
        assert list(house.supervisor.workers) == [("works", "A")]

    inside(story)
    assert {tag for tag, _ in log} == {"1", "3"}


def test_workers_that_are_gone_are_ended() -> None:
    """A worker that the new revision does not have, and all of a flow that was removed."""
    log: list[tuple[str, str]] = []

    async def story(house: House) -> None:
        await house.take(working(log, "1", names=("A", "B")))
        await asyncio.sleep(50)
        await house.take(working(log, "2", names=("B",)), "2")
        await asyncio.sleep(50)
        assert list(house.supervisor.workers) == [("works", "B")]
        await house.registry.deploy(removals={"works": None})
        await asyncio.sleep(50)
        assert (house.supervisor.workers, house.supervisor.runs) == ({}, {})

    inside(story)


# Refusals


def test_one_name_is_one_flow_and_one_path_leads_to_one() -> None:
    """Whoever comes later is refused, with the reason, and what ran before runs on."""

    async def story(house: House) -> None:
        await house.take(Flow("a"))
        both = await house.registry.deploy(offered(Flow("b"), source="b.yaml"), offered(Flow("b"), source="c.yaml"))
        taken = await house.take(Flow[Any]("c").serve("a"))
        own = await house.take(Flow[Any]("d").serve("flows"))
        hidden = await house.take(Flow[Any]("health").serve(http=False))
        assert [receipt.outcome for receipt in (*both, taken, own, hidden)] == [
            "accepted",
            "rejected",
            "rejected",
            "rejected",
            "accepted",
        ]
        assert [str(receipt.diagnostics[0]) for receipt in (both[1], taken, own)] == [
            "c.yaml: there is a flow 'b' in b.yaml already; give it another name",
            "a.yaml: the flow 'a' is served as 'a' already; give it another name",
            "a.yaml: no flow can be served as 'flows': that path is the service's own; give it another name",
        ]
        assert set(house.registry.by_path) == {"a", "b"}
        assert set(house.supervisor.totals) == {"a", "b", "health"}

    inside(story)


def test_one_output_file_is_written_in_one_way(tmp_path: Path) -> None:
    """By all flows that are there; a flow may change its own way, and another may take it then."""
    path, same = tmp_path / "out.csv", f"{tmp_path}/./out.csv"

    async def story(house: House) -> None:
        taken = [
            await house.take(Flow[Any](name).to(outlet), digest, source=f"{name}.yaml")
            for name, digest, outlet in (
                ("a", "1", FileSink(path)),
                ("b", "1", FileSink(same)),
                ("c", "1", FileSink(same, fields=["n"])),
                ("a", "2", FileSink(path, fields=["n"])),
                ("b", "2", DiscardSink()),
                ("a", "3", FileSink(path, fields=["n"])),
            )
        ]
        outcomes = [receipt.outcome for receipt in taken]
        assert outcomes == ["accepted", "accepted", "rejected", "rejected", "accepted", "accepted"]
        assert [str(taken[number].diagnostics[0]).split(", and ")[0] for number in (2, 3)] == [
            f"c.yaml: {same} cannot be written: it is the same file as {path} of the flow 'a' (csv)",
            f"a.yaml: {path} cannot be written: it is the same file as {same} of the flow 'b' (csv)",
        ]

    inside(story)


def test_flows_may_swap_their_paths_at_once() -> None:
    """All offers of one moment are looked at together."""

    async def story(house: House) -> None:
        one, two = Flow[Any]("one"), Flow[Any]("two")
        await house.registry.deploy(offered(one.serve("x")), offered(two.serve("y")))
        receipts = await house.registry.deploy(offered(one.serve("y"), "2"), offered(two.serve("x"), "2"))
        assert [receipt.outcome for receipt in receipts] == ["accepted"] * 2
        assert {path: revision.name for path, revision in house.registry.by_path.items()} == {"x": "two", "y": "one"}

    inside(story)


def test_who_is_refused_keeps_the_path_that_it_has() -> None:
    """A refusal may refuse others: those that counted on its leaving."""

    async def story(house: House) -> None:
        one, two = Flow[Any]("one"), Flow[Any]("two")
        await house.registry.deploy(offered(one.serve("x")), offered(two.serve("y")))
        receipts = await house.registry.deploy(offered(one.serve("health"), "2"), offered(two.serve("x"), "2"))
        assert [receipt.outcome for receipt in receipts] == ["rejected"] * 2
        assert {path: revision.name for path, revision in house.registry.by_path.items()} == {"x": "one", "y": "two"}

    inside(story)


def test_a_flow_whose_successor_is_refused_stays() -> None:
    """A file that has another name in it by now ends its old flow only if the new one is taken."""

    async def story(house: House) -> None:
        await house.registry.deploy(offered(Flow("old")), offered(Flow("other")))
        bad = offered(Flow[Any]("new").serve("other"))
        (receipt,) = await house.registry.deploy(bad, removals={"old": bad})
        assert (receipt.outcome, set(house.registry.by_path)) == ("rejected", {"old", "other"})
        good = offered(Flow[Any]("new").serve("old"))
        receipts = await house.registry.deploy(good, removals={"old": good})
        assert [(each.flow, each.outcome) for each in receipts] == [("new", "accepted"), ("old", "removed")]
        assert house.registry.by_path["old"].name == "new"

    inside(story)


def test_nothing_is_taken_while_the_service_stops() -> None:
    """As for runs."""

    async def story(house: House) -> None:
        house.supervisor.signal(Event.SIGNAL)
        with pytest.raises(ShuttingDown):
            await house.take(Flow("a"))

    inside(story)


# Removing


def test_a_flow_that_was_removed_takes_no_new_runs() -> None:
    """Its open runs end as they would; its numbers go on if it comes back."""

    async def story(house: House) -> None:
        await house.take(times(2, 1))
        sink = ResultStream()
        run = house.start("times", ticks(1, 5), sink)
        (receipt,) = await house.registry.deploy(removals={"times": None})
        assert (receipt.outcome, receipt.revision) == (DeploymentStatus.REMOVED, 1)
        assert (house.registry.by_path, house.registry.active, house.reloads.active) == ({}, [], {})
        assert await house.registry.deploy(removals={"times": None}) == []
        assert await values(run, sink) == [0, 2, 4, 6, 8]
        await asyncio.sleep(1)
        assert "times" not in house.registry.flows
        assert (await house.take(times(3))).revision == 2

    inside(story)


def test_a_revision_is_dropped_after_its_last_run() -> None:
    """The active one and those that drain are shown, and the services of the others are released."""

    async def story(house: House) -> None:
        await house.take(times(1, 1), "0")
        run = house.start("times", ticks(1, 100))
        for number in range(1, 30):
            await house.take(times(number), str(number))
            await asyncio.sleep(0.01)
        assert house.states("times") == ["draining", "active"]
        assert len(house.supervisor.calls["multiply"].services) == 2
        run.drain()
        await run.finished
        await asyncio.sleep(0.01)
        assert [revision.number for revision in house.registry.flows["times"].revisions] == [30]
        assert len(house.supervisor.calls["multiply"].services) == 1

    inside(story)


def test_nothing_is_kept_of_a_flow_that_was_removed() -> None:
    """Neither its revisions nor its counters; what was loaded stays counted, without its name."""

    async def story(house: House) -> None:
        for name in "abc":
            await house.take(Flow(name))
        for name in "bc":
            await house.registry.deploy(removals={name: None})
            await asyncio.sleep(0.01)
        assert house.registry.flows.keys() == house.supervisor.totals.keys() == {"a"}
        assert house.reloads.outcomes == {("a", "accepted"): 1, ("", "accepted"): 2, ("", "removed"): 2}

    inside(story)


def test_revision_numbers_only_grow() -> None:
    """Also those of a flow that was removed, and comes back while or after another one was."""

    async def story(house: House) -> None:
        for digest in "12345":
            await house.take(Flow("a"), digest)
        await house.take(Flow("b"))
        for name in "ba":
            await house.registry.deploy(removals={name: None})
            await asyncio.sleep(0.01)
        receipts = await house.registry.deploy(offered(Flow("a"), "6"), offered(Flow("b"), "2"))
        assert [receipt.revision for receipt in receipts] == [6, 6]
        (receipt,) = await house.registry.deploy(removals={"b": None})
        assert receipt.revision == 6
        assert (await house.take(Flow("b"), "3")).revision == 7

    inside(story)


def test_a_flow_that_is_replaced_while_it_ends_is_kept() -> None:
    """Its last run may end while its next revision is opened."""

    async def story(house: House) -> None:
        await house.take(times(2, 1))
        run = house.start("times", from_iterable([1]))
        await house.registry.deploy(removals={"times": None})
        offering = asyncio.create_task(house.take(times(3), "2"))
        await run.finished
        assert (await offering).revision == 2
        await asyncio.sleep(1)
        assert house.states("times") == ["active"]
        assert house.supervisor.totals["times"].received == 1

    inside(story)


# Stores


async def fails(value: Any) -> Any:
    """Fails."""
    raise ValueError(value)


def failing(url: str) -> Flow[Any]:
    """A flow whose items all fail."""
    return Flow[Any]("fails").map_async(fails, name="fails").dead_letters(url)


async def test_a_store_is_open_as_long_as_a_revision_uses_it(tmp_path: Path) -> None:
    """It closes with the last of them; the service's own and those in memory stay."""
    urls = [f"sqlite:///{tmp_path}/{name}.db" for name in "abk"]
    house = House(keep=urls[2])
    stores = house.supervisor.stores
    await stores.get(urls[2])
    with capture_logs():
        await house.take(failing(urls[0]), "1")
        await house.start("fails", from_iterable(range(3))).finished
        for digest, url in enumerate((urls[1], "memory:", urls[2], urls[1]), start=2):
            await house.take(failing(url), str(digest))
            while len(house.states("fails")) > 1:
                await asyncio.sleep(0.01)
        assert {store.url for store in stores.all()} == {urls[1], urls[2], "memory:"}
        letters = await (await stores.get(urls[0])).page(DeadLetterQuery())
        assert [letter.revision for letter in letters.letters] == [1, 1, 1]
        await house.close()


async def test_a_store_that_cannot_be_opened_refuses_its_flow(tmp_path: Path) -> None:
    """What ran before runs on, and nothing of the new one is left."""
    house = House()
    with capture_logs():
        await house.take(failing("memory:"))
        receipt = await house.take(failing(f"sqlite:///{tmp_path}/nowhere/x.db"), "2")
        other = await house.take(Flow[Any]("other").dead_letters(f"sqlite:///{tmp_path}/nowhere/x.db"))
        assert [receipt.outcome, other.outcome] == ["rejected"] * 2
        assert "there is no folder" in receipt.diagnostics[0].message
        assert house.states("fails") == ["active"]
        assert set(house.supervisor.totals) == {"fails"}
        assert len(house.supervisor.calls["fails"].services) == 1
        await house.close()
