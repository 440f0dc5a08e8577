"""Deploy in all processes of the service: each request for a deployment goes to the parent, which asks all of them."""

from __future__ import annotations

from typing import Any, TypeAlias

import structlog
from msgspec import Struct, msgpack

from penstock.errors import PenstockError
from penstock_http.deployments.file_watcher import FileStamps, WatchedFiles
from penstock_http.deployments.kept_files import fetch_files, send_files
from penstock_http.deployments.registry import FlowRegistry
from penstock_http.deployments.reload import Reloader, ReloadResult
from penstock_http.deployments.result import DeploymentResult, DeploymentStatus
from penstock_http.problems import RETRY_SECONDS, RequestRejected, rejection_for
from penstock_http.processes.deployment_messages import (
    EVERYWHERE,
    EVERYWHERE_SECONDS,
    HERE,
    JOIN,
    LOADED,
    REJECTED,
    UPLOAD,
    ActiveRevision,
    Command,
    Joined,
    Loaded,
    Reply,
    Upload,
)
from penstock_http.processes.peers import NoAnswer, Peers

log: structlog.stdlib.BoundLogger = structlog.get_logger()

PARENT_SECONDS = 10.0
"""Timeout of a question to the parent at the start."""


AnyReloader: TypeAlias = "Reloader | EverywhereReloader"
"""Deploys in this process, which is the only one, or in all of them."""

SHUTTING_DOWN = "shutting_down"
"""The code of the rejection while the service shuts down."""


class FilesChanged(PenstockError):
    """Processes that started at the same time have read different texts."""

    def __init__(self) -> None:
        super().__init__("the flow files changed while the processes started; start again")


class Rejection(Struct, frozen=True):
    """A `RequestRejected` on its way to another process."""

    status: int
    code: str
    detail: str
    headers: dict[str, str]
    members: dict[str, Any]


