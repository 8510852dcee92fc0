"""gallery list, label, remove: entries, chosen by a filter."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from rich.markup import escape

from passreid.cli.app import note, say, say_json
from passreid.cli.gallery import Filters, gallery, one_line, read_time, shown
from passreid.errors import UsageError

_LABELS = "person=NAME, camera=NAME, tracklet=NAME or time=WHEN"


@gallery.command(name="list")
def list_(
    place: str,
    /,
    *,
    limit: int = 100,
    after: str | None = None,
    filters: Filters = Filters(),  # noqa: B008
    json: bool = False,
) -> int:
    """List entries in the order of their ids.

    Example: passreid gallery list people.gallery --camera entrance --since 2026-11-23

    Args:
        place: The gallery's file or address.
        limit: Entries, at most.
        after: Where an earlier list ended.
        json: One object a line.
    """
    from passreid.gallery import open_gallery
    from passreid.gallery.summary import explain_nothing

    where = filters.where()
    with open_gallery(place, read_only=True) as opened:
        page = opened.page(where, limit=limit, after=after)
        if not page.entries and after is None:
            note(f"No match. {explain_nothing(opened, where)}".strip())
    for entry in page.entries:
        if json:
            say_json(shown(entry))
        else:
            say(f"{entry.id}  {escape(one_line(entry))}")
    if page.next is not None:
        note(f"There is more: --after {page.next}")
    return 0


@gallery.command
def remove(
    place: str,
    /,
    *,
    everything: bool = False,
    yes: bool = False,
    filters: Filters = Filters(),  # noqa: B008
) -> int:
    """Forget entries: no byte of them is left in the gallery.

    Example: passreid gallery remove people.gallery --person "Jane Doe"

    Args:
        place: The gallery's file or address.
        everything: Forget all entries; needed when no filter is given.
        yes: Do not ask, as is done on a terminal.
    """
    from passreid.gallery import open_gallery
    from passreid.gallery.summary import describe_entries, explain_nothing

    where = filters.some(everything, "forget")
    with open_gallery(place) as opened:
        if not opened.count(where):
            note(f"Forgot nothing. {explain_nothing(opened, where)}".strip())
            return 1
        note(f"To be forgotten: {describe_entries(opened, where)}.")
        if not yes and sys.stdin.isatty() and not _agreed():
            note("Forgot nothing.")
            return 1
        removed = opened.remove(where, everything=everything)
        if opened.to_compact():
            opened.compact()
        note(f"Forgot {removed} entries; {place} holds {opened.count()}.")
        if opened.to_compact():
            note(
                f"Another process keeps {place} from being cleaned: bytes of them may be in its "
                "log until `passreid gallery compact` or the next change."
            )
    return 0


def _agreed() -> bool:
    sys.stderr.write("Forget them for good? [y/N] ")
    sys.stderr.flush()
    return sys.stdin.readline().strip().lower() in ("y", "yes")


@gallery.command
def label(
    place: str,
    labels: Sequence[str],
    /,
    *,
    everything: bool = False,
    filters: Filters = Filters(),  # noqa: B008
) -> int:
    """Change whom entries show, which camera took them, on which track, or when.

    Example: passreid gallery label people.gallery person="Jane Doe" --tracklet gate-17

    Args:
        place: The gallery's file or address.
        labels: person=NAME, camera=NAME, tracklet=NAME, time=WHEN; nothing after the sign makes it
            unknown again.
        everything: Label all entries; needed when no filter is given.
    """
    from passreid.gallery import open_gallery, read_all
    from passreid.gallery.summary import explain_nothing

    values = _values(labels)
    where = filters.some(everything, "label")
    with open_gallery(place) as opened:
        labelled = sum(
            opened.update([entry.id for entry in entries], **values)
            for entries in read_all(opened, where, whole=False)
        )
        none = "" if labelled else explain_nothing(opened, where)
    note(f"Labelled {labelled} entries. {none}".strip())
    return 0


def _values(labels: Sequence[str]) -> dict[str, Any]:
    """Read FIELD=VALUE pairs."""
    values: dict[str, Any] = {}
    for given in labels:
        field, sign, value = given.partition("=")
        if not sign or field not in ("person", "camera", "tracklet", "time"):
            raise UsageError(f"'{given}' is not a label; write {_LABELS}.")
        if field in values:
            raise UsageError(f"'{field}' is given twice.")
        values[field] = (read_time(value, "time") if field == "time" else value) if value else None
    return values
