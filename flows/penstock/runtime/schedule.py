"""Schedules of workers: once, periodically, or at the times of a cron expression in a time zone.

Pure: a schedule receives the time and never reads a clock.
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

_CRON_FIELDS = {
    "minute": "0-59",
    "hour": "0-23",
    "day-of-month": "1-31",
    "month": "1-12 or JAN-DEC",
    "day-of-week": "0-7 or SUN-SAT",
}
"""The fields of a cron expression, as cronsim calls them, with their values."""


@dataclass(frozen=True, slots=True)
class Once:
    """Run once, at the start."""

    def next_after(self, moment: datetime) -> datetime | None:  # noqa: ARG002 - same signature as other schedules
        """Return None: there is no second run."""
        return None


@dataclass(frozen=True, slots=True)
class Every:
    """Run at the start, and again `seconds` after the end of each run."""

    seconds: float

    def __post_init__(self) -> None:
        if not 0 < self.seconds < float("inf"):
            raise FlowDefinitionError(f"every: expected a number of seconds > 0, got {self.seconds!r}")

    def next_after(self, moment: datetime) -> datetime | None:
        """Return the time `seconds` later, in UTC."""
        return _to_utc(moment) + timedelta(seconds=self.seconds)


@dataclass(frozen=True, slots=True)
class Cron:
    """Run at the times of a cron expression of five fields: minute, hour, day of month, month, day of week.

    Supports `*`, lists, ranges, steps, names (`MON-FRI`, `JAN`), `L` for the last day of a month, and `MON#1` for the
    first Monday. If neither of the two day fields begins with `*`, a day that matches one of them is enough, as in
    other crons.

    Changes of daylight saving time follow Debian's cron. If hour and minute are given, a time that is skipped in spring
    is replaced by the first minute after the gap, and a time that occurs twice in autumn counts once, the first time.
    If one of the two fields begins with `*`, elapsed time counts, so that `*/30 * * * *` runs every half hour in any
    case.
    """

    expression: str
    timezone: str = "UTC"
    _timezone: ZoneInfo = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_timezone", parse_timezone(self.timezone))
        if len(self.expression.split()) != 5:
            raise FlowDefinitionError(
                f"cron expression {self.expression!r}: expected five fields: minute, hour, day of month, month, day of "
                "week; '0 6 * * MON-FRI' is six o'clock on working days"
            )
        try:
            CronSim(self.expression, datetime(2000, 1, 1, tzinfo=UTC))
        except (CronSimError, AssertionError, ValueError) as error:
            raise FlowDefinitionError(self._reason(str(error).removeprefix("Bad "))) from error
        if self.next_after(datetime(2000, 1, 1, tzinfo=UTC)) is None:
            raise FlowDefinitionError(self._no_date())

    def _reason(self, field: str) -> str:
        """Say what is wrong with the field that cronsim rejects."""
        values: dict[str, str] = dict(zip(_CRON_FIELDS, self.expression.split(), strict=True))
        if field not in values:
            return f"invalid {field or 'field'} {self.expression!r} in cron expression"
        value = values[field]
        if field == "day-of-month" and _is_day_of_month(value):  # rejected because the months are shorter
            return self._no_date()
        return f"invalid {field} {value} in cron expression: expected {_CRON_FIELDS[field]}"

    def _no_date(self) -> str:
        return f"cron expression {self.expression!r}: no date matches; change the day of month or the month"

    def next_after(self, moment: datetime) -> datetime | None:
        """Return the first matching time after the given one, in UTC; None if there is none within 50 years."""
        after = _to_utc(moment)
        for found in CronSim(self.expression, after.astimezone(self._timezone)):
            due = found.astimezone(UTC)
            if due > after:  # for an hour that occurs twice, cronsim returns the first one, which may have passed
                return due
        return None


Schedule: TypeAlias = Once | Every | Cron


def validate_schedule(schedule: object) -> None:
    """Raise `FlowDefinitionError` for anything but a schedule or None."""
    if schedule is not None and not isinstance(schedule, Once | Every | Cron):
        advice = f"; did you mean Every({schedule!r})?" if isinstance(schedule, int | float) else ""
        raise FlowDefinitionError(
            f"schedule: expected Once(), Every(seconds) or Cron(expression), got {schedule!r}{advice}"
        )


def parse_timezone(name: str) -> ZoneInfo:
    """Return a time zone by its name. Raises `FlowDefinitionError` for an unknown one, with the most similar name."""
    try:
        return ZoneInfo(name)
    except (OSError, ValueError, KeyError):  # depends on the invalid name
        raise FlowDefinitionError(f"unknown time zone {name!r}{_hint(name)}") from None


def fire_times(schedule: Schedule, after: datetime, until: datetime) -> Iterator[datetime]:
    """Yield the times of a schedule after one time, up to another."""

    def all_after() -> Iterator[datetime]:
        due = schedule.next_after(after)
        while due is not None:
            yield due
            due = schedule.next_after(due)

    return takewhile(lambda due: due <= until, all_after())


def _is_day_of_month(value: str) -> bool:
    try:
        CronSim(f"0 0 {value} * *", datetime(2000, 1, 1, tzinfo=UTC))
    except (CronSimError, AssertionError, ValueError):
        return False
    return True


def _to_utc(moment: datetime) -> datetime:
    if moment.tzinfo is None:
        raise ValueError(f"expected a time with a time zone, got {moment!r}")
    return moment.astimezone(UTC)


@cache
def _timezones() -> dict[str, str]:
    """Return the names of all time zones by their last part. Cached, because Python reads a folder for them."""
    return {zone.rpartition("/")[2]: zone for zone in available_timezones()}


def _hint(name: str) -> str:
    """Suggest the time zone that a mistyped name may have meant."""
    cities = _timezones()
    meant = suggest(name, cities.values()) or cities.get(suggest(name.rpartition("/")[2], cities) or "")
    return f": did you mean {meant!r}?" if meant else "; use a name such as 'Europe/Berlin', or 'UTC'"
