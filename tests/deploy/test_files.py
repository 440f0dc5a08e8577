"""The files of `http/deploy`: each is valid for the program that reads it, and they agree with the settings."""

from __future__ import annotations

import json
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from deploy.tools import checked, checked_by_package, tools
from npm import installed
from penstock.settings import load_settings

DEPLOY = Path(__file__).parents[2] / "http/deploy"
MANIFESTS = ("postgres.yaml", "sqlite.yaml")
KUBERNETES = ("1.28", "1.37")
MARGIN = 5
"""Seconds that a stop may take beyond its limits, before the process is killed from outside."""


def documents(name: str) -> list[dict[str, Any]]:
    """Return the documents of a YAML file."""
    return list(yaml.safe_load_all((DEPLOY / name).read_text(encoding="utf-8")))


def test_hadolint_accepts_the_dockerfile() -> None:
    """It has no findings, not even on style."""
    assert checked([str(tools() / "bin/hadolint"), str(DEPLOY / "Dockerfile")]) == ""


def test_the_compose_file_follows_the_specification() -> None:
    """It has no unknown keys, and no values of a wrong type; named volumes exist."""
    program = "import compose_spec, sys; compose_spec.PyCompose.from_yaml(sys.stdin.read()).validate()"
    with (DEPLOY / "compose.yaml").open() as file:
        checked([sys.executable, "-c", program], stdin=file, env={"PYTHONPATH": str(tools())})


def test_the_compose_file_mounts_files_that_exist() -> None:
    """Docker would make an empty folder of a source that is missing."""
    services = documents("compose.yaml")[0]["services"]
    volumes = [volume.split(":")[0] for service in services.values() for volume in service.get("volumes", ())]
    sources = [volume for volume in volumes if volume.startswith(".")]
    assert len(sources) == 5
    assert [source for source in sources if not (DEPLOY / source).exists()] == []


@pytest.mark.parametrize("version", KUBERNETES)
@pytest.mark.parametrize("name", MANIFESTS)
def test_kubernetes_accepts_the_manifests(name: str, version: str) -> None:
    """Each document is valid, without unknown keys."""
    manifest = DEPLOY / "kubernetes" / name
    printed = checked_by_package("kubernetes_validate", "--strict", "-k", version, str(manifest))
    assert printed.count(" passed for resource ") == len(documents(f"kubernetes/{name}"))


@pytest.mark.parametrize("name", MANIFESTS)
def test_all_selectors_of_a_manifest_select_its_pods(name: str) -> None:
    """Those of the workload, of the Service and of the PodDisruptionBudget; the ServiceMonitor selects the Service."""
    workload, service, budget = documents(f"kubernetes/{name}")
    labels = workload["spec"]["template"]["metadata"]["labels"]
    monitor = documents("kubernetes/servicemonitor.yaml")[0]
    assert workload["spec"]["selector"]["matchLabels"] == labels
    assert service["spec"]["selector"] == labels
    assert budget["spec"]["selector"]["matchLabels"] == labels
    assert monitor["spec"]["selector"]["matchLabels"] == service["metadata"]["labels"]
    assert monitor["spec"]["endpoints"][0]["port"] == service["spec"]["ports"][0]["name"]


@pytest.mark.node
@pytest.mark.skipif(shutil.which("npm") is None, reason="needs Node.js with npm: apt-get install nodejs npm")
def test_the_prometheus_operator_accepts_the_monitor() -> None:
    """By its schema."""
    monitor = json.dumps(documents("kubernetes/servicemonitor.yaml")[0])
    checked(["node", "check.mjs"], input=monitor, cwd=installed(Path(__file__).with_name("monitor")))


