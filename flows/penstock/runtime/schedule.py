"""When a worker runs: once, every so many seconds, or at the moments of a cron expression in a time zone.

Pure: a schedule is told the time, and never looks at a clock.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cache
from itertools import takewhile
from typing import TypeAlias
from zoneinfo import ZoneInfo, available_timezones

from cronsim import CronSim, CronSimError

from penstock.errors import FlowDefinitionError
from penstock.support.text import suggest

_CRON_FIELDS = ("minute", "hour", "day-of-month", "month", "day-of-week")
"""The fields of a cron expression, as cronsim calls them."""


@dataclass(frozen=True, slots=True)
class Once:
    """One run, at once."""

    def next_after(self, moment: datetime) -> datetime | None:  # noqa: ARG002 - the word of all schedules
        """There is none."""
        return None


@dataclass(frozen=True, slots=True)
class Every:
    """A run at once, and the next one so many seconds after the end of the one before."""

    seconds: float

    def __post_init__(self) -> None:
        if not 0 < self.seconds < float("inf"):
            raise FlowDefinitionError(f"a worker runs every so many seconds, more than 0, got {self.seconds!r}")

    def next_after(self, moment: datetime) -> datetime | None:
        """The moment that many seconds later, in UTC."""
        return _in_utc(moment) + timedelta(seconds=self.seconds)


@dataclass(frozen=True, slots=True)
class Cron:
    """Runs at the moments of a cron expression of five fields: minute, hour, day of month, month, day of week.

    Knows `*`, lists, ranges, steps, names (`MON-FRI`, `JAN`), `L` for the last day of a month, `MON#1` for the first
    Monday. If neither of the two fields for days begins with `*`, one that fits is enough, as in other crons.

    When clocks change, it does what the cron of Debian does. If hour and minute are given: a moment that is skipped
    in spring comes at the first minute after the gap, and one that there is twice in autumn comes once, at the first.
    If one of them begins with `*`: it goes by time that passes, so that `*/30 * * * *` comes every half hour, always.
    """

    expression: str
    zone: str = "UTC"
    _zone: ZoneInfo = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_zone", parse_timezone(self.zone))
        if len(self.expression.split()) != 5:
            raise FlowDefinitionError(
                "cron expression: expected five fields (minute, hour, day of month, month, day of week), got "
                f"{self.expression!r}; 0 6 * * MON-FRI is six o'clock on working days"
            )
        try:
            CronSim(self.expression, datetime(2000, 1, 1, tzinfo=UTC))
        except (CronSimError, AssertionError, ValueError) as error:
            field = str(error).removeprefix("Bad ") or "field"
            value = dict(zip(_CRON_FIELDS, self.expression.split(), strict=True)).get(field, repr(self.expression))
            raise FlowDefinitionError(f"invalid {field} {value} in cron expression") from error
        if self.next_after(datetime(2000, 1, 1, tzinfo=UTC)) is None:
            raise FlowDefinitionError(f"cron expression {self.expression!r} never matches a date")

    def next_after(self, moment: datetime) -> datetime | None:
        """The first moment later than the given one, in UTC; None if there is none within 50 years."""
        after = _in_utc(moment)
        for found in CronSim(self.expression, after.astimezone(self._zone)):
            due = found.astimezone(UTC)
            if due > after:  # of an hour that there is twice, cronsim names the first, though it may be over
                return due
        return None


Schedule: TypeAlias = Once | Every | Cron


def validate_schedule(schedule: object) -> None:
    """Raise `FlowDefinitionError` for what is no schedule, and is not None."""
    if schedule is not None and not isinstance(schedule, Once | Every | Cron):
        perhaps = f"; perhaps Every({schedule!r})" if isinstance(schedule, int | float) else ""
        raise FlowDefinitionError(
            f"a schedule is Once(), Every(seconds) or Cron(expression), got {schedule!r}{perhaps}"
        )


def parse_timezone(name: str) -> ZoneInfo:
    """A time zone by its name. Raises `FlowDefinitionError` for an unknown one, with the nearest that there is."""
    try:
        return ZoneInfo(name)
    except (OSError, ValueError, KeyError):  # which of them depends on what is wrong with the name
        raise FlowDefinitionError(f"unknown time zone {name!r}{_hint(name)}") from None


def fire_times(schedule: Schedule, after: datetime, until: datetime) -> Iterator[datetime]:
    """The moments of a schedule after one time, up to another."""

    def following() -> Iterator[datetime]:
        due = schedule.next_after(after)
        while due is not None:
            yield due
            due = schedule.next_after(due)

    return takewhile(lambda due: due <= until, following())


def _in_utc(moment: datetime) -> datetime:
    if moment.tzinfo is None:
        raise ValueError(f"a moment has a time zone, got {moment!r} without")
    return moment.astimezone(UTC)


@cache
def _zones() -> dict[str, str]:
    """Return the names of all time zones by their last part. Python reads a folder for them each time."""
    return {zone.rpartition("/")[2]: zone for zone in available_timezones()}


def _hint(name: str) -> str:
    """Return the time zone that a mistyped name may have meant."""
    cities = _zones()
    meant = suggest(name, cities.values()) or cities.get(suggest(name.rpartition("/")[2], cities) or "")
    return f": did you mean {meant!r}?" if meant else "; use a name such as 'Europe/Berlin', or 'UTC'"
