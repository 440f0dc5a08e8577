"""Fixtures: a server for each module of tests, with the options in its `FLAGS`, and servers for single tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from service.processes import Process, serving

Serve = Callable[..., Process]


@pytest.fixture(scope="module")
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    """The server that the tests of a module share."""
    flags = getattr(request.module, "FLAGS", ())
    excused = getattr(request.module, "EXCUSED", ())
    with serving(tmp_path_factory.mktemp("served"), *flags, excused=excused) as process:
        yield process


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Serve]:
    """Starts servers for one test, with their dead letters in its folder, and stops them after it."""
    with ExitStack() as stack:
        yield lambda *flags, **options: stack.enter_context(serving(tmp_path, *flags, **options))
