"""Commands in the process of the test, by click's runner."""

from __future__ import annotations

from click.testing import CliRunner, Result

from penstock.cli.main import cli


def invoke(*words: object) -> Result:
    """Run `penstock WORDS`. An exception that the command does not handle is raised."""
    return CliRunner().invoke(cli, [str(word) for word in words], prog_name="penstock", catch_exceptions=False)
