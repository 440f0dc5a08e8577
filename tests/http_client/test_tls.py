"""TLS: which servers are trusted, client certificates, and connections that end without saying so."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import trustme

from http_client.conftest import Run
from http_client.hostile import Close, Hostile, hostile
from http_client.test_hostile_servers import LIMIT, OK, TO_THE_END, client
from penstock.errors import FlowFileError, ServiceUnreachable
from penstock.flowfile import dump, loads
from penstock.services import Service
from penstock.services.http_client import HttpClient, Tls
from service.test_http_services import call


@dataclass
class Authority:
    """A certificate authority, its file, and the files of a client's certificate."""

    made: trustme.CA
    ca: str
    cert: str
    key: str

    def server(self, host: str = "127.0.0.1", *, verify: bool = False) -> ssl.SSLContext:
        """The context of a server that has a certificate for a host."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.made.issue_cert(host).configure_cert(context)
        if verify:
            self.made.configure_trust(context)
            context.verify_mode = ssl.CERT_REQUIRED
        return context


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    folder: Path = tmp_path_factory.mktemp("tls")
    made = trustme.CA()
    made.cert_pem.write_to_path(str(folder / "ca.pem"))
    issued = made.issue_cert("penstock@example.org")
    issued.cert_chain_pems[0].write_to_path(str(folder / "cert.pem"))
    issued.private_key_pem.write_to_path(str(folder / "key.pem"))
    return Authority(made, *(str(folder / f"{name}.pem") for name in ("ca", "cert", "key")))


async def get(http: HttpClient, server: Hostile, tls: Tls | None, method: str = "GET", body: bytes = b"") -> bytes:
    """The body of a response."""
    return await http.request("s", method, f"{server.url}/x", limit=LIMIT, tls=tls, body=body or None)


def test_an_own_authority_is_trusted(run: Run, authority: Authority) -> None:
    """Connections are used again, and a large request arrives whole."""

    async def main() -> tuple[list[bytes], int, int]:
        async with client() as http, hostile([[OK]] * 9, tls=authority.server()) as server:
            tls = Tls(ca=authority.ca)
            answers = [await get(http, server, tls), await get(http, server, tls, "PUT", b"x" * 3_000_000)]
            return answers, len(server.connections), len(server.requests[1])

    answers, connections, size = run(main())
    assert (answers, connections) == ([b"1234", b"1234"], 1)
    assert size > 3_000_000


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_a_later_connection_resumes_the_session(run: Run, authority: Authority, version: ssl.TLSVersion) -> None:
    """Its handshake is shorter. Another server has its own session."""

    async def main() -> tuple[int, int]:
        first, second = authority.server(), authority.server()
        first.maximum_version = second.maximum_version = version
        once = [[OK, Close]]
        async with client() as http, hostile(once, tls=first) as server:
            for _ in range(3):
                await get(http, server, Tls(ca=authority.ca))
            resumed = first.session_stats()["hits"]
        async with client() as http, hostile(once, tls=first) as server, hostile(once, tls=second) as other:
            await get(http, server, Tls(ca=authority.ca))
            await get(http, other, Tls(ca=authority.ca))
        return resumed, second.session_stats()["hits"]

    assert run(main()) == (2, 0)


def test_a_service_has_its_own_authority(authority: Authority) -> None:
    """Given as `tls`."""

    async def main() -> list[object]:
        async with hostile([[OK]] * 9, tls=authority.server()) as server:
            return await call(Service.http("s", f"{server.url}/", tls=Tls(ca=authority.ca)), {})

    assert asyncio.run(main()) == [1234]


@pytest.mark.parametrize(
    ("host", "trusted", "reason"),
    [
        ("127.0.0.1", False, "unable to get local issuer certificate|self.signed certificate in certificate chain"),
        ("127.0.0.2", True, "its certificate is for another host"),
        ("other.example", True, "its certificate is for another host"),
    ],
)
def test_another_server_is_not_trusted(run: Run, authority: Authority, host: str, trusted: bool, reason: str) -> None:
    """Its authority is unknown, or its certificate is for another host. The request is not sent."""

    async def main() -> list[bytes]:
        async with client() as http, hostile([[OK]], tls=authority.server(host)) as server:
            with pytest.raises(ServiceUnreachable, match=reason):
                await get(http, server, Tls(ca=authority.ca) if trusted else None)
            return server.requests

    assert run(main()) == []


def test_a_client_certificate_is_sent(run: Run, authority: Authority) -> None:
    """Without it a server that demands one ends the connection; the reason is in the error."""

    async def main() -> bytes:
        async with client() as http, hostile([[OK]] * 2, tls=authority.server(verify=True)) as server:
            asyncio.get_running_loop().set_exception_handler(lambda *_: None)  # the server reports the handshake
            with pytest.raises(ServiceUnreachable, match=r"certificate required|closed|reset"):
                await get(http, server, Tls(authority.ca))
            return await get(http, server, Tls(authority.ca, authority.cert, authority.key))

    assert run(main()) == b"1234"


@pytest.mark.parametrize(
    ("tls", "reason"),
    [
        (Tls(ca="/nowhere/ca.pem"), "tls: ca '/nowhere/ca.pem' cannot be read: No such file or directory"),
        (Tls(cert="/nowhere/a.pem", key="/nowhere/b.pem"), "tls: cert '/nowhere/a.pem' or key '/nowhere/b.pem' cannot"),
    ],
)
def test_a_file_that_cannot_be_read_is_named(tls: Tls, reason: str) -> None:
    """In the error of the call."""

    async def main() -> None:
        async with client() as http:
            with pytest.raises(ServiceUnreachable, match=reason):
                await http.request("s", "GET", "https://127.0.0.1:1/", limit=LIMIT, tls=tls)

    asyncio.run(main())


FLOW = """\
flow: f
services:
  s: {get: "https://h/{id}", tls: {ca: ca.pem, cert: cert.pem, key: key.pem}}
