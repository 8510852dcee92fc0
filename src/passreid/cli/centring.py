"""The option --centre-on: where camera means come from, and which camera took a picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from passreid.centring import CameraMeans
from passreid.cli.app import note
from passreid.errors import UsageError

if TYPE_CHECKING:
    from passreid.embed import Embedder

SELF = "self"
MEANS = "cameras.npz"
"""The file in a calibrated model's folder that holds the means it was calibrated with."""

CentreOn = Annotated[
    str | None,
    Parameter(
        help="Subtract each camera's mean embedding, of the crops in a folder (camera _c3 or _cam3 "
        f"in their names), of a {MEANS} that calibrate wrote, or, with {SELF}, of the very crops "
        "that are searched."
    ),
]


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Centring:
    """Camera centring of two pictures.

    Attributes:
        centre_on: Source of the cameras' means.
        camera_a: Camera of the first picture, if its name does not say so.
        camera_b: Camera of the second.
    """

    centre_on: CentreOn = None
    camera_a: str | None = None
    camera_b: str | None = None

    def means(self, embedder: Embedder) -> CameraMeans | None:
        """Read the means, if any are to be subtracted.

        Raises:
            UsageError: They cannot be read, or the two pictures are to be their own means.
        """
        if self.centre_on == SELF:
            raise UsageError(
                "Two pictures have no mean: --centre-on names a folder of crops or an .npz."
            )
        if self.centre_on is None:
            if self.camera_a or self.camera_b:
                raise UsageError("--camera-a and --camera-b need --centre-on.")
            return None
        return read_means(self.centre_on, embedder)

    def cameras(self, a: str, b: str, means: CameraMeans) -> list[str | None]:
        """Return the cameras of the two pictures, from the options or their names.

        Raises:
            UsageError: Neither says it.
        """
        pictures = ((a, self.camera_a), (b, self.camera_b))
        cameras = [given or cameras_of([name], where=name)[0] for name, given in pictures]
        say_unseen(means, cameras)
        return cameras


def cameras_of(pictures: Sequence[str | Path], *, where: str) -> list[str | None]:
    """Read the camera of each picture from its name.

    Raises:
        UsageError: Not one name says a camera.
    """
    from passreid.data.folders import camera_of

    cameras = [camera_of(Path(picture)) for picture in pictures]
    if not any(cameras):
        raise UsageError(
            f"{where}: no name says which camera took the picture; camera centring needs names "
            "like gate_c3_0001.jpg, or for compare --camera-a and --camera-b."
        )
    if unknown := cameras.count(None):
        note(f"{where}: the camera of {unknown} pictures is unknown; the mean of all is used.")
    return cameras


def read_means(source: str, embedder: Embedder) -> CameraMeans:
    """Read camera means from an .npz, or compute them from a folder of crops.

    Raises:
        UsageError: Neither, or means of another width, or crops whose cameras are unknown.
    """
    from passreid.listing import find_images

    path = Path(source)
    if path.suffix.lower() == ".npz":
        means = CameraMeans.load(path)
        if means.dim != embedder.dim:
            raise UsageError(
                f"{path}: holds means of {means.dim} numbers and {embedder.card.name} embeds to "
                f"{embedder.dim}; use the model it was made with."
            )
        return means
    pictures = find_images(path)
    cameras = cameras_of(pictures, where=source)
    means = CameraMeans(embedder.dim)
    means.add(embedder(pictures), cameras)
    return means


def read_means_or_self(source: str | None, embedder: Embedder) -> CameraMeans | None:
    """Read camera means; those to be taken from the very crops at hand are empty."""
    if source is None:
        return None
    return CameraMeans(embedder.dim) if source == SELF else read_means(source, embedder)


def say_unseen(means: CameraMeans, cameras: Sequence[str | None]) -> None:
    """Note cameras that have no mean of their own."""
    if unseen := sorted({c for c in cameras if c is not None} - set(means.counts)):
        seen = ", ".join(sorted(map(str, means.counts)))
        note(f"No crop by camera {', '.join(unseen)} (there are {seen}): the mean of all is used.")
