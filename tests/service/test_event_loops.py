"""The event loop of a process is the one of its setting; tests that depend on it run on both, see `on_uvloop`."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import pytest

from penstock.settings import SettingsError, load_settings
from penstock.support.event_loop import run_in_event_loop
from service.conftest import Serve

PROBE = """
import asyncio

async def loop(value):
    return type(asyncio.get_running_loop()).__name__
"""


FLOW = """
flow: orders
services: {probe: {call: "probe:loop"}}
steps: [{map_async: probe}]
"""


@pytest.mark.skipif(sys.platform == "win32", reason="uvloop does not exist there")
@pytest.mark.parametrize(("flags", "uses"), [((), True), (("--event-loop", "asyncio"), False)])
def test_uvloop_is_used_if_it_is_installed(serve: Serve, tmp_path: Path, flags: tuple[str, ...], uses: bool) -> None:
    """Unless the setting says otherwise."""
    (tmp_path / "probe.py").write_text(PROBE)
    (tmp_path / "orders.yaml").write_text(FLOW)
    server = serve(*flags, tmp_path, env={"PENSTOCK_EVENT_LOOP": "auto"})

    [result] = server.post({}).results

    assert (result["value"] == "UvLoop") is uses


@pytest.mark.skipif(sys.platform == "win32", reason="uvloop does not exist there")
def test_timers_of_uvloop_do_not_fire_early() -> None:
    """Else what waits until a time, and then works until the next one, works too often. libuv counts milliseconds."""

    async def early() -> list[float]:
        loop = asyncio.get_running_loop()
        found = []
        for delay in (0.0004, 0.0013, 0.0104, 0.02):
            when = loop.time() + delay
            fired = loop.create_future()
            loop.call_at(when, fired.set_result, None)
            await fired
            found += [delay] if loop.time() < when - 1e-6 else []
        return found

    assert run_in_event_loop(early(), "uvloop") == []


def test_a_choice_that_is_not_installed_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """It names the extra. Without a choice, asyncio is used."""
    monkeypatch.setitem(sys.modules, "uvloop", None)

    assert load_settings({}, {}).event_loop == "auto"
    with pytest.raises(SettingsError) as error:
        load_settings({"event_loop": "uvloop"}, {})

    assert str(error.value).endswith('install them: pip install "penstock[uvloop]"')
