"""What tests of stores begin with."""

import os
import signal
from contextlib import suppress

import pytest

from stores.children import children_of


@pytest.fixture
def url(tmp_path):
    """Of a database that is not there yet."""
    return f"sqlite:///{tmp_path}/letters.db"


@pytest.fixture
def before():
    """The processes that this one has started before."""
    earlier = children_of()
    yield earlier
    for pid in children_of() - earlier:  # of a test that failed: it may be stopped, and nobody waits for it
        with suppress(ProcessLookupError, ChildProcessError):
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
