"""What a gallery holds in a sentence: for a filter that fits nothing, and before forgetting."""

from __future__ import annotations

import difflib

from passreid.gallery.base import Where
from passreid.gallery.engine import Gallery

_SHOWN = 5
_FILTERS = (
    *(("camera", "cameras"), ("person", "people"), ("tracklet", "tracklets")),
    ("source", "sources"),
)


def explain_nothing(gallery: Gallery, where: Where) -> str:
    """Say why a filter fits no entry: which of its values are not there, and what there is."""
    if not gallery.count():
        return "The gallery is empty."
    for name, plural in _FILTERS:
        wanted: tuple[str, ...] = getattr(where, plural)
        there = gallery.tally(name) if wanted else {}
        if wanted and not set(wanted) & there.keys():
            missing = " or ".join(repr(value) for value in wanted[:_SHOWN])
            if not there:
                return f"No entry has a {name}."
            return f"No entry has the {name} {missing}; there are {_listed(there, wanted[0])}."
    if where.ids and not gallery.count(Where(ids=where.ids)):
        return "No entry has such an id."
    if (where.since, where.until) != (None, None):
        timed = Where(since=where.since, until=where.until)
        if not gallery.count(timed):
            return "No entry has a time in that span."
    return "" if where == Where() else "No entry meets all the filters at once."


def describe_entries(gallery: Gallery, where: Where) -> str:
    """Say how many entries a filter fits, and of which people and cameras."""
    count = gallery.count(where)
    said = f"{count:,} {'entry' if count == 1 else 'entries'}"
    for name, plural in (("person", "people"), ("camera", "cameras")):
        there = gallery.tally(name, where) if count else {}
        if there:
            said += f"; {name if len(there) == 1 else plural} {_listed(there)}"
    return said


def _listed(there: dict[str, int], like: str | None = None) -> str:
    """List values and how often each is there; those most like a wanted one first."""
    near = difflib.get_close_matches(like, list(there), _SHOWN, 0.6) if like else []
    names = list(dict.fromkeys([*near, *there]))[:_SHOWN]
    shown = ", ".join(f"{name!r} ({there[name]:,})" for name in names)
    return shown + (f" and {len(there) - len(names):,} more" if len(there) > len(names) else "")
