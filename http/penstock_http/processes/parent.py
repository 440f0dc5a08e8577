"""The parent of all processes: it starts them, watches them, replaces those that end, and passes their questions on.

It runs no flow and no code of users, so it goes on when a process does not.
"""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial

import structlog
from msgspec import msgpack, structs

from penstock.errors import PenstockError, describe
from penstock_http.processes.child import Child, State, exit_text
from penstock_http.processes.lead import Lead
from penstock_http.processes.member import PROGRESS, RETIRE
from penstock_http.processes.messages import Start
from penstock_http.processes.peers import ASK_SECONDS, NoAnswer
from penstock_http.processes.persistent_tasks import PersistentTasks
from penstock_http.processes.questions import Handler, Questions, serving
from penstock_http.processes.resources import PROCESS_COUNTS, ProcessCounts, Resource

log: structlog.stdlib.BoundLogger = structlog.get_logger()

PING_SECONDS = 1.0
"""Seconds between two checks of each process, or a fifth of the process timeout if that is less."""

FIRST_BACKOFF = 0.5
"""Seconds until a process that ended is started again. Doubled each time that it ends again."""

MAX_BACKOFF = 30.0
"""Maximum of these seconds."""

STABLE_SECONDS = 60.0
"""Seconds of life after which the backoff of a process begins anew."""

STARTING_FACTOR = 3
"""Process timeouts without an answer after which a process that loads flows is killed.

The import of a module may hold the interpreter lock for a while.
"""

MAX_FAILED_STARTS = 5
"""Failed starts of each process after which the service ends, if none serves. The waits take 15 seconds."""


