"""The options that commands for dead letters share."""

from __future__ import annotations

import getpass
import shlex
from collections.abc import Callable
from functools import wraps
from typing import Any, NamedTuple, TypeVar

import click
from click.core import ParameterSource
from msgspec.structs import replace

from penstock.backends.server_url import hide_password
from penstock.cli.options import FILE, positive, usage_error
from penstock.deadletters.dead_letter_queue import Requester
from penstock.deadletters.store import STATES, DeadLetterQuery
from penstock.support.ids import id_of

DEFAULT_URL = "sqlite:///penstock.db"
"""The default of `penstock serve` too."""

F = TypeVar("F", bound=Callable[..., Any])


class DeskOptions(NamedTuple):
    """Where the letters are: in a store, with flows to run them through, or in a running service."""

    store: str
    flows: tuple[str, ...] = ()
    service: str | None = None
    store_given: bool = True
    """Whether the store was named by an option or a variable."""
    store_typed: bool = True
    """Whether it was named by an option."""

    @property
    def name(self) -> str:
        """The store or the service, for messages."""
        return self.service or hide_password(self.store)

    def words(self) -> str:
        """Return the options as they are written, for a command that continues this one; without passwords."""
        if self.service is not None:
            return f" --url {shlex.quote(self.service)}"
        store = f" --dead-letters {shlex.quote(hide_password(self.store))}" if self.store_typed else ""
        return store + "".join(f" --flows {shlex.quote(name)}" for name in self.flows)


def desk_options(function: F) -> F:
    """Add the options that name the store or the service. The command gets them as `place`."""

    @wraps(function)
    def command(*args: Any, store: str, flows: tuple[str, ...], service: str | None, **options: Any) -> Any:
        context = click.get_current_context()
        source = context.get_parameter_source("store")
        if service is not None and source is ParameterSource.COMMANDLINE:
            raise usage_error("--url and --dead-letters cannot be combined")
        if service is not None and flows:
            raise usage_error("--url and --flows cannot be combined: a service has its own flows")
        given, typed = source is not ParameterSource.DEFAULT, source is ParameterSource.COMMANDLINE
        return function(*args, place=DeskOptions(store, flows, service, given, typed), **options)

    decorated: Any = command
    for option in (
        click.option("--url", "service", metavar="URL", help="A running service, such as http://127.0.0.1:8080."),
        click.option(
            "--flows",
            metavar="FILE",
            type=FILE,
            multiple=True,
            help="Flow file, folder or module:name of the flows of the letters; repeatable. Without it: the orders "
            "flow. Its store is used if no other is named.",
        ),
        click.option(
            "--dead-letters",
            "store",
            metavar="URL",
            default=DEFAULT_URL,
            envvar="PENSTOCK_DEAD_LETTERS",
            show_default=True,
            show_envvar=True,
            help="Dead-letter store, such as sqlite:///FILE.",
        ),
    ):
        decorated = option(decorated)
    return decorated  # type: ignore[no-any-return]  # wraps keeps the type


def filter_options(*, state: bool = True) -> Callable[[F], F]:
    """Add ids and an option for each condition on letters. The command gets them as `query`."""

    def decorate(function: F) -> F:
        @wraps(function)
        def command(*args: Any, ids: tuple[str, ...], **options: Any) -> Any:
            names = ("group", "flow", "step", "type", "state", "key", "run", "since", "until")
            texts = {name: text for name in names if (text := options.pop(name, None)) is not None}
            try:
                query = DeadLetterQuery.of(texts)
            except ValueError as error:
                raise usage_error(error) from error
            return function(*args, query=replace(query, ids=tuple(dict.fromkeys(ids)) or None), **options)

        decorated: Any = command
        for option in (
            click.option("--until", metavar="TIME", help="Failed before this time, in UTC unless it has an offset."),
            click.option("--since", metavar="TIME", help="Failed at this time or later, such as 2030-01-31T12:00:00Z."),
            click.option("--run", metavar="ID", help="Only letters of this run."),
            click.option(
                "--key", metavar="KEY", help="Only letters with this key. A text of digits needs quotes: '\"3\"'."
            ),
            *((click.option("--state", type=click.Choice(STATES), help="Only letters in this state."),) * state),
            click.option("--type", metavar="TEXT", help="Only letters with this error type."),
            click.option("--step", metavar="TEXT", help="Only letters that failed in this step."),
            click.option("--flow", metavar="TEXT", help="Only letters of this flow."),
            click.option("--group", metavar="ID", help="Only letters of this group."),
            click.argument("ids", metavar="[ID]...", nargs=-1, type=letter_id),
        ):
            decorated = option(decorated)
        return decorated  # type: ignore[no-any-return]  # click keeps the type

    return decorate