class EverywhereReloader:
    """Loads and deploys flows in all processes of the service, like `Reloader` in one of them.

    It deploys in this process through `here`, also what another process was asked for.
    """

    def __init__(self, here: Reloader, registry: FlowRegistry, peers: Peers) -> None:
        self._here = here
        self._registry = registry
        self._peers = peers
        self._version = 0
        """The last deployment that this process made."""
        peers.on(HERE, self._deploy_here)
        peers.on(REJECTED, self._record_rejected)

    @property
    def files(self) -> WatchedFiles:
        """The flow files."""
        return self._here.files

    @property
    def stamps(self) -> FileStamps:
        """The stamps of the flow files when this process last loaded them."""
        return self._here.stamps

    @property
    def last(self) -> ReloadResult | None:
        """The results of the last reload in this process."""
        return self._here.last

    async def start(self) -> list[DeploymentResult]:
        """Load all flows for the first time: those of files, and those that were uploaded to other processes.

        The files are those that the other processes serve, which the parent keeps. They are read from disk if this is
        one of the first processes, or the first one after SIGHUP. If a file has errors, nothing is deployed. An
        uploaded flow with errors is left out, and logged. Raises `FilesChanged`.
        """
        joined = msgpack.decode(await self._peers.ask_parent(JOIN, timeout=PARENT_SECONDS), type=Joined)
        self._version = joined.version
        # A flow of a file that an uploaded one replaces must not get a higher number than that.
        files = {name: revision for name, revision in joined.known.items() if name not in joined.uploads}
        self._registry.follow(files, joined.removed)
        kept = None if joined.files is None else await fetch_files(self._peers, joined.files, joined.known)
        results = await self._here.start(kept)
        if any(result.diagnostics for result in results):
            return results
        self._registry.follow(joined.known, joined.removed)
        for name in joined.uploads:
            text = await self._peers.ask_parent(UPLOAD, name.encode(), timeout=PARENT_SECONDS)
            upload = msgpack.decode(text, type=Upload)
            try:
                await self._here.put(name, upload.text, upload.format)
            except RequestRejected as error:
                log.error("reload.failed", cause="start", flow=name, error=str(error))
        read = None if kept is not None else await send_files(self._peers, self._here.served)
        loaded = Loaded(self._revisions(), read)
        if await self._peers.ask_parent(LOADED, msgpack.encode(loaded), timeout=PARENT_SECONDS):
            raise FilesChanged
        return results

    async def try_reload(self, cause: str) -> bool:
        """Load all files again, and log errors instead of raising them. Returns False if the service shuts down."""
        try:
            reply = await self._deploy_everywhere(Command(kind="reload", cause=cause, version=self._version))
        except RequestRejected as error:
            if error.code == SHUTTING_DOWN:
                return False
            log.error("reload.failed", cause=cause, error=str(error))
        else:
            self._version = self._version if reply.version is None else reply.version
        return True

    async def put(self, name: str, text: str, format: str, *, dry_run: bool = False) -> DeploymentResult:
        """Deploy the flow in a text. Raises `RequestRejected` with 409, and with 503 if the service shuts down."""
        command = Command(kind="put", name=name, text=text, format=format, dry_run=dry_run)
        return _result_in(await self._deploy_everywhere(command))

    async def delete(self, name: str) -> DeploymentResult:
        """Remove an uploaded flow. Raises `RequestRejected` with 404, 409, and 503 if the service shuts down."""
        return _result_in(await self._deploy_everywhere(Command(kind="delete", name=name)))

    async def _deploy_everywhere(self, command: Command) -> Reply:
        """Ask the parent. Raises `RequestRejected`."""
        try:
            answer = await self._peers.ask_parent(EVERYWHERE, msgpack.encode(command), timeout=EVERYWHERE_SECONDS)
        except NoAnswer as error:
            detail = f"the processes of the service do not answer: {error}; try again later"
            retry = {"Retry-After": str(RETRY_SECONDS)}
            raise RequestRejected(503, "deployment_failed", detail, retry) from error
        reply = msgpack.decode(answer, type=Reply)
        if reply.rejection:
            found = msgpack.decode(reply.rejection, type=Rejection)
            raise RequestRejected(found.status, found.code, found.detail, found.headers, found.members)
        return reply

    async def _deploy_here(self, payload: bytes) -> bytes:
        """Deploy in this process, as the parent says."""
        command = msgpack.decode(payload, type=Command)
        self._registry.follow(command.known, command.removed)
        results: list[DeploymentResult] = []
        rejection = None
        try:
            results = await self._run(command)
        except PenstockError as error:
            if (rejection := rejection_for(error)) is None:
                raise
        invalid = any(result.outcome is DeploymentStatus.REJECTED for result in results)
        accepted = rejection is None and (command.kind == "reload" or not invalid)  # an invalid file stops no other
        if accepted and not command.dry_run:
            self._version = command.version
        files = await send_files(self._peers, self._here.served) if command.kind == "reload" else None
        return msgpack.encode(
            Reply(
                accepted=accepted,
                revisions=self._revisions(),
                files=files,
                results=msgpack.encode(results),
                rejection=b"" if rejection is None else _encoded(rejection),
                leaves=rejection is not None and rejection.code == SHUTTING_DOWN,
            )
        )

    async def _record_rejected(self, payload: bytes) -> bytes:
        await self._here.record_rejected(payload.decode())
        return b""

    async def _run(self, command: Command) -> list[DeploymentResult]:
        match command.kind:
            case "put":
                return [await self._here.put(command.name, command.text, command.format, dry_run=command.dry_run)]
            case "delete":
                return [await self._here.delete(command.name)]
            case "reload":
                return await self._here.reload(command.cause)

    def _revisions(self) -> dict[str, ActiveRevision]:
        """Return the active revisions of this process."""
        active = self._registry.active
        return {each.name: ActiveRevision(each.number, each.digest, each.source) for each in active}


def reloader_of_all(here: Reloader, registry: FlowRegistry, peers: Peers) -> AnyReloader:
    """Return what deploys in all processes of the service, through `here` in this one."""
    return here if peers.count == 1 else EverywhereReloader(here, registry, peers)


def _result_in(reply: Reply) -> DeploymentResult:
    (result,) = msgpack.decode(reply.results, type=list[DeploymentResult])
    return result


def _encoded(error: RequestRejected) -> bytes:
    return msgpack.encode(Rejection(error.status, error.code, str(error), error.headers, error.members))