class StartFailed(PenstockError):
    """A process could not start. `code` is the exit code for the command."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


class Parent:
    """All processes of a service. It implements `ParentProcess`.

    `module` is the main module of a process, `start` the first message to each, `listener` the socket that
    all accept from, `max_backoff` the maximum of seconds until a process that ended is started again. The service
    ends if none serves and each could not be started `max_failed_starts` times.
    """

    def __init__(
        self,
        module: str,
        start: Start,
        listener: int,
        *,
        max_backoff: float = MAX_BACKOFF,
        max_failed_starts: int = MAX_FAILED_STARTS,
    ) -> None:
        self.children: dict[int, Child] = {}
        """The processes by number, also those that are down and will be started again."""
        self.count = start.count
        """How many processes are to serve."""
        self.stopping = asyncio.Event()
        self._module = module
        self._start = structs.replace(start, listener=listener)
        self._timeout = start.settings.process_timeout
        self._max_backoff = max_backoff
        self._max_failed_starts = max_failed_starts
        self._resources: list[Resource] = []
        self._detaching: dict[int, asyncio.Task[None]] = {}
        """For each process, the task that releases what belongs to it after its exit."""
        self._exit_callbacks: list[Callable[[int], object]] = []
        self._ready_callbacks: list[Callable[[int], object]] = []
        self._restarts: Counter[str] = Counter()
        self.exclusive = asyncio.Lock()
        """Held while a process starts, and during a deployment: a process that starts misses none."""
        self.reloading = False
        """Whether the process that starts now is the first one after SIGHUP, which reads the flow files again."""
        self.given_up = False
        """Whether the service ends because no process can start."""
        self._failed_starts = 0
        """Processes in a row that could not start while no other one served."""
        self._questions = Questions(self.children)
        self._lead = Lead(self.children, self.stopping, self.kill, self._timeout)
        self._tasks = PersistentTasks()
        self.on(PROCESS_COUNTS, self._counts)
        self.on(PROGRESS, self._lead.note)

    # For the parts of the service that have a side in the parent

    def share(self, resource: Resource) -> None:
        """Share a resource with all processes that are started from now on."""
        self._resources.append(resource)

    def on(self, topic: str, handler: Handler) -> None:
        """Answer questions of processes with a handler, which gets the number of the process and the payload."""
        self._questions.on(topic, handler)

    async def tell(self, number: int, topic: str, payload: bytes = b"", timeout: float = ASK_SECONDS) -> bytes:
        """Ask one process and return its answer. Raises `NoAnswer`."""
        child = self.children.get(number)
        if child is None or not child.serves:
            raise NoAnswer(f"{topic}: process {number} does not run")
        return await child.call(topic, payload, timeout)

    def on_exit(self, callback: Callable[[int], object]) -> None:
        """Call back with the number of each process that has exited."""
        self._exit_callbacks.append(callback)

    def on_ready(self, callback: Callable[[int], object]) -> None:
        """Call back with the number of each process that serves from now on."""
        self._ready_callbacks.append(callback)

    def kill(self, number: int, reason: str) -> None:
        """Kill a process that does not do what it must. Another one replaces it."""
        child = self.children.get(number)
        if child is not None and child.state is not State.DOWN:
            log.error("process.killed", process=number, pid=child.pid, reason=reason)
            child.kill(reason)

    @property
    def running(self) -> list[int]:
        """The numbers of the processes that serve, without those that are starting or being retired."""
        return [child.number for child in serving(self.children)]

    # The life of the processes

    async def start(self) -> None:
        """Start all processes. Raises `StartFailed` if one of them cannot start; then none is left."""
        numbers = range(1, self.count + 1)
        async with self.exclusive:
            started = await asyncio.gather(*(self._try_start(number) for number in numbers))
        failed = [child for child, ready in started if not ready]
        if self.stopping.is_set():
            return
        if failed:
            for child, _ in started:
                child.kill("another process could not start")
            await asyncio.gather(*(child.wait() for child, _ in started))
            raise _start_error(failed[0])
        for child, _ in started:
            log.info("process.started", process=child.number, pid=child.pid)
            self._begin_keeping(child)
        self._tasks.begin(self._watch, "processes:watch")
        await self._lead.appoint()

    async def replace(self, child: Child, *, reload: bool) -> Child | None:
        """Start another process in place of one, which accepts no connections any more when this returns.

        Returns the new process. With `reload` it reads the flow files again; otherwise it serves what the others serve.
        Returns None if the old one has ended, because it is started again anyway. Raises `StartFailed` if the new one
        cannot start.
        """
        number = await self._free_number()
        async with self.exclusive:
            if child.state is not State.SERVING:
                return None
            self.reloading = reload
            try:
                successor, ready = await self._try_start(number)
            finally:
                self.reloading = False
        if not ready:
            if not self.stopping.is_set():
                del self.children[number]
            raise _start_error(successor)
        log.info("process.replaced", process=child.number, pid=child.pid, by=number, by_pid=successor.pid)
        self._begin_keeping(successor)
        child.retire()
        log.info("process.retiring", process=child.number, pid=child.pid)
        try:
            await child.call(RETIRE, timeout=self._timeout)
        except NoAnswer as error:
            child.kill(f"it did not retire: {error}")
        self._tasks.begin(partial(self._retire, child), f"process:{child.number}:retire")
        return successor

    def stop(self) -> None:
        """Start no further process, and end those that are starting. The caller sends signals to the others."""
        self.stopping.set()
        for child in self.children.values():
            if child.state is State.STARTING:
                child.kill("the service stops")

    async def wait(self) -> None:
        """Wait until all processes have exited."""
        while self._detaching:
            await asyncio.wait(list(self._detaching.values()))

    async def aclose(self) -> None:
        """End all tasks. All processes have exited."""
        await self._tasks.aclose()

    async def _try_start(self, number: int) -> tuple[Child, bool]:
        """Start a process. Returns it, and whether it serves."""
        child = self.children[number] = Child(number, self._questions.answer)
        if self.stopping.is_set():
            child.fail("the service stops")
            return child, False
        named: dict[str, int] = {}
        attached: list[Resource] = []
        try:
            for resource in self._resources:
                named |= resource.attach(number)
                attached.append(resource)
            start = structs.replace(self._start, number=number, descriptors=named)
            await child.spawn(self._module, start, (start.listener, *named.values()))
        except Exception as error:  # mostly of the system; a bug must not leave others waiting for this process
            child.fail(f"it could not be started: {describe(error)}")
        finally:
            for descriptor in named.values():
                os.close(descriptor)
            self._detaching[number] = asyncio.create_task(self._detach(child, attached), name=f"process:{number}:exit")
        ready = await child.wait_ready()
        if ready:
            for callback in self._ready_callbacks:
                callback(number)
        return child, ready

    async def _detach(self, child: Child, attached: Sequence[Resource]) -> None:
        """Release what belonged to a process, after its exit."""
        await child.wait()
        del self._detaching[child.number]
        for call in (*(resource.detach for resource in attached), *self._exit_callbacks):
            try:
                call(child.number)
            except Exception as error:  # an unknown bug: what else belonged to the process is released all the same
                log.error("process.release_failed", process=child.number, error=describe(error), exc_info=error)

    async def _keep(self, child: Child) -> None:
        """Replace a process by another one with its number whenever it ends, until it is retired."""
        loop = asyncio.get_running_loop()
        first_backoff = backoff = min(FIRST_BACKOFF, self._max_backoff)
        while True:
            await child.wait()
            if child.retired or self.stopping.is_set():
                break
            if loop.time() - child.started_at > STABLE_SECONDS:
                backoff = first_backoff
            self._restarts["frozen" if child.killed else "crashed"] += 1
            log.error(
                "process.ended",
                process=child.number,
                pid=child.pid,
                how=exit_text(child.code, child.killed),
                **({} if child.failed is None else {"error": child.failed.message}),
                restart_in=backoff,
            )
            await self._lead.appoint()
            await asyncio.sleep(backoff)
            backoff = min(backoff * 2, self._max_backoff)
            async with self.exclusive:
                if child.retired:  # it ended while its successor started
                    break
                child, ready = await self._try_start(child.number)
            if ready:
                self._failed_starts = 0
                log.info("process.restarted", process=child.number, pid=child.pid)
                await self._lead.appoint()
            else:
                self._note_failed_start(child)
        if child.retired:
            self.children.pop(child.number, None)

    def _note_failed_start(self, child: Child) -> None:
        """End the service if no process serves and none can start, so that clients do not wait for ever."""
        if any(each.serves for each in self.children.values()):
            self._failed_starts = 0
            return
        self._failed_starts += 1
        if self._failed_starts >= self._max_failed_starts * self.count and not self.stopping.is_set():
            log.error("processes.given_up", failed_starts=self._failed_starts, error=str(_start_error(child)))
            self.given_up = True
            self.stop()

    async def _retire(self, child: Child) -> None:
        """Wait until a process has finished what is open and exited. What must not run twice moves to another one."""
        await self._lead.release(child)
        await child.wait()
        how = exit_text(child.code, child.killed)
        (log.info if child.code == 0 else log.warning)("process.retired", process=child.number, pid=child.pid, how=how)

    async def _free_number(self) -> int:
        """Return the smallest number of no process. Waits if there are twice as many as serve: some are retiring."""
        while True:
            numbers = range(1, 2 * self.count + 1)
            for number in numbers:
                if number not in self.children:
                    return number
            retiring = [child for child in self.children.values() if child.state is State.RETIRING]
            if retiring:
                log.info("reload.waiting", retiring=len(retiring), hint="open streams end within the reload timeout")
            waits = [asyncio.ensure_future(child.wait()) for child in retiring]
            if waits:
                await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            for wait in waits:
                wait.cancel()
            await asyncio.sleep(0)  # then its number is free

    async def _watch(self) -> None:
        """Kill processes that do not answer."""
        seconds = min(PING_SECONDS, self._timeout / 5)
        while True:
            await asyncio.sleep(seconds)
            for child in list(self.children.values()):
                if not child.connected:
                    continue
                timeout = self._timeout if child.serves else STARTING_FACTOR * self._timeout
                if child.ping(seconds) >= timeout:
                    self.kill(child.number, f"no answer for {timeout:g} s")

    def _begin_keeping(self, child: Child) -> None:
        """Begin to replace a process by another one whenever it ends."""
        number = child.number
        # If it begins again after an error, the process may be another one. None has the number if it was retired.
        self._tasks.begin(lambda: self._keep(self.children.get(number, child)), f"process:{number}")

    async def _counts(self, number: int, payload: bytes) -> bytes:
        up = {child.number: child.serves and child.silent < self._timeout / 2 for child in self.children.values()}
        starting = tuple(number for number, child in self.children.items() if not child.serves)
        return msgpack.encode(ProcessCounts(up, dict(self._restarts), self._lead.number, starting))


def _start_error(child: Child) -> StartFailed:
    """Return why a process could not start."""
    if child.failed is not None:
        return StartFailed(child.failed.message, child.failed.code)
    how = exit_text(child.code, child.killed)
    return StartFailed(f"process {child.number} ended before it was ready ({how}); the log may say why", 1)
