"""Moments as Unix seconds: the one parser of dates for options, API fields, tables and Python."""

from __future__ import annotations

import math
import re
from datetime import datetime, timedelta, timezone
from numbers import Real
from typing import Any

from passreid.errors import UsageError

EARLIEST, LATEST = -62135596800.0, 253402300799.0
"""Unix seconds of the years 1 to 9999, which dates can show."""

_SECONDS_FROM = 631152000.0
"""1990 began. A smaller number in a text is a year, a day or a slip, not Unix seconds."""

_ISO = re.compile(
    r"(?P<year>\d{4})(?P<dash>-?)(?P<month>\d\d)(?P=dash)(?P<day>\d\d)"
    r"(?:[T ](?P<hour>\d\d)(?::?(?P<minute>\d\d)(?::?(?P<second>\d\d)(?:[.,](?P<part>\d+))?)?)?"
    r"(?P<zone>Z|[+-]\d\d(?::?\d\d)?)?)?",
    re.ASCII | re.IGNORECASE,
)
_NUMBER = re.compile(r"-?\d+(\.\d*)?", re.ASCII)
_HOW = (
    "write 2026-11-23, 20261123, 2026-11-23T14:00+01:00 (UTC where no zone is given) or Unix "
    "seconds from 1990 on"
)


def parse_time(value: Any, name: str) -> float:
    """Read a date, a date and time, or Unix seconds, as people and programs write them.

    ISO 8601 in its extended (2026-11-23T14:00Z) and basic form (20261123T1400Z) is read; a date
    alone is its midnight, and where no zone is given it is UTC. Digits that are no date are Unix
    seconds, from 1990 on, so that a year or a mistyped date never becomes a moment in 1970.

    Args:
        value: Text, or the number a JSON field or a table's cell holds.
        name: Of the option, field or column, for the message.

    Returns:
        Unix seconds.

    Raises:
        UsageError: It is no moment of the years 1 to 9999.
    """
    text = value.strip() if isinstance(value, str) else _digits(value)
    seconds = None if text is None else _seconds(text)
    if seconds is None:
        raise UsageError(f"{name} is {value!r}, which is not a time: {_HOW}.")
    return seconds


def as_seconds(value: Any) -> Any:
    """Turn a datetime (UTC where it has no zone) into Unix seconds; leave the rest as it is."""
    if isinstance(value, datetime):
        return (value if value.tzinfo else value.replace(tzinfo=timezone.utc)).timestamp()
    return value


def is_time(value: Any) -> bool:
    """Whether a value is Unix seconds of the years 1 to 9999; True and False are not numbers."""
    number = isinstance(value, Real) and not isinstance(value, bool)
    return number and EARLIEST <= value <= LATEST


def show_time(seconds: float) -> str:
    """Return a moment as "2026-11-23 14:00:00", in UTC."""
    return datetime.fromtimestamp(seconds, timezone.utc).isoformat(sep=" ")[:19]


def _digits(value: Any) -> str | None:
    """Write a number as somebody would have typed it."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        return None
    return str(int(value)) if value == int(value) else repr(value)


def _seconds(text: str) -> float | None:
    if found := _ISO.fullmatch(text):
        return _moment(found)
    if _NUMBER.fullmatch(text) and _SECONDS_FROM <= float(text) <= LATEST:
        return float(text)
    return None


def _moment(found: re.Match[str]) -> float | None:
    names = ("year", "month", "day", "hour", "minute", "second")
    year, month, day, hour, minute, second = (int(found[name] or 0) for name in names)
    micro = int((found["part"] or "0")[:6].ljust(6, "0"))
    zone = timezone.utc
    try:
        if (offset := found["zone"]) and offset not in "Zz":
            hours, minutes = int(offset[1:3]), int(offset[3:].lstrip(":") or 0)
            away = timedelta(hours=hours, minutes=minutes)
            zone = timezone(-away if offset[0] == "-" else away)
        moment = datetime(year, month, day, hour, minute, second, micro, zone)
        seconds = moment.timestamp()
    except (ValueError, OverflowError):
        return None
    return seconds if is_time(seconds) else None
