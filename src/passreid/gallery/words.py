"""What may be said of an entry: labels, a time, a payload that every engine gives back."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from numbers import Real
from typing import Any

from passreid.errors import UsageError

LABELS = ("camera", "person", "tracklet")
CHANGEABLE = (*LABELS, "time", "payload")
"""What `update` may set."""

_LEVELS = 64
"""Of lists and objects in each other. The engine writes what is nested deeper than twice that, and
can then read neither it nor anything it is read with."""
_HALF = re.compile("[\ud800-\udfff]")

EARLIEST, LATEST = -62135596800.0, 253402300799.0
"""Unix seconds that dates can show: of the years 1 to 9999."""


def changeable(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return what `update` sets, an empty label as an unknown one.

    Raises:
        UsageError: A field is named that it may not set, or a value cannot be stored.
    """
    unknown = sorted(values.keys() - set(CHANGEABLE))
    if unknown:
        raise UsageError(f"{', '.join(unknown)} cannot be changed; {', '.join(CHANGEABLE)} can.")
    check_words(values)
    return {name: None if value == "" else value for name, value in values.items()}


def check_words(values: Mapping[str, Any]) -> None:
    """Refuse what is said of an entry in a way that engines do not keep.

    Raises:
        UsageError: A time beyond the years that dates can show, or words that JSON cannot carry.
    """
    time, payload = values.get("time"), values.get("payload", {})
    number = isinstance(time, Real) and not isinstance(time, bool)
    if time is not None and not (number and EARLIEST <= time <= LATEST):
        raise UsageError(f"{time} is no time; give Unix seconds of the years 1 to 9999.")
    known = [values.get(name) for name in (*LABELS, "source")]
    words = [values.get("content_hash", ""), *(word for word in known if word is not None)]
    text = all(isinstance(word, str) and is_json(word) for word in words)
    if not text or not isinstance(payload, Mapping) or not is_json(dict(payload)):
        raise UsageError(
            "Labels and hashes must be text, the payload an object of plain JSON, without NaN, "
            "infinity, half characters, integers beyond 64 bits or more than "
            f"{_LEVELS} levels."
        )


def is_json(value: Any, levels: int = _LEVELS) -> bool:
    """Whether engines give a value back as it was, nested no deeper than `levels`."""
    if isinstance(value, str):
        return not _HALF.search(value)
    if isinstance(value, int):
        return -(2**63) <= value < 2**64
    if isinstance(value, float):
        return math.isfinite(value)
    if isinstance(value, dict):
        names = all(isinstance(name, str) and is_json(name) for name in value)
        return names and is_json(list(value.values()), levels)
    if isinstance(value, (list, tuple)):
        return levels > 0 and all(is_json(each, levels - 1) for each in value)
    return value is None