def page_options(noun: str, *, limit: int) -> Callable[[F], F]:
    """Add `--limit` and `--after`."""

    def decorate(function: F) -> F:
        after = click.option("--after", metavar="ID", help="Start after this one, as the end of a list says.")
        maximum = click.option(
            "--limit", metavar="N", type=positive, default=limit, show_default=True, help=f"Maximum number of {noun}."
        )
        return maximum(after(function))

    return decorate


json_option = click.option("--json", "as_json", is_flag=True, help="Write JSON, with all fields.")

yes_option = click.option("--yes", "-y", is_flag=True, help="Do not ask for confirmation.")

all_option = click.option("--all", "all_letters", is_flag=True, help="All letters: needed if there is no filter.")


def reason_option(function: F) -> F:
    """Add `--reason`. The command gets it as `requester`, with the name of the user."""

    @wraps(function)
    def command(*args: Any, reason: str, **options: Any) -> Any:
        return function(*args, requester=Requester(user_name(), reason), **options)

    option: Any = click.option("--reason", metavar="TEXT", default="", help="Why, for the audit.")
    decorated: F = option(command)
    return decorated


def user_name() -> str:
    """Return the user of the operating system."""
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a user without a name, as in some containers
        return "unknown"


def letter_id(value: Any) -> str:
    """Convert an option to the id of a dead letter."""
    try:
        return id_of(value)
    except ValueError as error:
        raise click.BadParameter(str(error)) from error


def rate_of(value: Any) -> float:
    """Convert an option to letters per second: `50/s`, `600/m`, or a number."""
    from penstock.flowfile.quantities import read_rate  # imported late: with it come all steps of flows

    text = str(value)
    found = read_rate(text) if "/" in text else read_rate(f"{text}/s")
    if not found:
        raise click.BadParameter(f"expected a rate such as 50/s or 600/m, got {text!r}")
    return found


def fraction_of(value: Any) -> float:
    """Convert an option such as `20%` to a fraction."""
    text = str(value)
    try:
        number = float(text.removesuffix("%"))
        fraction = number / 100 if text.endswith("%") else number
    except ValueError:
        fraction = -1.0
    if not 0 <= fraction <= 1:
        raise click.BadParameter(f"expected a percentage such as 20%, got {text!r}")
    return fraction


def sizes_of(value: str) -> tuple[int, ...]:
    """Convert an option such as `1,5,50` to sizes of batches."""
    try:
        return tuple(positive(part.strip()) for part in value.split(","))
    except click.BadParameter:
        raise click.BadParameter(f"expected numbers of letters such as 1,5,50, got {value!r}") from None


def require_selection(query: DeadLetterQuery, *, all_letters: bool) -> None:
    """Raise a usage error unless letters are selected, or all are meant."""
    selected = query != DeadLetterQuery()
    if selected and all_letters:
        raise usage_error("--all cannot be combined with ids and filters")
    if not selected and not all_letters:
        raise usage_error("select letters by ids or filters such as --group ID, or all letters with --all")
