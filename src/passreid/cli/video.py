"""video: clips in, people out; a gallery entry for each tracklet."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
from cyclopts import Parameter

from passreid.cli.app import ModelOptions, app, calibration_of, note, say, say_json
from passreid.errors import UsageError
from passreid.times import parse_time, show_time

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from passreid.embed import Embedder
    from passreid.gallery import Gallery
    from passreid.video.enrol import Clip
    from passreid.video.tracking import Tracklet


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class VideoOutputs:
    """What is written besides the gallery.

    Attributes:
        annotate: An .mp4 file with boxes and names; for one clip.
        mot: A text file of boxes in MOTChallenge format; for one clip.
        parquet: A .parquet file of all tracklets: camera, times, boxes, person, embedding.
        sheet: A .png with the best crops of each tracklet, a row for each.
        blur_heads: Blur heads in thumbnails and in the annotated video.
    """

    annotate: Path | None = None
    mot: Path | None = None
    parquet: Path | None = None
    sheet: Path | None = None
    blur_heads: bool = False


@app.command
def video(
    *clips: str,
    gallery: str | None = None,
    camera: Annotated[list[str] | None, Parameter(consume_multiple=True)] = None,
    start: Annotated[list[str] | None, Parameter(consume_multiple=True)] = None,
    every: int = 1,
    detector: str = "person-detection-0200",
    link: bool = False,
    json: bool = False,
    outputs: VideoOutputs = VideoOutputs(),
    options: ModelOptions = ModelOptions(),  # noqa: B008
) -> int:
    """Find and follow the people in videos, and enrol a tracklet of each in a gallery.

    A run that was killed is simply repeated: what was detected and enrolled is not done again.

    Example: passreid video door.mp4 hall.mp4 --gallery people.gallery --link

    Args:
        clips: Video files, folders of frames, or RTSP and HTTP addresses.
        gallery: A gallery's file or address; made if there is none. Without it tracklets are only
            listed.
        camera: Name of each clip's camera, in their order; the file's name when not given.
        start: Time of each clip's first frame, in their order; needed to search by time.
        every: Look at every n-th frame: 3 is three times as fast.
        detector: person-detection-0200, an OpenVINO detector (.xml), or a file of boxes (MOT, COCO
            JSON, CSV).
        link: Give one name to tracklets of one person, across the clips.
        json: One object for each tracklet.
    """
    from passreid.hub import cache_folder
    from passreid.video.detect import open_detector
    from passreid.video.enrol import enrol_clip, memory_for, watch

    named = _clips(clips, camera, start, every, outputs)
    detect = open_detector(detector)
    embedder = options.load()
    target = _gallery(gallery, embedder)
    found: list[tuple[Clip, Tracklet, str | None]] = []
    for clip in named:
        kept: list[Tracklet] = []
        memory = memory_for(cache_folder(), clip, detector)
        for tracklet in watch(clip, embedder, detect, memory=memory):
            entry = None
            if target is not None:
                entry = enrol_clip(target, clip, tracklet, blur_heads=outputs.blur_heads).id
            kept.append(tracklet)
            found.append((clip, tracklet, entry))
            _show(clip, tracklet, entry, json)
        note(f"{clip.name}: {len(kept)} tracklet{'' if len(kept) == 1 else 's'}.")
    people = _link(found, embedder, target) if link else None
    _write(named, found, people, outputs)
    return 0


def _clips(
    clips: Sequence[str],
    cameras: Sequence[str] | None,
    starts: Sequence[str] | None,
    every: int,
    outputs: VideoOutputs,
) -> list[Clip]:
    """Put clips together with their cameras and times.

    Raises:
        UsageError: The numbers of clips, cameras and times differ, or one output is for several.
    """
    from passreid.video.enrol import Clip

    if not clips:
        raise UsageError("No video was given; name files, folders of frames or addresses.")
    for name, given in (("--camera", cameras), ("--start", starts)):
        if given and len(given) != len(clips):
            raise UsageError(
                f"{name} names {len(given)}, but there are {len(clips)} clips; give one for each."
            )
    if len(clips) > 1 and (outputs.annotate or outputs.mot):
        raise UsageError("--annotate and --mot are for one clip; run them clip by clip.")
    times = [parse_time(text, "--start") for text in starts] if starts else [None] * len(clips)
    return [
        Clip(
            source=source,
            camera=cameras[i] if cameras else Path(source).stem,
            start=times[i],
            every=every,
        )
        for i, source in enumerate(clips)
    ]


def _gallery(place: str | None, embedder: Embedder) -> Gallery | None:
    if place is None:
        return None
    from passreid.gallery import identity, open_gallery

    return open_gallery(place, model=identity(embedder), dim=embedder.dim, create=True)


def _show(clip: Clip, tracklet: Tracklet, entry: str | None, json: bool) -> None:
    start, end = float(tracklet.seconds[0]), float(tracklet.seconds[-1])
    if json:
        say_json(
            {
                "clip": clip.name,
                "camera": clip.camera,
                "tracklet": tracklet.number,
                "start": round(start, 3),
                "end": round(end, 3),
                "frames": len(tracklet.frames),
                "cohesion": round(tracklet.cohesion, 4),
                "entry": entry,
            }
        )
    else:
        say(
            f"{clip.name}  tracklet {tracklet.number}  {start:.1f}-{end:.1f} s  "
            f"{len(tracklet.frames)} boxes"
        )


def _write(
    clips: Sequence[Clip],
    found: Sequence[tuple[Clip, Tracklet, str | None]],
    people: NDArray[np.int64] | None,
    outputs: VideoOutputs,
) -> None:
    """Write the files that were asked for; people are named in them where they were linked."""
    from passreid.video.frames import frame_rate, read_frames
    from passreid.video.output import annotate, draw_sheet, write_mot, write_parquet

    tracklets = [tracklet for _, tracklet, _ in found]
    names = None if people is None else [f"person {number + 1}" for number in people]
    if outputs.parquet:
        clocks = [(clip.name, clip.camera, clip.start) for clip, _, _ in found]
        write_parquet(outputs.parquet, tracklets, clocks, names)
    if outputs.sheet and found:
        titles = names or [f"{clip.camera} {t.number}" for clip, t, _ in found]
        draw_sheet(outputs.sheet, tracklets, titles, blur_heads=outputs.blur_heads)
    numbers = [tracklet.number for tracklet in tracklets]
    if outputs.mot:
        ids = None if people is None else (people + 1).tolist()
        write_mot(outputs.mot, tracklets, ids and dict(zip(numbers, ids, strict=True)))
    if outputs.annotate:
        [clip] = clips
        annotate(
            read_frames(clip.source, every=clip.every),
            tracklets,
            outputs.annotate,
            rate=frame_rate(clip.source) / clip.every,
            names=None if names is None else dict(zip(numbers, names, strict=True)),
            blur_heads=outputs.blur_heads,
        )


def _link(
    found: Sequence[tuple[Clip, Tracklet, str | None]],
    embedder: Embedder,
    gallery: Gallery | None,
) -> NDArray[np.int64] | None:
    """Number people across clips; without a start of each, clips share no clock."""
    from passreid.video.linking import Sighting, Travel, link, threshold_for

    if not found:
        return None
    sightings = [
        Sighting(
            camera=clip.camera,
            start=(clip.start or 0.0) + float(tracklet.seconds[0]),
            end=(clip.start or 0.0) + float(tracklet.seconds[-1]),
        )
        for clip, tracklet, _ in found
    ]
    clocked = all(clip.start is not None for clip, _, _ in found)
    if not clocked and len({clip.name for clip, _, _ in found}) > 1:
        note("Without --start the clips share no clock; only similarity links across cameras.")
    calibration_of(embedder)  # says where the error rates come from
    people = link(
        np.stack([tracklet.embedding for _, tracklet, _ in found]),
        sightings,
        threshold=threshold_for(embedder.calibration, len(found)),
        travel=Travel(overlapping=not clocked),
    )
    say(f"{len(found)} tracklets show {people.max() + 1} people:")
    for person in range(people.max() + 1):
        own = [row for row in range(len(found)) if people[row] == person]
        where = ", ".join(
            f"{seen.camera} at {show_time(seen.start) if clocked else f'{seen.start:.0f} s'}"
            for seen in (sightings[row] for row in own)
        )
        say(f"  person {person + 1}: {where}")
        if gallery is not None:
            gallery.update([str(found[r][2]) for r in own], person=f"person {person + 1}")
    return people
