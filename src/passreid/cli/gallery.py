"""gallery …: a living collection of people on disk."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

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
from passreid.formats import show_cosine, show_cut, show_hit
from passreid.openset import DEFAULT_FPIR, cut
from passreid.times import parse_time, show_time
from passreid.verify import explain_hit

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
        since: Taken at or after this: 2026-11-23, 20261123, 2026-11-23T14:00+01:00 (UTC where no
            zone is given) or Unix seconds.
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
        """Return the filter these options describe.

        Raises:
            UsageError: A time is none, an id is none, or --since is not before --until.
        """
        from passreid.gallery import Where

        return Where(
            ids=self.id,
            cameras=self.camera,
            not_cameras=self.not_camera,
            people=self.person,
            tracklets=self.tracklet,
            sources=self.source,
            since=read_time(self.since, "--since"),
            until=read_time(self.until, "--until"),
        ).check()

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
    """How a gallery that is made now on a server is spread.

    Attributes:
        shards: Parts it is split into.
        replicas: Copies of each part.
    """

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
        place: The gallery: a file, or http(s)://host:6333/name on a Qdrant server.
        images: Pictures, addresses or folders.
        camera: The camera that took them.
        person: Whom they show.
        tracklet: The track they belong to.
        time: When they were taken: 2026-11-23T14:00+01:00 (UTC where no zone is given), 20261123 or
            Unix seconds.
        thumbnails: Keep a small JPEG of each.
    """
    from passreid.gallery import Layout, NewImage, enrol, identity, open_gallery

    if Path(place).is_dir():
        raise UsageError(
            f"{place} is a folder; the gallery comes first and is one file: "
            f"`passreid gallery add people.gallery {place}`."
        )
    seconds = read_time(time, "--time")
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
    if done.differing:
        note(
            f"{done.differing} of the known have other labels there, which stay: "
            "`passreid gallery label` changes them."
        )
    return report_skipped(done.skipped)


@gallery.command
def search(
    place: str,
    images: Sequence[str],
    /,
    *,
    top: Annotated[int, Parameter(alias="-k")] = 10,
    min_score: float | None = None,
    group_by: Literal["person", "tracklet"] | None = None,
    rerank: bool = False,
    same_only: bool = False,
    fpir: float = DEFAULT_FPIR,
    query_camera: str | None = None,
    filters: Filters = Filters(),
    options: ModelOptions = ModelOptions(),  # noqa: B008
    json: bool = False,
) -> int:
    """Find the entries most alike to a picture; several pictures are one person's track.

    Example: passreid gallery search people.gallery query.jpg --not-camera entrance --top 5

    Args:
        place: The gallery's file or address.
        images: One picture of the person, or several.
        top: Hits, at most.
        min_score: Smallest cosine, -1 to 1.
        group_by: One hit, the best, for each person or tracklet.
        rerank: Reorder the first hundred hits by who is whose neighbour among them; the cosines
            shown stay what they are.
        same_only: Show hits from the cut on, and none below.
        fpir: Where the cut is: the accepted share of searches for an absent person that still
            return somebody (false positive identification rate).
        query_camera: The camera that took the query; a centred gallery (`passreid gallery centre`)
            subtracts its mean.
        json: One object a line.
    """
    from passreid.gallery import identity, open_gallery
    from passreid.gallery.summary import explain_nothing

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
            camera=query_camera,
        )
        centred = opened.centred
        none = "" if hits else explain_nothing(opened, where)
        entries = opened.count()
    calibration = calibration_of(embedder, centred=centred)
    if calibration is None and (same_only or fpir != DEFAULT_FPIR):
        raise UsageError("--same-only and --fpir need a calibrated model: run passreid calibrate.")
    found_from = None if calibration is None else cut(calibration, entries, fpir=fpir)
    if same_only and found_from is not None and hits:
        hits = [hit for hit in hits if hit.score >= found_from.threshold]
        none = "" if hits else f"Nothing reaches the cut at {show_cosine(found_from.threshold)}."
    above = found_from is not None
    for rank, hit in enumerate(hits, 1):
        told = explain_hit(hit.score, calibration, entries)
        if above and found_from is not None and hit.score < found_from.threshold:
            above = False
            if not json:
                say(show_cut(found_from.threshold, found_from.fpir))
        if json:
            say_json({"rank": rank, "cosine": hit.score} | told | shown(hit.entry))
        else:
            score, line = show_cosine(hit.score), escape(one_line(hit.entry))
            say(f"{rank:>3}  {score}{show_hit(told)}  {line}")
    if not hits:
        say_nothing(none, json=json)
    return 0


def shown(entry: Entry) -> dict[str, Any]:
    """Return what is known of an entry, as plain data."""
    names = ("id", "source", "camera", "time", "person", "tracklet", "payload")
    return {name: getattr(entry, name) for name in names}


def one_line(entry: Entry) -> str:
    """Say what is known of an entry in one line."""
    known = [entry.person, entry.camera, entry.tracklet and f"track {entry.tracklet}"]
    if entry.time is not None:
        known.append(show_time(entry.time))
    return "  ".join([part for part in known if part] + [entry.source])


def say_nothing(why: str, *, json: bool) -> None:
    """Say that nothing fits, and why; beside JSON on stderr."""
    if json:
        note(f"No match. {why}".strip())
    else:
        say(escape(f"No match. {why}".strip()))


def read_time(text: str | None, name: str) -> float | None:
    """Read a time an option gives, if it is given."""
    return None if text is None else parse_time(text, name)
