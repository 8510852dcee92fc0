"""What an entry may hold: ids, labels, a time, a payload that every engine gives back."""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from passreid.errors import UsageError
from passreid.times import as_seconds, is_time

LABELS = ("camera", "person", "tracklet")
CHANGEABLE = (*LABELS, "time", "payload")
"""What `update` may set."""

_DEEPEST = 64
_HALF = re.compile("[\ud800-\udfff]")
_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


def clean_label(value: Any) -> Any:
    """Trim a label and compose its letters (NFC); write a tracker's integer as text.

    An empty label is None, unknown. What cannot be a label is returned as it is, for
    `check_values` to refuse.
    """
    if isinstance(value, (int, np.integer)) and not isinstance(value, bool):
        return str(int(value))
    if not isinstance(value, str):
        return value
    return (value if value.isascii() else unicodedata.normalize("NFC", value)).strip() or None


def is_id(text: Any) -> bool:
    """Whether an entry may have this id: a UUID in small letters."""
    return isinstance(text, str) and _ID.fullmatch(text) is not None


def check_ids(ids: Iterable[str], name: str = "id") -> None:
    """Refuse ids no entry can have.

    Raises:
        UsageError: One is no UUID in small letters.
    """
    for id in ids:
        if not is_id(id):
            raise UsageError(
                f"{name} is {id!r}; ids are UUIDs in small letters, such as "
                "6f1b0f5e-8f0a-4c39-9a53-1d6c2f3f7a10."
            )


def changes(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return what `update` sets, cleaned as `Entry` does it.

    Raises:
        UsageError: A field is named that it may not set, or a value cannot be stored.
    """
    unknown = sorted(values.keys() - set(CHANGEABLE))
    if unknown:
        raise UsageError(f"{', '.join(unknown)} cannot be changed; {', '.join(CHANGEABLE)} can.")
    cleaned = {
        name: clean_label(value) if name in LABELS else as_seconds(value)
        for name, value in values.items()
    }
    check_values(cleaned)
    return cleaned


def check_values(values: Mapping[str, Any]) -> None:
    """Refuse fields of an entry that cannot be stored.

    Raises:
        UsageError: Names the field, its value and the rule.
    """
    time = values.get("time")
    if time is not None and not is_time(time):
        raise UsageError(
            f"time is {time!r}; give a datetime or Unix seconds of the years 1 to 9999."
        )
    texts = {"content_hash": values.get("content_hash", ""), "source": values.get("source", "")}
    labels = {name: value for name in LABELS if (value := values.get(name)) is not None}
    for name, value in (texts | labels).items():
        if not isinstance(value, str):
            raise UsageError(f"{name} is {value!r}, a {type(value).__name__}; it must be text.")
        if not value.isascii() and _HALF.search(value):
            raise UsageError(f"{name} is {value!r}, which holds half characters (surrogates).")
    payload = values.get("payload")
    plain = isinstance(payload, Mapping) and (not payload or is_json(dict(payload)))
    if payload is not None and not plain:
        shown = repr(payload)
        raise UsageError(
            f"payload is {shown[:60]}{'…' * (len(shown) > 60)}; it must be an object of plain "
            "JSON, without NaN, infinity, half characters, integers beyond 64 bits or more than "
            f"{_DEEPEST} levels."
        )


def is_json(value: Any, levels: int = _DEEPEST) -> bool:
    """Whether JSON gives a value back as it was, nested no deeper than `levels`."""
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
