"""Alerts, their tests and the dashboard fit together, and speak only of series that the code exports."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any, TypeAlias

import pytest
import yaml

from penstock.observe.metrics import SERIES
from waiting import HANG_SECONDS

pytestmark = pytest.mark.prometheus

Alerts: TypeAlias = dict[str, dict[str, Any]]
Cases: TypeAlias = list[dict[str, Any]]

OF_PROMETHEUS = {"up", "ALERTS"}
"""Series that Prometheus makes itself."""

PANEL = re.compile(r"(?P<title>.+) \(/d/penstock\?viewPanel=(?P<id>\d+)(&var-flow=\{\{ \$labels\.flow \}\})?\)")
"""How an alert names the panel to open."""


@pytest.fixture(scope="module")
def promtool() -> str:
    """The path of promtool, without which a rule cannot be tried."""
    found = shutil.which("promtool")
    if found is None:
        pytest.skip("promtool is missing, so alert rules are not checked: apt-get install prometheus")
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
    """The metric names in a PromQL expression: what remains without labels, ranges, functions, operators."""
    bare = re.sub(r'"[^"]*"', " ", query)
    bare = re.sub(r"\{[^}]*\}|\[[^]]*\]", " ", bare)
    bare = re.sub(r"\b(by|without|on|ignoring|group_left|group_right)\s*\([^)]*\)", " ", bare)
    names = re.findall(r"(?<![\w.])[a-zA-Z_:][\w:]*+(?!\s*\()", bare)
    return set(names) - {"and", "or", "unless", "bool", "offset"}


def alerts_asked_about(case: dict[str, Any], *, firing: bool) -> set[str]:
    """The alerts that a case expects to fire, or expects not to."""
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
    return name in SERIES or base in SERIES or name.startswith("process_") or name in OF_PROMETHEUS


def test_prometheus_reads_the_rules(promtool: str, prometheus_folder: Path) -> None:
    """Every expression and every template in rules.yml is valid."""
    checked = run(promtool, "check", "rules", prometheus_folder / "rules.yml")

    assert checked.returncode == 0, checked.stderr


def test_prometheus_reads_its_configuration(promtool: str, prometheus_folder: Path) -> None:
    """prometheus.yml is valid, and so are the files that it names."""
    checked = run(promtool, "check", "config", prometheus_folder / "prometheus.yml")

    assert checked.returncode == 0, checked.stderr


def test_alerts_fire_when_they_must_and_only_then(promtool: str, prometheus_folder: Path) -> None:
    """The cases of tests.yml hold."""
    tested = run(promtool, "test", "rules", prometheus_folder / "tests.yml")

    assert tested.returncode == 0, tested.stdout + tested.stderr


def test_every_alert_has_a_case_in_which_it_fires(alerts: Alerts, cases: Cases) -> None:
    """An alert that was never seen to fire may not be able to."""
    seen = set().union(*(alerts_asked_about(case, firing=True) for case in cases))

    assert seen == set(alerts)


def test_every_alert_has_a_case_in_which_it_keeps_quiet(alerts: Alerts, cases: Cases) -> None:
    """An alert that fires without need is not believed. The case has data, or silence proves nothing."""
    seen = {
        name
        for case in cases
        for name in alerts_asked_about(case, firing=False)
        if metrics_in(alerts[name]["expr"]) & series_in(case)
    }

    assert seen == set(alerts)


def test_every_alert_tells_what_to_do(alerts: Alerts) -> None:
    """Who is woken by an alert finds in it how bad it is, what it means, what to do and where to look."""
    silent = {
        name
        for name, alert in alerts.items()
        if alert["labels"]["severity"] not in {"critical", "warning"}
        or not all(alert["annotations"].get(word) for word in ("summary", "description", "runbook", "panel"))
    }

    assert silent == set()


def test_every_alert_names_a_panel_of_the_dashboard(alerts: Alerts, panels: list[Any]) -> None:
    """Title and id that an alert names belong to one and the same panel."""
    there = {(panel.title, panel.id) for panel in panels}

    assert {name for name, alert in alerts.items() if panel_named_by(alert) not in there} == set()


def test_every_panel_has_an_id_and_a_title_of_its_own(dashboard: dict[str, Any], panels: list[Any]) -> None:
    """Alerts and people link to panels: two with one id, or one title, lead astray."""
    ids = [panel["id"] for panel in dashboard["panels"]]
    titles = [panel.title for panel in panels]

    assert (len(set(ids)), len(set(titles))) == (len(ids), len(titles))


def test_every_panel_says_what_to_read_from_it(dashboard: dict[str, Any]) -> None:
    """A curve without a word of what it means is no help at night; nor is one without a unit."""
    bare = [
        panel["title"]
        for panel in dashboard["panels"]
        if panel["type"] != "row" and not (panel.get("description") and panel["fieldConfig"]["defaults"].get("unit"))
    ]

    assert bare == []


def test_panels_do_not_lie_on_each_other(dashboard: dict[str, Any]) -> None:
    """Each place of the grid belongs to one panel."""
    places = [
        (x, y)
        for at in (panel["gridPos"] for panel in dashboard["panels"])
        for x in range(at["x"], at["x"] + at["w"])
        for y in range(at["y"], at["y"] + at["h"])
    ]

    assert len(places) == len(set(places))


def test_the_dashboard_shows_only_series_that_exist(dashboard: dict[str, Any], panels: list[Any]) -> None:
    """A renamed series would leave a panel empty, and an empty panel looks like peace."""
    queries = [query for panel in panels for query in panel.queries]
    queries += [note["expr"] for note in dashboard["annotations"]["list"] if "expr" in note]
    queries += [
        re.sub(r"label_values\((\w+), \w+\)", r"\1", variable["definition"])
        for variable in dashboard["templating"]["list"]
        if variable["type"] == "query"
    ]

    assert {name for query in queries for name in metrics_in(query) if not is_exported(name)} == set()


def test_the_alerts_watch_only_series_that_exist(alerts: Alerts) -> None:
    """A renamed series would leave an alert silent for ever."""
    watched = set().union(*(metrics_in(alert["expr"]) for alert in alerts.values()))

    assert {name for name in watched if not is_exported(name)} == set()


def test_every_series_is_on_the_dashboard(panels: list[Any]) -> None:
    """What the code measures can be seen: nothing is exported that no panel shows."""
    shown = set().union(*(metrics_in(query) for panel in panels for query in panel.queries))

    assert set(SERIES) - {name.removesuffix("_bucket") for name in shown} == set()


def test_every_alert_is_in_the_readme(alerts: Alerts, prometheus_folder: Path) -> None:
    """The table in README.md leads from every alert to its panel."""
    table = (prometheus_folder.parent / "README.md").read_text()
    rows = dict(re.findall(r"^\| `(Penstock\w+)` \|(.*)$", table, re.MULTILINE))

    lost = {name for name, alert in alerts.items() if panel_named_by(alert)[0] not in rows.get(name, "")}

    assert (lost, set(rows) - set(alerts)) == (set(), set())
