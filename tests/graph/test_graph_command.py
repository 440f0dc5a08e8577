"""The command `penstock graph`."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from invoking import invoke
from penstock import Flow
from penstock.cli.graph import write_graph
from penstock.errors import FlowDefinitionError
from penstock.orders import orders_flow

needs_graphviz = pytest.mark.skipif(not shutil.which("dot"), reason="needs Graphviz: apt-get install graphviz")


def command(words: list[str], load_flow: Callable[[str], Flow[Any]]) -> int:
    """Write the graph of a flow as `penstock graph WORDS` does."""
    options = dict(zip(words[1::2], words[2::2], strict=True))
    return write_graph(words[0], options.get("--format"), options.get("--output"), load_flow)


def orders(file: str) -> Flow[Any]:
    """Return the orders flow, whatever the file."""
    return orders_flow()


def test_the_command_writes_to_standard_output(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    """The default format is Mermaid."""
    assert command(["orders.yaml"], orders) == 0
    assert capfdbinary.readouterr().out.startswith(b"---\nconfig:\n  flowchart:")
    assert command(["orders.yaml", "--format", "dot"], orders) == 0
    assert capfdbinary.readouterr().out.startswith(b'digraph "orders"')


def test_the_extension_of_the_output_selects_the_format(tmp_path: Path) -> None:
    """`--format` overrides it."""
    for name, start in (
        ("f.gv", "digraph"),
        ("f.dot", "digraph"),
        ("f.mmd", "---"),
        ("f.json", "{"),
        ("f", "---"),
    ):
        assert command(["f.yaml", "--output", str(tmp_path / name)], orders) == 0
        assert (tmp_path / name).read_text(encoding="utf-8").startswith(start)
    assert command(["f", "--format", "json", "--output", str(tmp_path / "g.svg")], orders) == 0
    assert (tmp_path / "g.svg").read_text().startswith("{")


@pytest.mark.graphviz
@needs_graphviz
def test_graphviz_draws_images(tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    """They go to a file or to standard output."""
    for name, start in (("f.svg", b"<?xml"), ("f.png", b"\x89PNG")):
        assert command(["f.yaml", "--output", str(tmp_path / name)], orders) == 0
        assert (tmp_path / name).read_bytes().startswith(start)
        assert command(["f.yaml", "--format", name[2:]], orders) == 0
        assert capfdbinary.readouterr().out.startswith(start)


def test_binary_data_is_not_written_to_a_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A PNG image needs an output file there."""
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    assert command(["f.yaml", "--format", "png"], orders) == 2
    assert capsys.readouterr() == ("", "penstock graph: --format png writes binary data: add --output FILE\n")


def test_images_need_graphviz(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """A message says how to install it."""
    monkeypatch.setenv("PATH", "/nowhere")
    assert command(["f.yaml", "--format", "svg"], orders) == 1
    assert capsys.readouterr().err == (
        "penstock graph: --format svg needs Graphviz: install it (apt-get install graphviz, brew install graphviz) "
        "or use --format mermaid\n"
    )
    assert command(["f.yaml"], orders) == 0


def test_errors_are_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The exit code is 1 if the flow cannot be loaded or the drawing cannot be written, 2 for wrong usage."""
    flow = tmp_path / "f.yaml"
    flow.touch()

    def invalid(file: str) -> Flow[Any]:
        raise FlowDefinitionError(f"{file} is not a flow")

    assert command([str(flow)], invalid) == 1
    assert capsys.readouterr().err == f"penstock graph: {flow} is not a flow\n"
    assert command(["f.yaml", "--output", str(tmp_path / "no" / "f.dot")], orders) == 1
    assert "No such file or directory" in capsys.readouterr().err
    assert invoke("graph", flow, "--format", "gif").exit_code == 2
    assert command(["f.yaml", "--output", str(tmp_path / "f.gif")], orders) == 2
    expected = "unknown suffix .gif; use one of .mmd, .mermaid, .dot, .gv, .json, .svg, .png, or --format"
    assert expected in capsys.readouterr().err
    assert not (tmp_path / "f.gif").exists()


@pytest.mark.parametrize("name", ["f.yaml", "hard.yaml", "soft.yaml"])
def test_the_flow_file_is_not_overwritten(tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Links to it are recognized."""
    flow = tmp_path / "f.yaml"
    flow.write_text("flow: f\n")
    (tmp_path / "hard.yaml").hardlink_to(flow)
    (tmp_path / "soft.yaml").symlink_to(flow)
    assert command([str(flow), "--output", str(tmp_path / name)], orders) == 2
    assert "is the flow file and would be overwritten" in capsys.readouterr().err
    assert flow.read_text() == "flow: f\n"
