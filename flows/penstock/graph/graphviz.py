"""Draw graphs as SVG and PNG images, with the program `dot` of Graphviz."""

from __future__ import annotations

import shutil
import subprocess

from penstock.errors import GraphvizFailed, GraphvizMissing

IMAGE_FORMATS = ("svg", "png")
"""The formats that Graphviz draws."""

TIMEOUT = 60.0
"""Seconds that Graphviz may take. Drawings of a hundred steps take about one."""


def render_image(dot: str, format: str, timeout: float = TIMEOUT) -> bytes:
    """Draw a graph given in DOT; returns the file in one of `IMAGE_FORMATS`.

    Raises `GraphvizMissing` if Graphviz is not installed, `GraphvizFailed` if it fails or takes too long.
    """
    program = shutil.which("dot")
    if program is None:
        raise GraphvizMissing(format)
    try:
        done = subprocess.run(  # noqa: S603 - the program dot, with constant arguments
            [program, f"-T{format}"], input=dot.encode(), capture_output=True, timeout=timeout, check=False
        )
    except subprocess.TimeoutExpired:
        raise GraphvizFailed(f"timeout after {timeout:g} s") from None
    except OSError as error:
        raise GraphvizFailed(f"{program}: {error.strerror}") from None
    if done.returncode:
        message = done.stderr.decode(errors="replace").strip()
        raise GraphvizFailed(message or f"exit code {done.returncode}")
    return done.stdout
