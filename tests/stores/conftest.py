"""What tests of stores begin with."""

import pytest

from stores.children import children_of


@pytest.fixture
def url(tmp_path):
    """Of a database that is not there yet."""
    return f"sqlite:///{tmp_path}/letters.db"


@pytest.fixture
def before():
    """The processes that this one has started before."""
    return children_of()
