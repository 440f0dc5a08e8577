"""How many orders a second go through services over HTTP, against the peers, and the CPU of an order.

Three times: two GETs an order, the same in TLS, and one POST for 50 orders. nginx answers for all services, as fast as
it can, on the same two cores. The CPU of an order is that of the server that is measured, without nginx and without the
client.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import rig
from figures import Figure, exit_code, show

sys.path.append(str(Path(__file__).resolve().parents[1]))

from nginx import nginx, program  # of the tests

BATCH = 50
"""Orders of one request to the batch endpoint. nginx always answers for so many: the numbers below are multiples."""

SERVICES = f"""
location /prices/ {{ return 200 '{{"price":1001}}'; }}
location /stock/ {{ return 200 '{{"inStock":true}}'; }}
location = /batch {{ return 200 '[{",".join(['{"price":1001}'] * BATCH)}]'; }}
"""

FLOW = """
flow: orders
item: {{orderId: {{type: integer, minimum: 1}}}}
services:
  prices: {{post: "{url}/batch", batch: orderId, attempts: 2}}
steps:
  - batch: {{service: prices, size: {size}, max_wait: 10s}}
"""


@dataclass(frozen=True)
class Variant:
    """What the servers do with an order, and how many times faster than each peer Penstock shall be."""

    what: str
    targets: dict[str, float]
    tls: bool = False
    batch: bool = False


VARIANTS = (
    Variant("two GETs", {"express": 2.0, "plain": 4.0}),
    Variant("two GETs in TLS", {"express": 1.5}, tls=True),
    Variant(f"a POST for {BATCH}", {"express": 1.5}, batch=True),
)


@contextmanager
def serving(names: Sequence[str], variant: Variant) -> Iterator[list[rig.Server]]:
    """nginx, and servers that call it."""
    tls = variant.tls
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="penstock-bench-")))
        directives, ca = SERVICES, ""
        if tls:
            directives, ca = SERVICES + certificate(folder), str(folder / "ca.pem")
        url = stack.enter_context(nginx(folder, directives, tls=tls))
        servers = []
        for name in names:
            try:
                command, environment = rig.COMMANDS[name](folder, 0)
            except rig.Missing as error:
                print(f"!!! {name} IS LEFT OUT: {error}", file=sys.stderr, flush=True)
                continue
            prices, stock = f"{url}/prices", f"{url}/stock"
            if variant.batch and name == "plain":
                continue  # it calls one service for one order
            if variant.batch and name.startswith("penstock"):
                file = folder / "orders.yaml"
                file.write_text(FLOW.format(url=url, size=BATCH))
                command.append(str(file))
            elif variant.batch:
                environment |= {"BATCH_URL": f"{url}/batch"}
            elif name.startswith("penstock"):
                command += ["--pricing-url", f"{prices}/{{orderId}}", "--inventory-url", f"{stock}/{{orderId}}"]
                environment |= {"SSL_CERT_FILE": ca} if tls else {}
            else:
                environment |= {"PRICING_URL": prices, "INVENTORY_URL": stock}
                environment |= {"SERVICES_CA": ca} if tls else {}
            server = rig.Server(name, command, environment, folder)
            stack.callback(server.stop)
            servers.append(server)
        yield servers


def certificate(folder: Path) -> str:
    """Write a certificate for 127.0.0.1 and its authority. Return the directives of nginx that use it."""
    import trustme

    authority = trustme.CA()
    issued = authority.issue_cert("127.0.0.1")
    authority.cert_pem.write_to_path(str(folder / "ca.pem"))
    issued.private_key_and_cert_chain_pem.write_to_path(str(folder / "server.pem"))
    return f"ssl_certificate {folder}/server.pem; ssl_certificate_key {folder}/server.pem;"


def measure(names: Sequence[str], runs: int, count: int, variant: Variant) -> list[Figure]:
    """Seconds and CPU of each server, run after run in turn, and the ratios between neighbouring runs."""
    what = variant.what
    with serving(names, variant) as servers:
        seconds: dict[str, list[float]] = {server.name: [] for server in servers}
        cpu: dict[str, list[float]] = {server.name: [] for server in servers}
        for server in servers:
            rig.upload(server, max(count // 4, 1))  # warm: compiled, grown, connected
        for _ in range(runs):
            for server in servers:
                before = server.cpu()
                seconds[server.name].append(rig.upload(server, count)["seconds"])
                cpu[server.name].append((server.cpu() - before) / count * 1e6)
    figures = [
        Figure(
            f"{name}, {what}", count / rig.median(times), "orders/s", note=f"{rig.median(cpu[name]):.0f} µs of CPU each"
        )
        for name, times in seconds.items()
    ]
    pairs = (("penstock", "express"), ("penstock", "plain"), ("penstock-uvloop", "penstock"), ("express", "plain"))
    for name, other in pairs:
        if name in seconds and other in seconds:
            ratios = [b / a for a, b in zip(seconds[name], seconds[other], strict=True)]
            target = variant.targets.get(other) if name == "penstock" else None
            less = rig.median([b / a for a, b in zip(cpu[name], cpu[other], strict=True)])
            note = f"runs {min(ratios):.2f} … {max(ratios):.2f}; CPU {less:.2f} x less"
            figures.append(Figure(f"{name} / {other}, {what}", rig.median(ratios), "x", at_least=target, note=note))
    return figures


def all_figures(quick: bool, runs: int, names: Sequence[str]) -> list[Figure]:
    """Return the figures of all variants; none if nginx is missing."""
    if program() is None:
        print("!!! SERVICES ARE LEFT OUT: nginx is not on this machine", file=sys.stderr, flush=True)
        return []
    count = 200 if quick else 20_000
    return [figure for variant in VARIANTS for figure in measure(names, runs, count, variant)]


def main() -> int:
    given = rig.arguments(__doc__, runs=5)
    figures = all_figures(given.quick, given.runs, given.only)
    show("Services over HTTP, which nginx answers; window 256", figures)
    return exit_code(figures)


if __name__ == "__main__":
    sys.exit(main())
