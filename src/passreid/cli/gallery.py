"""gallery …: a living collection of people on disk."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any, Literal

from cyclopts import App, Parameter
from rich.markup import escape

from passreid.cli.app import (
    ModelOptions,
    app,
    calibration_of,
    expand,
    note,
    report_skipped,
    say,
    say_json,
)
from passreid.errors import UsageError

if TYPE_CHECKING:
    from passreid.gallery import Entry, Where

gallery = App(name="gallery", help="Keep people in a gallery: enrol, search, list, forget.")
app.command(gallery)

_RERANKED = 100


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Filters:
    """Which entries count; all that is given must hold.

    Attributes:
        camera: Of this camera; may be given several times, as the next ones.
        not_camera: Not of this camera.
        person: This person.
        tracklet: This tracklet.
        source: From this source.
        id: This entry.
        since: Taken at or after this: 2026-11-23, 2026-11-23T14:00+01:00 (UTC where no zone is
            given) or Unix seconds.
        until: Taken before this.
    """

    camera: tuple[str, ...] = ()
    not_camera: tuple[str, ...] = ()
    person: tuple[str, ...] = ()
    tracklet: tuple[str, ...] = ()
    source: tuple[str, ...] = ()
    id: tuple[str, ...] = ()
    since: str | None = None
    until: str | None = None

    def where(self) -> Where:
        """Return the filter these options describe."""
        from passreid.gallery import Where

        return Where(
            ids=self.id,
            cameras=self.camera,
            not_cameras=self.not_camera,
            people=self.person,
            tracklets=self.tracklet,
            sources=self.source,
            since=read_time(self.since),
            until=read_time(self.until),
        )

    def some(self, everything: bool, doing: str) -> Where:
        """Return the filter of what changes entries.

        Raises:
            UsageError: It would hold for all of them, and `everything` was not said.
        """
        from passreid.gallery import Where

        where = self.where()
        if where == Where() and not everything:
            raise UsageError(
                f"No filter is given, which would {doing} everybody: say --everything."
            )
        return where


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class LayoutOptions:
    """How a gallery that is made now keeps its vectors.

    Attributes:
        int8: Search a copy of a byte a number, which needs less memory.
        shards: On a server: parts it is split into.
        replicas: On a server: copies of each part.
    """

    int8: bool = False
    shards: int | None = None
    replicas: int | None = None


@gallery.command
def add(
    place: str,
    images: Sequence[str],
    /,
    *,
    camera: str | None = None,
    person: str | None = None,
    tracklet: str | None = None,
    time: str | None = None,
    thumbnails: bool = True,
    layout: LayoutOptions = LayoutOptions(),
    options: ModelOptions = ModelOptions(),  # noqa: B008
) -> int:
    """Enrol pictures, or all pictures of folders; makes the gallery if there is none.

    The same picture again changes nothing, so a broken enrolment is simply repeated.

    Example: passreid gallery add people.gallery crops/ --camera entrance

    Args:
        place: The gallery: a folder, or http(s)://host:6333/name on a Qdrant server.
        images: Pictures, addresses or folders.
        camera: The camera that took them.
        person: Whom they show.
        tracklet: The track they belong to.
        time: When they were taken: 2026-11-23T14:00+01:00 (UTC where no zone is given), or Unix
            seconds.
        thumbnails: Keep a small JPEG of each.
    """
    from passreid.gallery import Layout, NewImage, enrol, identity, open_gallery

    seconds = read_time(time)
    files = expand(images)
    embedder = options.load()
    with open_gallery(
        place,
        model=identity(embedder),
        dim=embedder.dim,
        create=True,
        layout=Layout(**vars(layout)),
    ) as opened:
        new = (
            NewImage(image=file, camera=camera, person=person, tracklet=tracklet, time=seconds)
            for file in files
        )
        done = enrol(opened, embedder, new, thumbnails=thumbnails)
        count = opened.count()
    note(f"Added {done.added}, known {done.known}; {place} holds {count} entries.")
    return report_skipped(done.skipped)


@gallery.command
def search(
    place: str,
    images: Sequence[str],
    /,
    *,
    top: int = 10,
    min_score: float | None = None,
    group_by: Literal["person", "tracklet"] | None = None,
    rerank: bool = False,
    filters: Filters = Filters(),
    options: ModelOptions = ModelOptions(),  # noqa: B008
    json: bool = False,
) -> int:
    """Find the entries most alike to a picture; several pictures are one person's track.

    Example: passreid gallery search people.gallery query.jpg --not-camera entrance --top 5

    Args:
        place: The gallery's folder or address.
        images: One picture of the person, or several.
        top: Hits, at most.
        min_score: Smallest cosine.
        group_by: One hit, the best, for each person or tracklet.
        rerank: Order the first hundred hits anew by who is whose neighbour among them; the cosines
            shown stay what they are.
        json: One object a line.
    """
    from passreid.gallery import identity, open_gallery

    where = filters.where()
    embedder = options.load()
    rows = embedder(list(images))
    query = rows[0] if len(rows) == 1 else rows
    with open_gallery(place, model=identity(embedder), read_only=True) as opened:
        hits = opened.search(
            query,
            top_k=top,
            where=where,
            min_score=min_score,
            group_by=group_by,
            rerank=max(_RERANKED, top) if rerank else 0,
        )
    calibration = calibration_of(embedder)
    for rank, hit in enumerate(hits, 1):
        probability = calibration.probability(hit.score) if calibration else None
        if json:
            told = {"rank": rank, "cosine": hit.score, "probability": probability}
            say_json(told | shown(hit.entry))
        else:
            sure = "" if probability is None else f"  {100 * float(probability):3.0f} %"
            say(f"{rank:>3}  {hit.score:.3f}{sure}  {escape(one_line(hit.entry))}")
    if not hits and not json:
        say("No match.")
    return 0


@gallery.command
def compact(place: str, /) -> int:
    """Write a gallery anew: removed entries leave the disk, and large ones get an index.

    Example: passreid gallery compact people.gallery

    Args:
        place: The gallery.
    """
    from passreid.gallery import open_gallery

    with open_gallery(place) as opened:
        opened.compact()
        note(f"{place} holds {opened.count()} entries.")
    return 0


@gallery.command
def info(place: str, /, *, json: bool = False) -> int:
    """Say what a gallery holds.

    Example: passreid gallery info people.gallery

    Args:
        place: The gallery's folder or address.
        json: One object.
    """
    from passreid.gallery import open_gallery

    with open_gallery(place, read_only=True) as opened:
        told = vars(opened.info())
    if json:
        say_json(told)
    else:
        for name, value in told.items():
            say(f"{name.replace('_', ' '):<14} {escape(str(value))}")
    return 0


def shown(entry: Entry) -> dict[str, Any]:
    """Return what is known of an entry, as plain data."""
    names = ("id", "source", "camera", "time", "person", "tracklet", "payload")
    return {name: getattr(entry, name) for name in names}


def one_line(entry: Entry) -> str:
    """Say what is known of an entry in one line."""
    known = [entry.person, entry.camera, entry.tracklet and f"track {entry.tracklet}"]
    if entry.time is not None:
        known.append(datetime.fromtimestamp(entry.time, timezone.utc).isoformat(sep=" ")[:19])
    return "  ".join([part for part in known if part] + [entry.source])


def read_time(text: str | None) -> float | None:
    """Read a time: Unix seconds, or a date that `datetime.fromisoformat` knows."""
    if text is None:
        return None
    with suppress(ValueError, OverflowError, OSError):
        seconds = float(text)
        datetime.fromtimestamp(seconds, timezone.utc)  # or it is no moment that can be shown
        return seconds
    try:
        moment = datetime.fromisoformat(text.replace("Z", "+00:00"))
    except ValueError:
        raise UsageError(
            f"'{text}' is no time; write 2026-11-23, 2026-11-23T14:00+01:00 or Unix seconds."
        ) from None
    return (moment if moment.tzinfo else moment.replace(tzinfo=timezone.utc)).timestamp()
