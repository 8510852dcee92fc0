"""One parser of dates: what is a date is one, and nothing else becomes a moment in 1970."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import Any

import pytest

from passreid.errors import UsageError
from passreid.times import LATEST, as_seconds, parse_time, show_time

DAY = 1795392000.0  # 2026-11-23 00:00 UTC


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("2026-11-23", DAY),
        ("20261123", DAY),
        (20261123, DAY),
        (20261123.0, DAY),
        (" 20261123 ", DAY),
        ("2026-11-23T14:00", DAY + 50400),
        ("2026-11-23 14:00:30.25", DAY + 50430.25),
        ("2026-11-23T14:00+01:00", DAY + 46800),
        ("20261123T140030Z", DAY + 50430),
        ("20261123T14-0230", DAY + 59400),
        ("1969-12-31", -86400.0),
        ("0001-01-01", -62135596800.0),
        ("1795392000", DAY),
        ("1795392000.5", DAY + 0.5),
        (1795392000.5, DAY + 0.5),
        ("631152000", 631152000.0),
        (LATEST, LATEST),
    ],
)
def test_dates_and_seconds_are_read(text: Any, seconds: float) -> None:
    assert parse_time(text, "time") == seconds


@pytest.mark.parametrize(
    "text",
    [
        *("2026", 2026, "202611", "20261301", "20260230", "2026-1123", "20261123140000"),
        *("631151999", 0, 1000.0, "-5", "1e9", "nan", "inf", float("nan"), "1e30", 1e30),
        *("yesterday", "", "  ", "2026-11-23T25:00", "2026-11-23T14:00+99:00", "２０２６-11-23"),
        *("0001-01-01T00:00+01:00", True, None, [2026], b"2026-11-23", "1795392000000"),
        *("1_795_392_000", "2026/11/23", "23.11.2026"),
    ],
)
def test_everything_else_is_refused_with_field_and_value(text: Any) -> None:
    with pytest.raises(UsageError, match=r"--since is .*which is not a time: write 2026-11-23"):
        parse_time(text, "--since")


def test_datetimes_are_utc_where_they_have_no_zone() -> None:
    moment = datetime(2026, 11, 23, 14)
    assert as_seconds(moment) == as_seconds(moment.replace(tzinfo=timezone.utc)) == DAY + 50400
    assert as_seconds(moment.replace(tzinfo=timezone(timedelta(hours=1)))) == DAY + 46800
    assert as_seconds(5) == 5
    assert show_time(DAY + 50400) == "2026-11-23 14:00:00"
