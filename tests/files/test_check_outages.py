"""`penstock check` says what happens while a service is down, and opens the files of certificates."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import trustme

from invoking import invoke

FLOW = """\
flow: f
services:
  s: {{get: 'https://h', timeout: 2s, attempts: 3{service}}}
steps:
- enrich: {{a: s}}
- map_async: s
{flow}
"""

WAITS = "elements that have waited 5m fail as ServiceUnavailable"


def check(folder: Path, *words: str, service: str = "", flow: str = "") -> tuple[int, str]:
    """The exit code and the output of the command, for a flow with a service."""
    (folder / "f.yaml").write_text(FLOW.format(service=service and f", {service}", flow=flow))
    result = invoke("check", folder / "f.yaml", *words)
    return result.exit_code, result.stdout


@pytest.mark.parametrize(
    ("service", "flow", "sentences"),
    [
        (
            "",
            "dead_letters: memory",
            [
                "after 20 failures in a row its calls wait, and sources pause when the window of their run is full",
                "it is probed after 1s, then less often, up to every 1m",
                WAITS,
                "they become dead letters",
            ],
        ),
        (
            "breaker: {failure_rate: 80%, open: 3s, max_open: 3s, max_open_wait: 1h30m}",
            "dead_letters: memory\nredrive: recovered",
            [
                "after failures of 80% of the last 50 calls its calls wait, and sources pause when the window of their "
                "run is full",
                "it is probed every 3s",
                "elements that have waited 1h30m fail as ServiceUnavailable",
                "they become dead letters, which are redriven when it works again",
            ],
        ),
        (
            "breaker: none",
            "dead_letters: memory",
            ["each element that needs it fails after 3 attempts of at most 2s", "they become dead letters"],
        ),
        (
            "breaker: {failures: 1}",
            "serve: {refuse_when_open: true}",
            [
                "after a failure its calls wait, and sources pause when the window of their run is full",
                "it is probed after 1s, then less often, up to every 1m",
                WAITS,
                "their failures are reported, and stored only by penstock serve, in its --dead-letters",
                "new HTTP requests get 503",
            ],
        ),
    ],
    ids=["default", "rate", "none", "refuses"],
)
def test_an_outage_is_described(tmp_path: Path, service: str, flow: str, sentences: list[str]) -> None:
    """In sentences, also as JSON with the steps that call the service."""
    code, text = check(tmp_path, service=service, flow=flow)
    assert code == 0
    assert f"  while a service is down:\n    s: {'; '.join(sentences)}\n" in text
    report = json.loads(check(tmp_path, "--json", service=service, flow=flow)[1])[0]
    assert report["outages"] == [{"service": "s", "steps": ["enrich", "s"], "text": "; ".join(sentences)}]


def test_a_flow_without_services_has_no_outages(tmp_path: Path) -> None:
    """Nothing is said."""
    (tmp_path / "f.yaml").write_text("flow: f\n")
    assert "is down" not in invoke("check", tmp_path / "f.yaml").stdout


def test_files_of_certificates_are_opened(tmp_path: Path) -> None:
    """Each problem is an error of the file that names the service; files that can be read are none."""
    authority = trustme.CA()
    ca, empty = tmp_path / "ca.pem", tmp_path / "empty.pem"
    authority.cert_pem.write_to_path(str(ca))
    empty.write_text("")

    code, text = check(tmp_path, service=f"tls: {{ca: {tmp_path}/none.pem}}")
    assert code == 1
    assert f"{tmp_path}/f.yaml: service s: tls: ca '{tmp_path}/none.pem' cannot be read: " in text
    code, text = check(tmp_path, service=f"tls: {{ca: {ca}, cert: {empty}}}")
    assert (code, f"service s: tls: cert '{empty}' cannot be read: " in text) == (1, True)
    assert check(tmp_path, service=f"tls: {{ca: {ca}}}")[0] == 0


SHARED = """\
flow: f
services:
  s: {get: 'https://h', max_in_flight: 10, rate: 5}
  once: {get: 'https://h', max_in_flight: 1, breaker: none}
steps: [enrich: [s, once]]
serve: {max_runs: 2}
workers:
  all: {source: {nats: 'nats://h', stream: S, durable: d, max_ack_pending: 600}}
  one: {source: {file: a.ndjson}, every: 1h}
"""


def test_what_several_processes_divide_is_described(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Limits that are totals, breakers that are not, and workers that run once: for the option, or the variable."""
    (tmp_path / "f.yaml").write_text(SHARED)
    sentences = [
        "s: at most 10 calls at once in all processes together, 8 in one while the others are idle; at most 5 calls "
        "per second in all processes together; each process has its circuit breaker, with up to 3 probes",
        "once: each process makes 1 call at once, 3 in all, although max_in_flight is 1",
        "worker all: runs in every process, which all receive a part of the messages",
        "worker one: runs in one process",
        "streams: at most 2 at once in all processes together",
    ]
    text = invoke("check", tmp_path / "f.yaml", "--processes", "3").stdout
    assert "  with 3 processes:\n" + "".join(f"    {sentence}\n" for sentence in sentences) in text
    assert "worker all: 3 windows of 256 are never full, because max_ack_pending is 600" in text
    monkeypatch.setenv("PENSTOCK_PROCESSES", "3")
    (report,) = json.loads(invoke("check", tmp_path / "f.yaml", "--json").stdout)
    assert report["processes"] == {"count": 3, "texts": sentences}
    assert "with 1 process" not in invoke("check", tmp_path / "f.yaml", "--processes", "1").stdout
    (tmp_path / "m.yaml").write_text("flow: m\nsteps: [{set: {a: 1}}]\ndead_letters: memory\n")
    assert (
        "several processes refuse a store in memory" in invoke("check", tmp_path / "m.yaml", "--processes", "2").stdout
    )
