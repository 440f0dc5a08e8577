"""The benchmarks still run: rig, client, and the peers, with few orders. Nothing is measured here."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from nginx import program as nginx_program

HERE = Path(__file__).parent


def throughput(*peers: str, program: str = "throughput") -> str:
    """What the throughput program prints for some peers."""
    command = [sys.executable, str(HERE / f"{program}.py"), "--quick", "--runs", "1", "--only", *peers]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.stdout, done.stderr  # the exit code also says whether targets were met
    return done.stdout


def test_the_yardstick_answers_for_every_order():
    """A peer that answers wrongly is refused by the rig, so a figure means that all orders were counted."""
    assert "plain, none failing" in throughput("plain")


@pytest.mark.node
@pytest.mark.skipif(not shutil.which("npm"), reason="npm is not on this machine")
def test_the_express_peer_answers_for_every_order_and_every_failure():
    """The same for the other peer, where a third fails too."""
    assert "express, a third failing" in throughput("express")


def test_a_redrive_is_measured_only_if_all_letters_were_resolved():
    """The program of the dead letters redrives some; it raises if one is not resolved."""
    command = [sys.executable, str(HERE / "deadletters.py"), "--quick", "--runs", "1", "--only", "redrive"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert "redriving 500, SQLite" in done.stdout, done.stderr  # its exit code is about the speed


def test_requests_are_answered_while_a_process_is_stopped():
    """The program of several processes finds and stops one of them."""
    command = [sys.executable, str(HERE / "processes.py"), "--quick", "--runs", "1", "--only", "frozen"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert "one process stopped: new requests answered     10" in done.stdout, done.stdout + done.stderr


@pytest.mark.nginx
@pytest.mark.skipif(not nginx_program(), reason="nginx is not on this machine")
def test_services_over_http_answer_for_every_order():
    """The same where each order needs two requests, without TLS and in it."""
    printed = throughput("penstock", "plain", program="services")
    assert "penstock / plain, two GETs" in printed
    assert "penstock / plain, two GETs in TLS" in printed
    assert "penstock, a POST for 50" in printed


@pytest.mark.nginx
@pytest.mark.skipif(not nginx_program(), reason="nginx is not on this machine")
def test_orders_survive_an_outage():
    """The program raises if more orders fail than were in flight."""
    assert "an outage of 1 s" in throughput("penstock", program="outage")