@pytest.mark.prometheus
@pytest.mark.skipif(shutil.which("promtool") is None, reason="needs promtool: apt-get install prometheus")
def test_promtool_accepts_the_configuration_of_the_compose_file(tmp_path: Path) -> None:
    """With the rules where the compose file mounts them."""
    shutil.copy(DEPLOY / "prometheus.yml", tmp_path)
    shutil.copy(DEPLOY.parents[1] / "dashboards/prometheus/rules.yml", tmp_path)
    assert "rules found" in checked(["promtool", "check", "config", "--lint-fatal", str(tmp_path / "prometheus.yml")])


@pytest.mark.systemd
@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze: apt-get install systemd")
def test_systemd_accepts_the_unit(tmp_path: Path) -> None:
    """It has no unknown keys, and systemd finds little that the service could do beyond its work."""
    unit = tmp_path / "penstock.service"
    text = (DEPLOY / "penstock.service").read_text(encoding="utf-8")
    unit.write_text(text.replace("/opt/penstock/bin/penstock", sys.executable))
    assert checked(["systemd-analyze", "verify", "--man=no", str(unit)]) == ""
    checked(["systemd-analyze", "security", "--offline=true", "--threshold=15", str(unit)])


def stopping() -> dict[str, tuple[float, dict[str, str]]]:
    """Return for each deployment the seconds after which it kills Penstock, and the variables of its process."""
    unit = (DEPLOY / "penstock.service").read_text(encoding="utf-8")
    timeout = re.search(r"^TimeoutStopSec=(\d+)$", unit, re.M)
    assert timeout is not None
    compose = documents("compose.yaml")[0]["services"]["penstock"]
    deployments = {
        "systemd": (float(timeout[1]), dict(re.findall(r"^Environment=(PENSTOCK_\w+)=(.*)$", unit, re.M))),
        "compose": (float(compose["stop_grace_period"].removesuffix("s")), compose["environment"]),
    }
    for name in MANIFESTS:
        pod = documents(f"kubernetes/{name}")[0]["spec"]["template"]["spec"]
        variables = {entry["name"]: entry.get("value", "0123456789abcdef") for entry in pod["containers"][0]["env"]}
        deployments[name] = (float(pod["terminationGracePeriodSeconds"]), variables)
    return deployments


@pytest.mark.parametrize("name", ["systemd", "compose", *MANIFESTS])
def test_a_deployment_waits_as_long_as_the_service_may_take_to_stop(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """All of its variables are settings, and it kills the process only after all limits of the shutdown."""
    monkeypatch.setenv("POSTGRES_PASSWORD", "secret")  # named by the URL of the dead-letter store
    limit, variables = stopping()[name]
    settings = load_settings(
        {}, {key: value.replace("$$", "$") for key, value in variables.items()} | {"PENSTOCK_TOKEN": "0123456789abcdef"}
    )
    assert settings.processes == 2
    assert limit >= settings.drain_delay + settings.grace_period + settings.exit_timeout + MARGIN


@pytest.mark.parametrize("name", MANIFESTS)
def test_pods_leave_the_service_before_they_close_their_port(name: str) -> None:
    """Kubernetes removes a pod while it stops it, so the drain delay is longer than one probe."""
    container = documents(f"kubernetes/{name}")[0]["spec"]["template"]["spec"]["containers"][0]
    delay = next(entry["value"] for entry in container["env"] if entry["name"] == "PENSTOCK_DRAIN_DELAY")
    assert float(delay) > container["readinessProbe"]["periodSeconds"]


def test_the_volume_of_the_image_is_the_only_place_that_files_are_written_to() -> None:
    """The manifests mount a volume there, and at /tmp; the root is read-only."""
    for name in MANIFESTS:
        container = documents(f"kubernetes/{name}")[0]["spec"]["template"]["spec"]["containers"][0]
        written = {mount["mountPath"] for mount in container["volumeMounts"] if not mount.get("readOnly")}
        assert written == {"/var/lib/penstock", "/tmp"}
        assert container["securityContext"]["readOnlyRootFilesystem"] is True
    assert "VOLUME /var/lib/penstock\n" in (DEPLOY / "Dockerfile").read_text(encoding="utf-8")
