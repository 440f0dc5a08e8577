"""Alerts, their tests and the dashboard are consistent, and use only series that the code exports."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any, TypeAlias

import pytest
import yaml

from penstock.observe import metrics
from penstock_http.aggregate import supervision
from waiting import HANG_SECONDS

pytestmark = pytest.mark.prometheus

Alerts: TypeAlias = dict[str, dict[str, Any]]
Cases: TypeAlias = list[dict[str, Any]]

SERIES = (*metrics.SERIES, *supervision.SERIES)
"""The series of a process, and those of a service with several processes."""

PROMETHEUS_SERIES = {"up", "ALERTS"}
"""Series that Prometheus creates itself."""

PANEL = re.compile(r"(?P<title>.+) \(/d/penstock\?viewPanel=(?P<id>\d+)(&var-flow=\{\{ \$labels\.flow \}\})?\)")
"""The panel of an alert: its title and its address."""


@pytest.fixture(scope="module")
def promtool() -> str:
    """The path of promtool, which tests the rules."""
    found = shutil.which("promtool")
    if found is None:
        pytest.skip("promtool is not installed: apt-get install prometheus")
    return found


@pytest.fixture(scope="module")
def alerts(prometheus_folder: Path) -> Alerts:
    """The alerts of rules.yml, by name."""
    groups = yaml.safe_load((prometheus_folder / "rules.yml").read_text())["groups"]
    return {rule["alert"]: rule for group in groups for rule in group["rules"]}


@pytest.fixture(scope="module")
def cases(prometheus_folder: Path) -> Cases:
    """The cases of tests.yml."""
    return yaml.safe_load((prometheus_folder / "tests.yml").read_text())["tests"]


def run(*command: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, timeout=2 * HANG_SECONDS, check=False)


def metrics_in(query: str) -> set[str]:
    """Return the metric names in a PromQL expression: what remains without labels, ranges, functions and operators."""
    bare = re.sub(r'"[^"]*"', " ", query)
    bare = re.sub(r"\{[^}]*\}|\[[^]]*\]", " ", bare)
    bare = re.sub(r"\b(by|without|on|ignoring|group_left|group_right)\s*\([^)]*\)", " ", bare)
    names = re.findall(r"(?<![\w.])[a-zA-Z_:][\w:]*+(?!\s*\()", bare)
    return set(names) - {"and", "or", "unless", "bool", "offset"}


def alerts_tested_by(case: dict[str, Any], *, firing: bool) -> set[str]:
    """Return the alerts that a case expects to fire, or not to fire."""
    return {
        re.search(r'ALERTS\{alertname="(\w+)", alertstate="firing"\}', test["expr"])[1]
        for test in case["promql_expr_test"]
        if bool(test["exp_samples"]) is firing
    }


def series_in(case: dict[str, Any]) -> set[str]:
    return {re.match(r"[\w:]+", given["series"])[0] for given in case["input_series"]}


def panel_named_by(alert: dict[str, Any]) -> tuple[str, int] | None:
    found = PANEL.fullmatch(alert["annotations"]["panel"])
    return (found["title"], int(found["id"])) if found else None


def is_exported(name: str) -> bool:
    base = re.sub(r"_(bucket|sum|count)$", "", name)
    return name in SERIES or base in SERIES or name.startswith("process_") or name in PROMETHEUS_SERIES


def test_rules_are_valid(promtool: str, prometheus_folder: Path) -> None:
    """promtool accepts every expression and every template in rules.yml."""
    checked = run(promtool, "check", "rules", prometheus_folder / "rules.yml")

    assert checked.returncode == 0, checked.stderr


def test_prometheus_configuration_is_valid(promtool: str, prometheus_folder: Path) -> None:
    """promtool accepts prometheus.yml and the files that it names."""
    checked = run(promtool, "check", "config", prometheus_folder / "prometheus.yml")

    assert checked.returncode == 0, checked.stderr


def test_alert_cases_pass(promtool: str, prometheus_folder: Path) -> None:
    """promtool test rules passes for all cases of tests.yml."""
    tested = run(promtool, "test", "rules", prometheus_folder / "tests.yml")

    assert tested.returncode == 0, tested.stdout + tested.stderr


def test_every_alert_has_a_case_in_which_it_fires(alerts: Alerts, cases: Cases) -> None:
    """An alert without such a case might never fire."""
    seen = set().union(*(alerts_tested_by(case, firing=True) for case in cases))

    assert seen == set(alerts)


def test_every_alert_has_a_case_in_which_it_does_not_fire(alerts: Alerts, cases: Cases) -> None:
    """The case has data for the alert, or it would prove nothing."""
    seen = {
        name
        for case in cases
        for name in alerts_tested_by(case, firing=False)
        if metrics_in(alerts[name]["expr"]) & series_in(case)
    }

    assert seen == set(alerts)


def test_every_alert_has_severity_and_runbook(alerts: Alerts) -> None:
    """An alert has a severity, a summary, a description, instructions and a panel."""
    incomplete = {
        name
        for name, alert in alerts.items()
        if alert["labels"]["severity"] not in {"critical", "warning"}
        or not all(alert["annotations"].get(word) for word in ("summary", "description", "runbook", "panel"))
    }

    assert incomplete == set()


def test_every_alert_names_a_panel_of_the_dashboard(alerts: Alerts, panels: list[Any]) -> None:
    """The title and the id belong to the same panel."""
    existing = {(panel.title, panel.id) for panel in panels}

    assert {name for name, alert in alerts.items() if panel_named_by(alert) not in existing} == set()


def test_panel_ids_and_titles_are_unique(dashboard: dict[str, Any], panels: list[Any]) -> None:
    """Alerts refer to panels by id and title."""
    ids = [panel["id"] for panel in dashboard["panels"]]
    titles = [panel.title for panel in panels]

    assert (len(set(ids)), len(set(titles))) == (len(ids), len(titles))


def test_every_panel_has_a_description_and_a_unit(dashboard: dict[str, Any]) -> None:
    """The description tells how to read the panel."""
    bare = [
        panel["title"]
        for panel in dashboard["panels"]
        if panel["type"] != "row" and not (panel.get("description") and panel["fieldConfig"]["defaults"].get("unit"))
    ]

    assert bare == []


def test_panels_do_not_overlap(dashboard: dict[str, Any]) -> None:
    """Each cell of the grid belongs to one panel."""
    cells = [
        (x, y)
        for at in (panel["gridPos"] for panel in dashboard["panels"])
        for x in range(at["x"], at["x"] + at["w"])
        for y in range(at["y"], at["y"] + at["h"])
    ]

    assert len(cells) == len(set(cells))


def test_dashboard_queries_only_existing_series(dashboard: dict[str, Any], panels: list[Any]) -> None:
    """A renamed series would leave a panel empty, which looks like no problem."""
    queries = [query for panel in panels for query in panel.queries]
    queries += [note["expr"] for note in dashboard["annotations"]["list"] if "expr" in note]
    queries += [
        re.sub(r"label_values\((\w+), \w+\)", r"\1", variable["definition"])
        for variable in dashboard["templating"]["list"]
        if variable["type"] == "query"
    ]

    assert {name for query in queries for name in metrics_in(query) if not is_exported(name)} == set()


def test_alerts_use_only_existing_series(alerts: Alerts) -> None:
    """With a renamed series an alert would never fire."""
    watched = set().union(*(metrics_in(alert["expr"]) for alert in alerts.values()))

    assert {name for name in watched if not is_exported(name)} == set()


def test_every_series_is_on_the_dashboard(panels: list[Any]) -> None:
    """Every exported series is shown by a panel."""
    shown = set().union(*(metrics_in(query) for panel in panels for query in panel.queries))

    assert set(SERIES) - {name.removesuffix("_bucket") for name in shown} == set()


def test_every_alert_is_in_the_readme(alerts: Alerts, prometheus_folder: Path) -> None:
    """The table in README.md lists every alert with its panel."""
    table = (prometheus_folder.parent / "README.md").read_text()
    rows = dict(re.findall(r"^\| `(Penstock\w+)` \|(.*)$", table, re.MULTILINE))

    missing = {name for name, alert in alerts.items() if panel_named_by(alert)[0] not in rows.get(name, "")}

    assert (missing, set(rows) - set(alerts)) == (set(), set())
