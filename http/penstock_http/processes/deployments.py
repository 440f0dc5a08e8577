"""Deployments to all processes of a service: the side of the parent.

The parent keeps what a process that starts needs in order to serve what the others serve: the texts of flow files and
of uploaded flows, and the numbers of the active revisions. One deployment is made at a time, and none while a process
starts. First all processes validate an uploaded flow. Then one of them deploys, and after that the others.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import structlog
from msgspec import msgpack, structs

from penstock_http.processes.deployment_messages import (
    EVERYWHERE,
    HERE,
    JOIN,
    LOADED,
    UPLOAD,
    UPLOADED,
    ActiveRevision,
    Command,
    Joined,
    Loaded,
    Reply,
    Upload,
)
from penstock_http.processes.flow_files import KeptTexts
from penstock_http.processes.peers import NoAnswer
from penstock_http.processes.resources import ParentProcess

log: structlog.stdlib.BoundLogger = structlog.get_logger()

HERE_SECONDS = 90.0
"""Timeout of a deployment in one process. Loading has 60 seconds."""

ATTEMPTS = 3
"""Attempts to deploy in a process that rejects what another one has accepted, for example because its store is away."""


class Deployments:
    """Makes deployments in all processes, of which there are `count`."""

    def __init__(self, parent: ParentProcess, count: int, *, retry_seconds: float = 1.0) -> None:
        self._parent = parent
        self._count = count
        self._retry_seconds = retry_seconds
        self._version = 0
        self._revisions: dict[str, ActiveRevision] = {}
        self._uploads: dict[str, Upload] = {}
        self._files = KeptTexts(parent)
        self._starting: dict[int, Loaded] = {}
        """What processes have loaded that do not serve yet."""
        self._removed = 0
        self._deploying: set[asyncio.Task[bytes]] = set()
        parent.on(JOIN, self._join)
        parent.on(UPLOAD, self._upload)
        parent.on(LOADED, self._loaded)
        parent.on(EVERYWHERE, self._everywhere)
        parent.on_ready(self._ready)
        parent.on_exit(lambda number: self._starting.pop(number, None))

    async def _join(self, _number: int, _payload: bytes) -> bytes:
        """Return what a process that starts is to serve."""
        reads = self._parent.reloading
        uploads = [name for name, upload in self._uploads.items() if not (reads and upload.replaces_file)]
        joined = Joined(
            version=self._version,
            known=self._revisions,
            removed=self._removed,
            uploads=uploads,
            files=None if reads else self._files.files,
        )
        return msgpack.encode(joined)

    async def _upload(self, _number: int, payload: bytes) -> bytes:
        return msgpack.encode(self._uploads[payload.decode()])

    async def _loaded(self, number: int, payload: bytes) -> bytes:
        """Take note of what a process that starts has loaded. It counts when the process serves."""
        loaded = msgpack.decode(payload, type=Loaded)
        if loaded.files is not None and not self._parent.reloading:  # one of the first processes
            others = [self._files.files, *(each.files for each in self._starting.values())]
            if any(other is not None and other.files != loaded.files.files for other in others):
                return b"differs"
        self._starting[number] = loaded
        return b""

    def _ready(self, number: int) -> None:
        """Have all processes that start serve what this one serves, which may have read the files again."""
        if (loaded := self._starting.pop(number, None)) is None:
            return
        if loaded.files is not None:
            self._files.accept(loaded.files)
        # What is newer than what the others serve has a higher number.
        for name, revision in loaded.revisions.items():
            known = self._revisions.get(name)
            if known is None or revision.number >= known.number:
                self._revisions[name] = revision
                if revision.source != UPLOADED:
                    self._uploads.pop(name, None)
        if self._parent.reloading:
            for name in [name for name in self._revisions if name not in loaded.revisions]:
                upload = self._uploads.get(name)
                if upload is None or upload.replaces_file:  # the file of the flow is gone
                    self._removed = max(self._removed, self._revisions.pop(name).number)
                    self._uploads.pop(name, None)

    async def _everywhere(self, number: int, payload: bytes) -> bytes:
        """Deploy in all processes. What has begun is completed, also if the process that asks for it ends."""
        task = asyncio.create_task(self._deploy_alone(number, payload), name="deployment")
        self._deploying.add(task)
        task.add_done_callback(self._deploying.discard)
        return await asyncio.shield(task)

    async def _deploy_alone(self, number: int, payload: bytes) -> bytes:
        """Deploy while no process starts and nothing else is deployed."""
        command = msgpack.decode(payload, type=Command)
        async with self._parent.exclusive:
            return msgpack.encode(await self._deploy(number, command))

    async def _deploy(self, asker: int, command: Command) -> Reply:
        """Deploy in all processes. Raises `NoAnswer` if none deploys."""
        if command.kind == "reload" and command.version != self._version:
            # Files were loaded since the process saw that they changed. It checks them again.
            return Reply(accepted=True, version=self._version)
        command = structs.replace(command, version=self._version + 1)
        running = self._parent.running
        if not running:
            raise NoAnswer("deployments: no process serves")
        first = asker if asker in running else running[0]
        others = [number for number in running if number != first]
        if command.kind == "put" and (rejected := await self._validate(first, others, command)) is not None:
            return rejected
        reply = await self._tell(first, command)
        if reply is None:
            raise NoAnswer(f"deployments: process {first} has not deployed")
        if reply.accepted:
            self._record(command, reply)
            await self._deploy_in(others, command)
        return reply

    async def _validate(self, first: int, others: Sequence[int], command: Command) -> Reply | None:
        """Validate an uploaded flow in all processes. Returns None if it is to be deployed.

        A flow that the first process rejects is to be deployed there, which records that it is invalid.
        """
        check = structs.replace(command, dry_run=True)
        own, *replies = await asyncio.gather(*(self._tell(number, check) for number in (first, *others)))
        if own is None:
            raise NoAnswer(f"deployments: process {first} does not answer")
        rejected = next((reply for reply in replies if reply is not None and not reply.accepted), None)
        if command.dry_run:
            return rejected or own
        return rejected if own.accepted else None

    async def _deploy_in(self, others: Sequence[int], command: Command) -> None:
        """Deploy in the other processes. One that fails is replaced, and then serves the same."""
        replies = await asyncio.gather(*(self._persist(number, command) for number in others))
        for number, reply in zip(others, replies, strict=True):
            if number not in self._parent.running or (reply is not None and reply.leaves):
                continue
            if reply is None:
                self._parent.kill(number, f"it did not answer the deployment of {command.name or 'all files'}")
            elif self._differs(command, reply):
                self._parent.kill(number, f"it rejected the deployment of {command.name}, which others accepted")
            elif command.kind == "reload":
                self._keep_newer(reply)

    async def _persist(self, number: int, command: Command) -> Reply | None:
        """Deploy in one process, and try again if it rejects what the first one has accepted."""
        reply = await self._tell(number, command)
        for _ in range(ATTEMPTS - 1):
            if reply is None or reply.leaves or not self._differs(command, reply):
                break
            await asyncio.sleep(self._retry_seconds)
            reply = await self._tell(number, command)
        return reply

    def _differs(self, command: Command, reply: Reply) -> bool:
        """Whether a process serves something else than the first one under the name of a command."""
        served, expected = reply.revisions.get(command.name), self._revisions.get(command.name)
        return (served and served.digest) != (expected and expected.digest)

    def _record(self, command: Command, reply: Reply) -> None:
        """Take note of what the first process serves now."""
        name = command.name
        before, now = self._revisions.get(name), reply.revisions.get(name)
        if command.kind == "put" and now is not None and now.source == UPLOADED:
            previous = self._uploads.get(name)
            over_file = previous.replaces_file if previous else before is not None and before.source != UPLOADED
            self._uploads[name] = Upload(command.text, command.format, over_file)
        gone = [revision.number for flow, revision in self._revisions.items() if flow not in reply.revisions]
        self._removed = max(self._removed, *gone, 0)
        self._revisions = dict(reply.revisions)
        self._uploads = {
            flow: upload
            for flow, upload in self._uploads.items()
            if (active := self._revisions.get(flow)) is not None and active.source == UPLOADED
        }
        self._version = command.version
        if reply.files is not None:
            self._files.accept(reply.files)

    def _keep_newer(self, reply: Reply) -> None:
        """Take note of files that a process has read after they changed once more."""
        for flow, revision in reply.revisions.items():
            if flow in self._revisions and revision.number > self._revisions[flow].number:
                self._revisions[flow] = revision
                if reply.files is not None:
                    self._files.accept(reply.files)

    async def _tell(self, number: int, command: Command) -> Reply | None:
        """Deploy in one process. Returns None if it does not answer."""
        sent = structs.replace(command, known=self._revisions, removed=self._removed)
        try:
            answer = await self._parent.tell(number, HERE, msgpack.encode(sent), timeout=HERE_SECONDS)
        except NoAnswer as error:
            log.warning("deployment.unanswered", number=number, flow=command.name, error=str(error))
            return None
        return msgpack.decode(answer, type=Reply)
