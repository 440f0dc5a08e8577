"""An editor, as far as a language server can tell: it opens documents, and asks what may stand where."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

SECONDS = 60.0
"""How long an answer may take."""


class Editor:
    """The client of one language server, over its standard input and output."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self._asked = 0
        self._answers: dict[int, asyncio.Future[Any]] = {}
        self._told: dict[str, asyncio.Queue[list[dict[str, Any]]]] = {}
        self._opened = 0

    async def open(self, text: str) -> tuple[str, list[dict[str, Any]]]:
        """Open a document; returns its address, and what the server finds fault with."""
        self._opened += 1
        uri = f"file:///documents/{self._opened}.yaml"
        self._told[uri] = asyncio.Queue()
        document = {"uri": uri, "languageId": "yaml", "version": 1, "text": text}
        self._send(method="textDocument/didOpen", params={"textDocument": document})
        async with asyncio.timeout(SECONDS):
            return uri, await self._told[uri].get()

    async def completion(self, uri: str, line: int, column: int) -> list[dict[str, Any]]:
        """What is offered at a place, counted from 0."""
        answer = await self.ask("textDocument/completion", _at(uri, line, column))
        return list(answer["items"] if isinstance(answer, dict) else answer or [])

    async def hover(self, uri: str, line: int, column: int) -> str:
        """What is said about a place, counted from 0."""
        answer = await self.ask("textDocument/hover", _at(uri, line, column))
        return str(answer["contents"]["value"]) if answer else ""

    async def ask(self, method: str, params: Any) -> Any:
        """The answer to a request."""
        self._asked += 1
        future = self._answers[self._asked] = asyncio.get_running_loop().create_future()
        self._send(id=self._asked, method=method, params=params)
        async with asyncio.timeout(SECONDS):
            return await future

    def tell(self, method: str, params: Any) -> None:
        """A notification."""
        self._send(method=method, params=params)

    async def listen(self) -> None:
        """Take what the server says, until it ends."""
        assert self._process.stdout is not None
        while head := await self._process.stdout.readline():
            length = int(head.removeprefix(b"Content-Length: "))
            while (await self._process.stdout.readline()).strip():
                pass
            self._take(json.loads(await self._process.stdout.readexactly(length)))

    def _take(self, message: dict[str, Any]) -> None:
        if "method" not in message:
            self._answers.pop(message["id"]).set_result(message.get("result"))
        elif message["method"] == "textDocument/publishDiagnostics":
            self._told[message["params"]["uri"]].put_nowait(message["params"]["diagnostics"])
        elif "id" in message:  # a request of the server: it has no settings and no progress to show
            self._send(id=message["id"], result=[{}] * len(message["params"].get("items", ())) or None)

    def _send(self, **message: Any) -> None:
        assert self._process.stdin is not None
        body = json.dumps({"jsonrpc": "2.0", **message}).encode()
        self._process.stdin.write(b"Content-Length: %d\r\n\r\n%s" % (len(body), body))


@asynccontextmanager
async def editor(server: Path) -> AsyncGenerator[Editor]:
    """An editor with the YAML language server that was installed in a folder."""
    command = ["node", str(server / "node_modules/yaml-language-server/bin/yaml-language-server"), "--stdio"]
    process = await asyncio.create_subprocess_exec(
        *command, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, limit=1 << 24
    )
    one = Editor(process)
    listening = asyncio.create_task(one.listen())
    try:
        await one.ask("initialize", {"processId": None, "rootUri": None, "capabilities": {}})
        one.tell("initialized", {})
        yield one
    finally:
        process.kill()
        await process.wait()
        await listening


def _at(uri: str, line: int, column: int) -> dict[str, Any]:
    return {"textDocument": {"uri": uri}, "position": {"line": line, "character": column}}
