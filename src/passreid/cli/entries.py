"""gallery list, label, remove: entries, chosen by a filter."""

from __future__ import annotations

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
        place: The gallery's folder or address.
        limit: Entries, at most.
        after: Where an earlier list ended.
        json: One object a line.
    """
    from passreid.gallery import open_gallery

    where = filters.where()
    with open_gallery(place, read_only=True) as opened:
        page = opened.page(where, limit=limit, after=after)
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
    filters: Filters = Filters(),  # noqa: B008
) -> int:
    """Forget entries, then write the gallery anew, so that no byte of them is left in it.

    Example: passreid gallery remove people.gallery --person "Jane Doe"

    Args:
        place: The gallery's folder or address.
        everything: Forget all entries; needed when no filter is given.
    """
    from passreid.gallery import open_gallery

    where = filters.some(everything, "forget")
    with open_gallery(place) as opened:
        removed = opened.remove(where, everything=everything)
        if opened.to_compact():  # also of a removal that was killed before
            opened.compact()
        note(f"Forgot {removed} entries; {place} holds {opened.count()}.")
    return 0


@gallery.command
def label(
    place: str,
    labels: Sequence[str],
    /,
    *,
    everything: bool = False,
    filters: Filters = Filters(),  # noqa: B008
) -> int:
    """Say anew whom entries show, or which camera took them, on which track, when.

    Example: passreid gallery label people.gallery person="Jane Doe" --tracklet gate-17

    Args:
        place: The gallery's folder or address.
        labels: person=NAME, camera=NAME, tracklet=NAME, time=WHEN; nothing after the sign makes it
            unknown again.
        everything: Label all entries; needed when no filter is given.
    """
    from passreid.gallery import open_gallery, read_all

    values = _values(labels)
    where = filters.some(everything, "label")
    with open_gallery(place) as opened:
        labelled = sum(
            opened.update([entry.id for entry in entries], **values)
            for entries in read_all(opened, where, whole=False)
        )
    note(f"Labelled {labelled} entries.")
    return 0


def _values(labels: Sequence[str]) -> dict[str, Any]:
    """Read FIELD=VALUE pairs."""
    values: dict[str, Any] = {}
    for given in labels:
        field, sign, value = given.partition("=")
        if not sign or field not in ("person", "camera", "tracklet", "time"):
            raise UsageError(f"'{given}' is no label; write {_LABELS}.")
        if field in values:
            raise UsageError(f"'{field}' is given twice.")
        values[field] = (read_time(value) if field == "time" else value) if value else None
    return values