steps: [{enrich: [s]}]
"""


def test_a_flow_file_has_the_files_of_a_service() -> None:
    """As `tls`, and they are written back."""
    flow = loads(FLOW, Path("f.yaml"), environment={}).flow
    (service,) = flow.all_services
    assert service.function.tls == Tls("ca.pem", "cert.pem", "key.pem")
    assert loads(dump(flow), Path("f.yaml"), environment={}).flow == flow
    with pytest.raises(FlowFileError, match="tls: key is given without cert"):
        loads(FLOW.replace("cert: cert.pem, ", ""), Path("f.yaml"), environment={})


def test_a_key_needs_its_certificate() -> None:
    """A mistake that is found when the service is made."""
    with pytest.raises(ValueError, match="key is given without cert"):
        Tls(key="key.pem")


def test_a_server_without_tls_is_unreachable(run: Run) -> None:
    """So is one that closes the connection during the handshake."""

    async def main() -> None:
        async with client() as http, plain(b"HTTP/1.1 400 Bad Request\r\n\r\n") as url:
            with pytest.raises(ServiceUnreachable, match=r"SSL|TLS"):
                await http.request("s", "GET", url, limit=LIMIT)
        async with client() as http, plain(b"") as url:
            with pytest.raises(ServiceUnreachable, match="closed during the TLS handshake"):
                await http.request("s", "GET", url, limit=LIMIT)

    run(main())


@asynccontextmanager
async def plain(answer: bytes) -> AsyncIterator[str]:
    """A server that reads a few bytes, writes and closes."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(10_000)
        writer.write(answer)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
    finally:
        server.close()
        await asyncio.sleep(0.01)


def test_a_body_that_ends_without_the_end_of_tls_is_cut_off(run: Run, authority: Authority) -> None:
    """Anyone on the way can end a TCP connection, but not the TLS connection in it."""

    async def main() -> bytes:
        async with client() as http, hostile([[TO_THE_END, Close]], tls=authority.server()) as server:
            whole = await get(http, server, Tls(authority.ca))
        async with client() as http, cutting(authority.server()) as url:
            with pytest.raises(ServiceUnreachable, match="before the end of its response"):
                await http.request("s", "GET", url, limit=LIMIT, tls=Tls(authority.ca))
        return whole

    assert run(main()) == b"1234"


def test_a_tunnel_leads_to_the_service(run: Run, authority: Authority) -> None:
    """The proxy forwards the encrypted bytes, and the certificate is that of the service."""

    async def main() -> tuple[list[bytes], int]:
        async with hostile([[OK]] * 9, tls=authority.server("prices.internal")) as server, forwarding(server) as proxy:
            http = HttpClient(environment={"HTTPS_PROXY": proxy})
            url = "https://prices.internal/x"
            answers = [await http.request("s", "GET", url, limit=LIMIT, tls=Tls(authority.ca)) for _ in range(3)]
            await http.aclose()
            return answers, len(server.connections)

    assert run(main()) == ([b"1234"] * 3, 1)


@asynccontextmanager
async def forwarding(to: Hostile) -> AsyncIterator[str]:
    """A proxy whose tunnels all lead to one server."""
    tasks: list[asyncio.Task[None]] = []

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            writer.write(data)
        writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"CONNECT prices.internal:443 HTTP/1.1\r\n")
        server_reader, server_writer = await asyncio.open_connection("127.0.0.1", int(to.url.rpartition(":")[2]))
        writer.write(b"HTTP/1.0 200 Connection established\r\nVia: x\r\n\r\n")
        tasks.append(asyncio.ensure_future(pump(reader, server_writer)))
        tasks.append(asyncio.ensure_future(pump(server_reader, writer)))

    proxy = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{proxy.sockets[0].getsockname()[1]}"
    finally:
        proxy.close()
        await asyncio.wait(tasks)


@asynccontextmanager
async def cutting(context: ssl.SSLContext) -> AsyncIterator[str]:
    """A server that sends a response without a length, and ends the TCP connection only."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        tls = context.wrap_bio(incoming, outgoing, server_side=True)
        request, shaken = b"", False
        while b"\r\n\r\n" not in request:
            incoming.write(await reader.read(65536))
            try:
                if not shaken:
                    tls.do_handshake()
                    shaken = True
                request += tls.read(65536)
            except ssl.SSLWantReadError:
                pass
            writer.write(outgoing.read())
        tls.write(TO_THE_END)
        writer.write(outgoing.read())
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
    finally:
        server.close()
        await asyncio.sleep(0.01)
