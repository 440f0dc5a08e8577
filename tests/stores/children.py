"""Which processes a process has started, for the tests."""

import os
from pathlib import Path


def children_of(parent=None):
    """The processes that a process, or this one, has started and not reaped; those that have ended are among them."""
    found = set()
    for pid in filter(str.isdigit, os.listdir("/proc")):
        facts = facts_of(pid)
        if facts and int(facts[1]) == (parent or os.getpid()):
            found.add(int(pid))
    return found


def writers_of(parent):
    """The processes that write dead letters for a process."""
    return {pid for pid in children_of(parent) if b"penstock.deadletters.sqlite.writer_main" in command_of(pid)}


def command_of(pid):
    """The words of a process's command, as bytes."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def running(pid):
    """Whether a process has not ended yet, reaped or not."""
    facts = facts_of(pid)
    return bool(facts) and facts[0] != "Z"


def facts_of(pid):
    """What the system knows of a process, from its state on; nothing if there is none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []
