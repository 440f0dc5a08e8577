"""The servers that services are made of: aiohttp, uvicorn, Node and nginx."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any, TypeAlias

import pytest
import uvicorn
from aiohttp import web

from http_client.conftest import Run
from http_client.test_hostile_servers import client
from nginx import nginx, program
from penstock.errors import ServiceErrorResponse
from penstock.services import Service
from service.test_http_services import call
from waiting import ending

LIMIT = 3_000_000
FOLDER = Path(__file__).parent
ERROR = '{"error": {"type": "Busy", "message": "later"}}'
Start: TypeAlias = Callable[[Path], AbstractAsyncContextManager[str]]


@asynccontextmanager
async def aiohttp_server(_: Path) -> AsyncIterator[str]:
    """Responses of aiohttp."""

    async def reply(request: web.Request) -> web.StreamResponse:
        size = len(await request.read())
        match request.path:
            case "/empty":
                return web.Response(status=204)
            case "/chunks":
                response = web.StreamResponse()
                await response.prepare(request)
                for part in (b'"', *[b"0123456789"] * 100, b'"'):
                    await response.write(part)
                return response
            case "/large":
                return web.json_response("x" * 2_000_000)
            case "/error":
                return web.Response(status=503, text=ERROR)
            case _:
                assert request.transport is not None
                port = str(request.transport.get_extra_info("peername")[1])
                return web.json_response({"method": request.method, "size": size, "port": port})

    app = web.Application(client_max_size=10_000_000)
    app.router.add_route("*", "/{path:.*}", reply)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


async def asgi(scope: Any, receive: Any, send: Any) -> None:
    """The same as an ASGI application."""
    size, more = 0, True
    while more:
        event = await receive()
        size += len(event.get("body", b""))
        more = event.get("more_body", False)
    status = {"/empty": 204, "/error": 503}.get(scope["path"], 200)
    await send({"type": "http.response.start", "status": status, "headers": []})
    match scope["path"]:
        case "/empty":
            parts = [b""]
        case "/chunks":
            parts = [b'"', *[b"0123456789"] * 100, b'"']
        case "/large":
            parts = [json.dumps("x" * 2_000_000).encode()]
        case "/error":
            parts = [ERROR.encode()]
        case _:
            told = {"method": scope["method"], "size": size, "port": str(scope["client"][1])}
            parts = [json.dumps(told).encode()]
    for part in parts:
        await send({"type": "http.response.body", "body": part, "more_body": True})
    await send({"type": "http.response.body", "body": b""})


@asynccontextmanager
async def uvicorn_server(_: Path) -> AsyncIterator[str]:
    """uvicorn, in this event loop."""
    server = uvicorn.Server(uvicorn.Config(asgi, port=0, log_config=None, lifespan="off", ws="none"))
    server.config.load()
    server.lifespan = server.config.lifespan_class(server.config)
    await server.startup()
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        await server.shutdown()


@asynccontextmanager
async def node_server(_: Path, keep_alive: int = 5000) -> AsyncIterator[str]:
    """Node's http module."""
    command = ["node", str(FOLDER / "node.mjs"), str(keep_alive)]
    with ending(subprocess.Popen(command, stdout=subprocess.PIPE, text=True)) as process:
        assert process.stdout is not None
        port = await asyncio.to_thread(process.stdout.readline)
        yield f"http://127.0.0.1:{int(port)}"


NGINX = """
location = /empty { return 204; }
location = /error { return 503 '%s'; }
location = /large { root %s; try_files /large.json =404; gzip on; gzip_types application/json; }
location = /chunks { root %s; try_files /chunks.json =404; gzip on; gzip_types application/json; }
location / {
  client_max_body_size 10m;
  return 200 '{"method":"$request_method","size":$content_length,"port":"$remote_port"}';
}
"""


@asynccontextmanager
async def nginx_server(folder: Path) -> AsyncIterator[str]:
    """nginx, which compresses if it is asked to."""
    (folder / "large.json").write_text(json.dumps("x" * 2_000_000))
    (folder / "chunks.json").write_text(json.dumps("0123456789" * 100))
    with nginx(folder, NGINX % (ERROR, folder, folder)) as url:
        yield url


SERVERS = [
    pytest.param(aiohttp_server, id="aiohttp"),
    pytest.param(uvicorn_server, id="uvicorn"),
    pytest.param(
        node_server,
        id="node",
        marks=[pytest.mark.node, pytest.mark.skipif(not shutil.which("node"), reason="node is not on this machine")],
    ),
    pytest.param(
        nginx_server,
        id="nginx",
        marks=[pytest.mark.nginx, pytest.mark.skipif(not program(), reason="nginx is not on this machine")],
    ),
]


@pytest.mark.parametrize("start", SERVERS)
def test_every_kind_of_response_is_read_on_one_connection(run: Run, tmp_path: Path, start: Start) -> None:
    """With a length, in chunks, large, compressed, without content, to HEAD, and errors."""

    async def main() -> tuple[list[Any], int]:
        async with start(tmp_path) as url, client() as http:

            async def get(path: str, method: str = "GET", body: bytes | None = None, **headers: str) -> Any:
                named = {name.replace("_", "-"): value for name, value in headers.items()}
                content = await http.request("s", method, url + path, headers=named, body=body, limit=LIMIT)
                return json.loads(content) if content else None

            sent = await get("/", "POST", b"x" * 1_000_000)
            found = [
                (sent["method"], sent["size"]),
                await get("/", "HEAD", b""),
                await get("/empty"),
                await get("/chunks") == "0123456789" * 100,
                await get("/large") == "x" * 2_000_000,
                await get("/large", Accept_Encoding="gzip") == "x" * 2_000_000,
            ]
            with pytest.raises(ServiceErrorResponse, match="s responded 503 later"):
                await get("/error")
            last = await get("/", "PUT", b"xy")
            return [*found, last["size"], last["port"] == sent["port"]], http.statistics().open

    found, connections = run(main())
    assert found == [("POST", 1_000_000), None, None, True, True, True, 2, True]
    assert connections == 1


@pytest.mark.parametrize("start", SERVERS)
def test_many_calls_side_by_side_all_get_their_own_response(run: Run, tmp_path: Path, start: Start) -> None:
    """On as many connections as calls are in flight."""

    async def main() -> tuple[int, int]:
        async with start(tmp_path) as url, client() as http:
            service = Service.http("s", f"{url}/{{id}}", client=http, method="PUT", body=size_of, max_in_flight=64)
            results = await call(service, *[{"id": number} for number in range(500)])
            wrong = sum(len(str(number)) + 2 != result["size"] for number, result in enumerate(results))
            return wrong, len({result["port"] for result in results})

    wrong, connections = run(main())
    assert wrong == 0
    assert connections <= 64


def size_of(value: dict[str, int]) -> str:
    """A text of as many characters as the id has digits."""
    return "x" * len(str(value["id"]))


@pytest.mark.node
@pytest.mark.skipif(not shutil.which("node"), reason="node is not on this machine")
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_server_that_closes_idle_connections_early_costs_no_call(run: Run, tmp_path: Path, method: str) -> None:
    """Node says in Keep-Alive when it closes them. Here after one second, and calls come just about then."""

    async def main() -> int:
        async with node_server(tmp_path, 1000) as url, client() as http:
            service = Service.http("s", url, client=http, method=method, max_in_flight=8)
            results: list[Any] = []
            for pause in (0.49, 0.99, 1.0):
                results += await call(service, *[{}] * 8)
                await asyncio.sleep(pause)
            results += await call(service, *[{}] * 8)
            return sum(type(result) is dict for result in results)

    assert run(main()) == 32
