"""The documents are true: their code runs, their outputs are those of the commands, their links and settings exist."""

from __future__ import annotations

import ast
import json
import re
import shutil
import subprocess
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from flows.walkthrough import blocks_of, walkthrough
from npm import installed
from penstock.flowtests import run_test, verify
from penstock.flowtests.load import loads
from penstock.settings import Settings
from penstock_http.app import make_app
from servers import program

ROOT = Path(__file__).parents[2]
FOLDERS = (".", "flows", "flows/docs", "http", "http/docs")
PAGES = sorted(page for folder in FOLDERS for page in (ROOT / folder).glob("*.md"))
README = ROOT / "README.md"
API = ROOT / "http/docs/api.md"
WALKED = [
    README,
    *(
        ROOT / page
        for page in (
            "flows/docs/tutorial.md",
            "flows/docs/recipes.md",
            "http/docs/clients.md",
            "http/docs/deployment.md",
        )
    ),
]
"""Pages whose blocks are performed in order, in an empty folder: files are saved, commands run, outputs compared."""
ARROW = "# → "


def blocks(page: Path, language: str) -> list[str]:
    """Return the blocks of a language on a page."""
    return re.findall(rf"^```{language}\n(.*?)^```$", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


def perform(block: str, names: dict[str, Any]) -> int:
    """Run a block, and compare each value after an arrow with that of its expression. Returns the number of arrows."""
    lines = block.splitlines()
    arrows = 0
    for statement in statements_of(ast.parse(block)):
        end = statement.end_lineno or 0
        here = "\n".join(
            lines[end - 1 : end + 1] if lines[end:] and lines[end].startswith(ARROW) else lines[end - 1 : end]
        )
        if isinstance(statement, ast.Expr) and ARROW in here:
            value = eval(compile(ast.Expression(shown(statement.value)), "README", "eval"), names)
            assert repr(value) == here.split(ARROW)[1]
            arrows += 1
        else:
            exec(compile(ast.Module([statement], []), "README", "exec"), names)
    return arrows


def statements_of(program: ast.Module) -> list[ast.stmt]:
    """Return the statements of a program, including those under `if __name__ == "__main__"`."""
    found: list[ast.stmt] = []
    for statement in program.body:
        started = isinstance(statement, ast.If) and ast.unparse(statement.test) == "__name__ == '__main__'"
        found += statement.body if started else [statement]
    return found


def shown(value: ast.expr) -> ast.expr:
    """Return the expression whose value the page shows: of `print(…)`, its argument."""
    printed = isinstance(value, ast.Call) and ast.unparse(value.func) == "print"
    return value.args[0] if printed else value


def name_of(page: Path) -> str:
    """Return the path of a page in the repository, as the id of a test."""
    return str(page.relative_to(ROOT))


@pytest.mark.parametrize("page", [page for page in PAGES if page == README or page not in WALKED], ids=name_of)
def test_the_python_of_a_page_runs(page: Path) -> None:
    """From top to bottom, with the values that the page shows after the arrows."""
    names: dict[str, Any] = {"__name__": "readme"}
    written = blocks(page, "python")
    with capture_logs():
        arrows = sum(perform(block, names) for block in written)
    assert arrows == sum(block.count(ARROW) for block in written)


@pytest.mark.long
@pytest.mark.skipif(not all(map(shutil.which, ("bash", "curl", "gzip"))), reason="needs bash, curl and gzip")
@pytest.mark.parametrize("page", WALKED, ids=name_of)
def test_a_reader_can_follow_a_page_line_by_line(page: Path, tmp_path: Path) -> None:
    """From an empty folder, with the servers left running: every command succeeds and prints what the page shows.

    The section "Test it" of the README is left out: its command runs this test. Without Node, so are its programs.
    So is the recipe with a broker where there is no server.
    """
    text = re.sub(r"^## Test it\n.*?(?=^## |\Z)", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)
    if shutil.which("node") is None:
        text = re.sub(r"^node .*\n", "", text, flags=re.M)
    if not Path(program("nats-server")).exists():
        text = re.sub(r"^## From a broker.*?(?=^## |\Z)", "", text, flags=re.M | re.S)
    with walkthrough(tmp_path, activated=page != README) as walking:
        for block in blocks_of(text):
            walking.perform(block)
        codes = walking.stop()
    assert codes == [0] * len(codes)


@pytest.mark.node
@pytest.mark.skipif(shutil.which("npm") is None, reason="needs Node.js with npm: apt-get install nodejs npm")
def test_mermaid_parses_the_pictures_of_the_documents() -> None:
    """Each picture is valid syntax."""
    pictures = [picture for page in PAGES for picture in blocks(page, "mermaid")]
    done = subprocess.run(
        ["node", "parse.mjs"],
        cwd=installed(ROOT / "tests/graph/mermaid"),
        input=json.dumps(pictures),
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    errors = json.loads(done.stdout)
    assert len(errors) == len(pictures) > 0
    assert [pair for pair in zip(errors, pictures, strict=True) if pair[0]] == []


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_the_flow_files_of_a_page_are_valid(page: Path) -> None:
    """They load, and their tests pass."""
    for number, block in enumerate(block for block in blocks(page, "yaml") if block.startswith("flow:")):
        file = loads(block, f"{page.stem}-{number}.yaml")
        for case in file.tests:
            verdict = verify(run_test(file.flow, case))
            assert verdict.passed, verdict


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_have_targets(page: Path) -> None:
    """To files of the repository, and to headings that exist."""
    links = re.findall(r"\]\((?!https?:)([^)#]*)(?:#([^)]*))?\)", page.read_text(encoding="utf-8"))
    targets = [((page.parent / path) if path else page, anchor) for path, anchor in links]
    assert [str(file) for file, _ in targets if not file.exists()] == []
    assert [f"{file}#{anchor}" for file, anchor in targets if anchor and anchor not in anchors(file)] == []


def anchors(page: Path) -> set[str]:
    """Return the anchors of the headings of a page, as GitHub makes them, and those written in HTML."""
    text = page.read_text(encoding="utf-8")
    headings = re.findall(r"^#+ (.*)$", re.sub(r"^```.*?^```$", "", text, flags=re.M | re.S), re.M)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings} | set(
        re.findall(r'<a id="([\w-]+)">', text)
    )


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_curl_requests_paths_that_exist(page: Path) -> None:
    """Every path after `localhost:8080` is a route of the application."""
    canonical = {resource.canonical for resource in application_resources()}
    patterns = [re.compile(re.sub(r"\{\w+\}", "[^/]+", path) + "$") for path in canonical]
    requested = re.findall(r"localhost:8080(/[\w/.{}$-]*)", page.read_text(encoding="utf-8"))
    assert [path for path in requested if not any(pattern.match(path) for pattern in patterns)] == []


def application_resources() -> Any:
    """Return the routes of the application."""
    from penstock.observe import HttpCounters, MetricSources, PenstockCollector, ReloadCounters
    from penstock.runtime import Supervisor
    from penstock_http.deployments.file_watcher import WatchedFiles
    from penstock_http.deployments.registry import FlowRegistry
    from penstock_http.deployments.reload import Reloader
    from penstock_http.server.bootstrap import make_loader
    from penstock_http.server.dead_letters import DeadLetterWork
    from penstock_http.state import AppState

    async def make() -> Any:
        supervisor, requests = Supervisor(), HttpCounters()
        registry = FlowRegistry(supervisor, ReloadCounters())
        reloader = Reloader(registry, make_loader(Settings()), WatchedFiles())
        desk = DeadLetterWork(supervisor, registry).desk
        state = AppState(Settings(), supervisor, registry, reloader, requests, desk)
        return make_app(state, PenstockCollector(MetricSources(supervisor, requests, "0"))).router.resources()

    from penstock.testing import run

    return run(make())


@pytest.mark.parametrize("setting", fields(Settings), ids=lambda setting: setting.name)
def test_every_setting_is_documented(setting: Any) -> None:
    """With its flag (or variable) and its default, in the table of the API's page."""
    page = API.read_text(encoding="utf-8")
    name = f"--{setting.name.replace('_', '-')}" if setting.metadata["flag"] else f"PENSTOCK_{setting.name.upper()}"
    name = "[tokens.NAME]" if setting.name == "tokens" else name
    row = re.search(rf"^\| `{re.escape(name)}` \| ([^|]*) \|", page, re.MULTILINE)
    assert row is not None
    shown = row[1].strip().strip("`").replace(" ", "")
    default = setting.default
    assert shown == (f"{default:g}" if isinstance(default, float) else "none" if default in ("", ()) else str(default))


def test_only_settings_are_documented() -> None:
    """The table has no options that do not exist."""
    page = API.read_text(encoding="utf-8")
    documented = set(re.findall(r"^\| `--([\w-]+)` \|", page, re.MULTILINE))
    assert documented <= {setting.name.replace("_", "-") for setting in fields(Settings)}


def test_every_problem_code_is_documented() -> None:
    """The codes in the source are in the table of the API's page, and no others."""
    source = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "http/penstock_http").rglob("*.py"))
    rows = re.findall(r"^\| [45]\d\d[^|]* \| ([^|]*) \|", API.read_text(encoding="utf-8"), re.MULTILINE)
    documented = set(re.findall(r"`(\w+)`", " ".join(rows)))
    rejected = r'(?:RequestRejected\(|\(\w+, )\s*[45]\d\d,\s+"([a-z_]+)"'
    assert set(re.findall(rejected, source)) <= documented
    assert [code for code in documented if f'"{code}"' not in source] == []
