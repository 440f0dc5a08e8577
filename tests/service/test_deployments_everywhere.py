"""Deployments with several processes: every process serves the same flows, under the same revision numbers."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from penstock.flowfile.discovery import holds_flow
from penstock.observe import ReloadCounters
from penstock.runtime import Supervisor
from penstock.settings import Settings
from penstock_http.deployments.everywhere import EverywhereReloader, FilesChanged
from penstock_http.deployments.file_watcher import WatchedFiles
from penstock_http.deployments.registry import FlowRegistry
from penstock_http.deployments.reload import MAX_UPLOADED, Reloader
from penstock_http.problems import RequestRejected
from penstock_http.processes.deployments import Deployments
from penstock_http.server.bootstrap import make_loader
from service.connected import LocalParent
from waiting import until_async


def text(name: str, mark: object = 1) -> str:
    """A flow file. Its digest depends on the mark."""
    return f"flow: {name}\nsteps:\n  - set: {{mark: '{mark}'}}\n"


class Process:
    """What one process deploys with."""

    def __init__(self, parent: LocalParent, number: int, folder: Path) -> None:
        self.supervisor = Supervisor()
        self.registry = FlowRegistry(self.supervisor, ReloadCounters())
        files = WatchedFiles([folder], holds_flow=holds_flow)
        here = Reloader(self.registry, make_loader(Settings(dead_letters="memory")), files)
        self.reloader = EverywhereReloader(here, self.registry, parent.process(number))

    @property
    def served(self) -> dict[str, tuple[int, str]]:
        """The number and the digest of each active revision."""
        return {each.name: (each.number, each.digest) for each in self.registry.active}


class Service:
    """Several processes in one event loop."""

    def __init__(self, folder: Path, count: int) -> None:
        self.parent = LocalParent(count)
        self.folder = folder
        self.processes: dict[int, Process] = {}
        Deployments(self.parent, count, retry_seconds=0)

    async def start(self, *numbers: int, reload: bool = False) -> None:
        """Start processes, also again. With `reload` they read the files again, as the first one after SIGHUP."""
        for number in numbers:
            self.processes[number] = process = Process(self.parent, number, self.folder)
            async with self.parent.exclusive:
                self.parent.reloading = reload
                results = await process.reloader.start()
                if not any(result.diagnostics for result in results):
                    self.parent.ready(number)
                self.parent.reloading = False

    def write(self, name: str, mark: object) -> None:
        """Write a flow file."""
        (self.folder / f"{name}.yaml").write_text(text(name, mark))

    async def put(self, number: int, name: str, mark: object = 1, **options: Any) -> Any:
        """Upload a flow to one process."""
        return await self.processes[number].reloader.put(name, text(name, mark), "yaml", **options)

    def served(self) -> dict[str, tuple[int, str]]:
        """What all processes that serve have, which must be the same."""
        first, *others = (self.processes[number].served for number in self.parent.running)
        assert all(other == first for other in others), (first, others)
        return first

    def numbers(self) -> dict[str, int]:
        """The revision number of each flow in all processes."""
        return {name: number for name, (number, _) in self.served().items()}

    async def close(self) -> None:
        """Shut all processes down."""
        for process in self.processes.values():
            await process.registry.aclose()
            await process.supervisor.shut_down(1)


def scenario(steps: Callable[[Service], Awaitable[None]]) -> Callable[[Path], None]:
    """Make a test of a service with two processes."""

    def test(tmp_path: Path) -> None:
        async def main() -> None:
            service = Service(tmp_path, 2)
            service.write("base", 1)
            await service.start(1, 2)
            try:
                await steps(service)
            finally:
                await service.close()

        with capture_logs():
            asyncio.run(main())

    test.__doc__ = steps.__doc__
    return test


@scenario
async def test_an_upload_is_served_by_all_processes(service: Service) -> None:
    """Whichever process is asked. A dry run changes none; the same text again is unchanged in all."""
    dry = await service.put(1, "up", dry_run=True)
    assert (dry.outcome, dry.revision, service.numbers()) == ("accepted", 1, {"base": 1})
    assert [(await service.put(number, "up", mark)).outcome for number, mark in ((1, 1), (2, 2), (1, 2))] == [
        "accepted",
        "accepted",
        "unchanged",
    ]
    assert service.numbers() == {"base": 1, "up": 2}


@scenario
async def test_an_invalid_upload_changes_no_process(service: Service) -> None:
    """The process that was asked records it, as the only process of a service does."""
    await service.put(1, "up")
    result = await service.processes[2].reloader.put("up", "flow: up\nsteps: [{nope: 1}]\n", "yaml")
    assert (result.outcome, bool(result.diagnostics), service.numbers()) == ("rejected", True, {"base": 1, "up": 1})
    assert service.processes[2].registry.flows["up"].last_result.outcome == "rejected"
    with pytest.raises(RequestRejected) as rejected:
        await service.processes[1].reloader.put("up", text("other"), "yaml")
    assert (rejected.value.status, rejected.value.code, service.parent.killed) == (409, "name_mismatch", {})


@scenario
async def test_a_deletion_reaches_all_processes(service: Service) -> None:
    """A flow that comes back gets a higher number, also in a process that has never had it."""
    await service.put(1, "up")
    assert (await service.processes[2].reloader.delete("up")).outcome == "removed"
    assert service.numbers() == {"base": 1}
    service.parent.running.remove(2)
    await service.start(2)
    await service.put(2, "up")
    assert service.numbers() == {"base": 1, "up": 2}
    with pytest.raises(RequestRejected, match="not uploaded"):
        await service.processes[1].reloader.delete("base")


@scenario
async def test_a_process_that_does_not_answer_is_killed_and_comes_back_with_the_same_flows(service: Service) -> None:
    """The deployment succeeds without it. Its successor has the uploaded flows, under the numbers of the others."""
    await service.put(1, "up", 1)
    service.parent.frozen.add(2)
    assert (await service.put(1, "up", 2)).outcome == "accepted"
    assert list(service.parent.killed) == [2]
    service.parent.frozen.clear()
    await service.start(2)
    assert service.parent.running == [1, 2]
    assert service.numbers() == {"base": 1, "up": 2}


@scenario
async def test_a_deployment_is_completed_though_the_process_that_was_asked_ends(service: Service) -> None:
    """It has deployed by then, and the others try it as often as otherwise."""
    service.parent.gates[2] = asyncio.Event()
    service.parent.rejections[2] = 2
    asked = asyncio.ensure_future(service.put(1, "up"))
    await until_async(lambda: "up" in service.processes[1].served)
    asked.cancel()
    await asyncio.wait((asked,))
    service.parent.gates[2].set()
    await until_async(lambda: "up" in service.processes[2].served)
    assert (service.numbers(), service.parent.killed) == ({"base": 1, "up": 1}, {})


@scenario
async def test_a_process_that_rejects_what_others_accepted_tries_again(service: Service) -> None:
    """Its store may have been away for a moment. If it goes on rejecting it, it is killed, and comes back with it."""
    service.parent.rejections[2] = 2
    await service.put(1, "up", 1)
    assert (service.numbers(), service.parent.killed) == ({"base": 1, "up": 1}, {})
    service.parent.rejections[2] = 3
    await service.put(1, "up", 2)
    assert list(service.parent.killed) == [2]
    await service.start(2)
    assert service.numbers() == {"base": 1, "up": 2}


@scenario
async def test_an_upload_over_a_file_lasts_until_the_files_are_loaded_again(service: Service) -> None:
    """A process that replaces a crashed one has the upload; one that is started by a reload has the file."""
    await service.put(1, "base", 2)
    uploaded = service.served()["base"]
    service.parent.running.remove(2)
    await service.start(2)
    assert service.served()["base"] == uploaded == (2, uploaded[1])
    await service.start(3, reload=True)
    await service.start(4)
    del service.parent.running[:2]
    assert service.numbers() == {"base": 3}
    assert service.processes[3].registry.flows["base"].active.source.endswith("base.yaml")


@scenario
async def test_a_changed_file_is_loaded_by_all_processes_once(service: Service) -> None:
    """All of them see the change; the first that reports it causes the reload, and the others find it done."""
    service.write("base", 2)
    service.write("more", 1)
    tries = [process.reloader.try_reload("watch") for process in service.processes.values()]
    assert await asyncio.gather(*tries) == [True, True]
    assert service.numbers() == {"base": 2, "more": 1}
    assert [len(process.reloader.last.results) for process in service.processes.values()] == [2, 2]
    results = [process.reloader.last.results[0].outcome for process in service.processes.values()]
    assert results == ["accepted", "accepted"]  # a second reload would have found them unchanged
    (service.folder / "more.yaml").write_text("flow: more\nsteps: [{nope: 1}]\n")
    service.write("base", 3)
    assert await service.processes[2].reloader.try_reload("watch")
    assert service.numbers() == {"base": 3, "more": 1}


@scenario
async def test_a_process_that_replaces_one_that_died_serves_what_the_others_serve(service: Service) -> None:
    """Changes on disk that were not deployed have no effect: an edit, broken or not, a new or a deleted file."""
    (service.folder / "part.yaml").write_text("templates: {t: [{set: {mark: '1'}}]}\n")
    including = "flow: whole\ninclude: [part.yaml]\nsteps: [{use: t}]\n"
    (service.folder / "whole.yaml").write_text(including)
    service.write("gone", 1)
    assert await service.processes[1].reloader.try_reload("watch")
    await service.put(2, "up")
    await service.put(2, "base", 7)
    expected = service.served()
    (service.folder / "base.yaml").write_text("flow: base\nsteps: [{nope: 1}]\n")
    (service.folder / "part.yaml").write_text("templates: {t: [{nope: 1}]}\n")
    (service.folder / "gone.yaml").unlink()
    service.write("new", 1)
    service.parent.running.clear()  # all of them
    await service.start(1, 2)
    assert service.served() == expected
    await service.start(3, reload=True)
    assert service.parent.running == [1, 2]  # it could not start
    service.parent.running.remove(2)
    await service.start(2)
    assert service.served() == expected


@scenario
async def test_the_next_reload_finds_what_a_process_that_died_has_not_read(service: Service) -> None:
    """A change on disk that came when no process served. Afterwards the files are those that are kept."""
    service.write("base", 2)
    service.parent.running.clear()
    await service.start(1, 2)
    assert service.numbers() == {"base": 1}
    for process in service.processes.values():
        assert (
            await asyncio.to_thread(process.reloader.files.stamps, process.reloader.stamps) != process.reloader.stamps
        )
    assert await service.processes[2].reloader.try_reload("watch")
    assert service.numbers() == {"base": 2}
    service.write("base", 3)
    service.parent.running.remove(1)
    await service.start(1)
    assert service.numbers() == {"base": 2}
    for process in service.processes.values():
        assert await process.reloader.try_reload("watch")
    assert service.numbers() == {"base": 3}
    (service.folder / "base.yaml").unlink()
    assert await service.processes[1].reloader.try_reload("watch")
    service.parent.running.remove(2)
    await service.start(2)
    assert service.numbers() == {}


@scenario
async def test_a_reload_counts_when_its_first_process_serves(service: Service) -> None:
    """The others then serve the same. One that dies before that has changed nothing, whatever it has read."""
    service.write("base", 2)
    await service.start(3, reload=True)
    service.parent.running.clear()
    service.write("base", 3)
    await service.start(1, 2)
    assert service.numbers() == {"base": 2}
    process = Process(service.parent, 3, service.folder)
    service.parent.reloading = True
    await process.reloader.start()  # and dies before it serves
    service.parent.reloading = False
    service.parent.running.remove(2)
    await service.start(2)
    assert (process.served["base"][0], service.numbers()) == (3, {"base": 2})


@scenario
async def test_a_reload_removes_the_flows_of_deleted_files(service: Service) -> None:
    """Also one that was replaced by an upload. Another upload stays."""
    service.write("gone", 1)
    await service.processes[1].reloader.try_reload("watch")
    await service.put(1, "gone", 2)
    await service.put(1, "up")
    (service.folder / "gone.yaml").unlink()
    await service.start(3, reload=True)
    await service.start(4)
    del service.parent.running[:2]
    assert service.numbers() == {"base": 1, "up": 1}
    await service.put(3, "gone", 2)
    assert service.numbers()["gone"] == 3


async def test_processes_that_start_together_read_the_same_files(tmp_path: Path) -> None:
    """One that has read another text than an earlier one fails, instead of serving something else."""
    service = Service(tmp_path, 2)
    service.write("base", 1)
    with capture_logs():
        await Process(service.parent, 1, tmp_path).reloader.start()
        service.write("base", 2)
        with pytest.raises(FilesChanged, match="changed while the processes started"):
            await Process(service.parent, 2, tmp_path).reloader.start()


@scenario
async def test_the_limit_of_uploaded_flows_is_one_for_all_processes(service: Service) -> None:
    """Uploads count wherever they were made."""
    for number in range(MAX_UPLOADED):
        await service.put(1 + number % 2, f"f{number}")
    with pytest.raises(RequestRejected) as rejected:
        await service.put(2, "more")
    assert rejected.value.code == "too_many_flows"
    assert len(service.served()) == 1 + MAX_UPLOADED
