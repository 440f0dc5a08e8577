"""Where commands for dead letters find letters in tests: a store of a folder, or a running service."""

from __future__ import annotations

import json
import os
import subprocess
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from commands import killing
from service.processes import ROOT, Process, serving

MODULE = '''\
"""Services that note their calls, and fail as files in the folder say."""

import asyncio
from pathlib import Path

FOLDER = Path(__file__).parent


class StockDown(Exception):
    pass


class NoCurrency(Exception):
    pass


def note(name, value):
    with (FOLDER / "calls.txt").open("a") as calls:
        calls.write(f"{name} {value['id']}\\n")


async def price(value):
    note("price", value)
    if not value.get("currency"):
        raise NoCurrency(f"item {value['id']} has no currency")
    return value["id"] * 100


async def stock(value):
    note("stock", value)
    if (FOLDER / "slow").exists():
        await asyncio.sleep(0.05)
    if (FOLDER / "down").exists() and value["id"] % 2:
        raise StockDown(f"stock is down for {value['id']}")
    return {"left": 1}
'''

FLOW = """\
flow: shop
key: id
item: {id: integer}
window: 32
services:
  price: {call: "shop_services:price"}
  stock: {call: "shop_services:stock"}
steps:
  - enrich: [price, stock]
dead_letters: STORE
"""

OTHER = """\
flow: other
key: id
item: {id: integer}
steps:
  - map: {id: value.id}
dead_letters: STORE
"""


class DeskPlace:
    """A folder with a flow, its services, and letters in a store or in a service."""

    def __init__(self, folder: Path, *, service: bool) -> None:
        self.folder = folder
        store = f"sqlite:///{folder}/letters.db"
        (folder / "flows").mkdir()
        (folder / "shop_services.py").write_text(MODULE)
        (folder / "flows" / "shop.yaml").write_text(FLOW.replace("STORE", store))
        (folder / "flows" / "other.yaml").write_text(OTHER.replace("STORE", store))
        self.process: Process | None = None
        self._stack = ExitStack()
        self.words = ["--dead-letters", store, "--flows", "flows"]
        if service:
            flags = (folder / "flows", "--dead-letters", store)
            path = os.pathsep.join(map(str, (folder, ROOT / "flows", ROOT / "http")))
            self.process = self._stack.enter_context(serving(folder, *flags, env={"PYTHONPATH": path}))
            self.words = ["--url", f"http://{self.process.host}:{self.process.port}"]

    def fail(self, items: list[dict[str, Any]], *, down: bool = True) -> None:
        """Run items through the flow; with `down`, stock fails for odd ids."""
        if down:
            (self.folder / "down").touch()
        body = "".join(json.dumps(item) + "\n" for item in items)
        if self.process is None:
            killing.run(self.folder, "run", "flows/shop.yaml", stdin=body.encode())
        else:
            headers = {"Content_Type": "application/x-ndjson"}
            self.process.request("POST", "/shop/bulk", body.encode(), **headers)

    def repair(self) -> None:
        """Let stock work again, and forget the calls so far."""
        (self.folder / "down").unlink(missing_ok=True)
        (self.folder / "calls.txt").unlink(missing_ok=True)

    def calls(self) -> list[str]:
        """The calls of services so far."""
        path = self.folder / "calls.txt"
        return path.read_text().splitlines() if path.exists() else []

    def run(self, command: str, *words: object, stdin: bytes = b"") -> tuple[int, str, str]:
        """Run a command to its end. Returns its exit code, its output and its messages."""
        every = ("dead-letters", command, *map(str, words), *self.words)
        code, out, err = killing.run(self.folder, *every, stdin=stdin)
        return code, out.decode(), err

    def start(self, command: str, *words: object) -> subprocess.Popen[bytes]:
        """Start a command."""
        every = ("dead-letters", command, *map(str, words), *self.words)
        return killing.start(
            self.folder, *every, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )

    def documents(self, command: str, *words: object) -> list[dict[str, Any]]:
        """Run a command that succeeds, and return its JSON documents."""
        code, out, err = self.run(command, *words, "--json")
        assert code == 0, err
        return [json.loads(line) for line in out.splitlines()]

    def counts(self, **filters: str) -> dict[str, int]:
        """The number of letters by state."""
        words = [word for name, text in filters.items() for word in (f"--{name}", text)]
        states = [letter["state"] for letter in self.documents("list", "--limit", 10_000, *words)]
        return {state: states.count(state) for state in sorted(set(states))}

    def close(self) -> None:
        """Stop the service, if there is one."""
        self._stack.close()
