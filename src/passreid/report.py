"""What an evaluation gives: the embeddings it was worked out from, and figures of all kinds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from passreid.calibration import fit_calibration
from passreid.camera_pairs import CameraPair, measure_camera_pairs
from passreid.data import Sample
from passreid.data.assemble import few
from passreid.embed import Skipped
from passreid.errors import CalibrationError
from passreid.listing import printable
from passreid.ranking import (
    Labels,
    Metrics,
    Ranking,
    measure,
    measure_distances,
    rank,
    rank_distances,
)
from passreid.verify import Calibration

if TYPE_CHECKING:
    from rich.table import Table


@dataclass(frozen=True, eq=False)
class Embeddings:
    """The images of a subset that could be read, and their embeddings.

    Attributes:
        samples: N images.
        rows: (N, D) float32.
        skipped: Images that could not be read.
        seconds: How long reading and embedding took.
        digests: Hash of each image's file, by which copies are found; empty where not taken.
        images: How many images were embedded; more than N where they are frames of tracklets.
    """

    samples: tuple[Sample, ...]
    rows: NDArray[np.float32]
    skipped: tuple[Skipped, ...] = ()
    seconds: float = 0.0
    digests: tuple[str, ...] = ()
    images: int = 0

    @property
    def pids(self) -> NDArray[np.int64]:
        """(N,) people."""
        return np.array([sample.pid for sample in self.samples], np.int64)

    @property
    def camids(self) -> NDArray[np.int64]:
        """(N,) cameras, -1 where unknown."""
        return np.array([sample.camid for sample in self.samples], np.int64)

    @property
    def clothids(self) -> NDArray[np.int64]:
        """(N,) clothes, -1 where unknown."""
        return np.array([sample.clothid for sample in self.samples], np.int64)

    def pooled(self) -> Embeddings:
        """Average the embeddings of each tracklet's frames; its first frame stands for it."""
        if all(sample.tracklet < 0 for sample in self.samples):
            return self
        frames: dict[int, list[int]] = {}
        for index, sample in enumerate(self.samples):
            frames.setdefault(-1 - index if sample.tracklet < 0 else sample.tracklet, []).append(
                index
            )
        kept = list(frames.values())
        return replace(
            self,
            samples=tuple(self.samples[group[0]] for group in kept),
            rows=np.stack([self.rows[group].mean(axis=0) for group in kept]),
            digests=tuple(" ".join(self.digests[i] for i in group) for group in kept),
        )


@dataclass(frozen=True, eq=False, repr=False)
class Report:
    """How a model did on a set.

    Attributes:
        model, data: Names of both.
        metrics: Curves and averages, and every query's own figures.
        query, gallery: What was embedded, for rank sheets without a second pass.
        labels: What counted for which query.
        notes: Whatever a reader of the figures should know, one sentence each.
        distances: (Q, G) float32 of k-reciprocal re-ranking, where the order is theirs.
        flip: Whether embeddings were averaged with those of the mirrored images.
        people, cameras: Names of those that the set does not call by their pid or camid.
    """

    model: str
    data: str
    metrics: Metrics
    query: Embeddings
    gallery: Embeddings
    labels: Labels
    notes: tuple[str, ...] = ()
    distances: NDArray[np.float32] | None = None
    flip: bool = False
    people: Mapping[int, str] = field(default_factory=dict)
    cameras: Mapping[int, str] = field(default_factory=dict)

    @property
    def reranked(self) -> bool:
        """Whether the order is that of k-reciprocal re-ranking."""
        return self.distances is not None

    @property
    def mAP(self) -> float:  # noqa: N802 - the field's own spelling
        """Mean average precision, a fraction."""
        return self.metrics.mAP

    @property
    def mINP(self) -> float:  # noqa: N802 - the field's own spelling
        """Mean inverse negative penalty, a fraction."""
        return self.metrics.mINP

    @property
    def rank1(self) -> float:
        """Fraction of queries whose first hit is right."""
        return self.metrics.rank(1)

    @property
    def images_per_second(self) -> float:
        """Speed of reading and embedding both sides."""
        images = self.query.images + self.gallery.images
        return images / max(self.query.seconds + self.gallery.seconds, 1e-9)

    @property
    def invalid(self) -> tuple[str, ...]:
        """Queries that do not count: the gallery has no other camera's picture of their person."""
        return tuple(str(self.query.samples[i].path) for i in self.metrics.invalid)

    @property
    def skipped(self) -> tuple[Skipped, ...]:
        """Images that could not be read."""
        return (*self.query.skipped, *self.gallery.skipped)

    @cached_property
    def calibration(self) -> Calibration:
        """The set's pairs as a calibration: equal error rate, thresholds at false-accept rates.

        Raises:
            CalibrationError: The set has too few pairs.
        """
        return pairs_calibration(self.data, [self.query, self.gallery], self.flip)

    def to_json(self) -> dict[str, Any]:
        """Return the figures as plain data; rates are fractions."""
        try:
            pairs: Calibration | None = self.calibration
        except CalibrationError:
            pairs = None
        return {
            "mAP": self.mAP,
            "mINP": self.mINP,
            "rank1": self.rank1,
            "rank5": self.metrics.rank(5),
            "rank10": self.metrics.rank(10),
            "num_query": len(self.query.samples),
            "num_gallery": len(self.gallery.samples),
            "images_per_second": self.images_per_second,
            "num_invalid_query": len(self.invalid),
            "num_skipped": len(self.skipped),
            "equal_error_rate": pairs.equal_error_rate if pairs else None,
            "true_accept_rates": {
                f"{point.false_accept_rate:g}": point.true_accept_rate
                for point in (pairs.points if pairs else ())
            },
            "model": self.model,
            "data": self.data,
            "notes": list(self.notes),
        }

    def ranking(self, *, top_k: int = 10) -> Ranking:
        """What each query found, without the pictures that do not count for it."""
        if self.distances is not None:
            return rank_distances(self.distances, top_k=top_k, labels=self.labels)
        return rank(self.query.rows, self.gallery.rows, top_k=top_k, labels=self.labels)

    def camera_pairs(self) -> list[CameraPair]:
        """Measure each camera's queries among each other camera's pictures alone."""

        def part(rows: NDArray[np.int64], columns: NDArray[np.int64], labels: Labels) -> Metrics:
            if self.distances is not None:
                return measure_distances(self.distances[np.ix_(rows, columns)], labels=labels)
            return measure(self.query.rows[rows], self.gallery.rows[columns], labels=labels)

        return measure_camera_pairs(self.labels, part, names=self.cameras)

    def table(self) -> Table:
        """Draw the figures as a rich table."""
        from rich.markup import escape
        from rich.table import Table

        values = self.to_json()
        table = Table("figure", "value", title=escape(printable(f"{self.model} on {self.data}")))
        names = {"rank1": "Rank-1", "rank5": "Rank-5", "rank10": "Rank-10"}
        for key in ("mAP", "mINP", "rank1", "rank5", "rank10"):
            table.add_row(names.get(key, key), f"{values[key]:.2%}")
        if values["equal_error_rate"] is not None:
            table.add_row("equal error rate", f"{values['equal_error_rate']:.2%}")
        for rate, share in values["true_accept_rates"].items():
            table.add_row(f"true accepts at {float(rate):.2%} false", f"{share:.2%}")
        table.add_row("queries", str(values["num_query"]))
        table.add_row("gallery", str(values["num_gallery"]))
        table.add_row("images per second", f"{self.images_per_second:.1f}")
        return table

    def __repr__(self) -> str:
        return f"Report({self.model} on {self.data}: {self.metrics!r})"


def pairs_calibration(data: str, parts: list[Embeddings], flip: bool) -> Calibration:
    """Fit on all images of `parts`, each file once, without files that two people share.

    Raises:
        CalibrationError: As `fit_calibration`, or no image could be read.
    """
    samples = [sample for part in parts for sample in part.samples]
    found = _by_content(parts)
    chosen = sorted(same[0] for same in found if len({samples[i].pid for i in same}) == 1)
    if not chosen:
        raise CalibrationError(f"{data} has no readable image.")
    pids = np.array([samples[index].pid for index in chosen])
    # Only where no query asks for pid 0 does it mean "nobody known"; else it is a person.
    people = {sample.pid for sample in parts[0].samples}
    crops = f"{len(chosen)} crops of {len(set(pids.tolist()) & people)} people"
    copies = len({sample.path for sample in samples}) - len(chosen)
    crops += f", {copies} copies left out" if copies else ""
    return fit_calibration(
        np.concatenate([part.rows for part in parts])[chosen],
        pids + 1 if 0 in people else pids,
        camids=np.array([samples[index].camid for index in chosen]),
        data=f"{data} ({crops})",
        flip=flip,
    )


def copy_notes(parts: list[Embeddings]) -> list[str]:
    """Name files of equal content: labelled as two people, or a query copied from the gallery."""
    samples = [sample for part in parts for sample in part.samples]
    queries = len(parts[0].samples)
    contradictory, leaked, repeated = [], [], []
    for same in _by_content(parts):
        files = list({samples[index].path: samples[index] for index in same}.values())
        if len(files) < 2:
            continue
        named = " = ".join(file.path.name for file in files[:3])
        if len({file.pid for file in files}) > 1:
            contradictory.append(named)
        elif len(parts) > 1 and same[0] < queries <= same[-1]:
            leaked.append(named)
        else:
            repeated.append(named)
    return [
        f"{what}: {len(found)} ({few(found)})."
        for found, what in (
            (contradictory, "Files labelled as different people, so one label is wrong"),
            (leaked, "Queries copied from the gallery, which find themselves"),
            (repeated, "Files that are in the set more than once"),
        )
        if found
    ]


def _by_content(parts: list[Embeddings]) -> list[list[int]]:
    """Group the images of all parts by the content of their files."""
    groups: dict[str, list[int]] = {}
    keys = (k for p in parts for k in p.digests or (str(sample.path) for sample in p.samples))
    for index, key in enumerate(keys):
        groups.setdefault(key, []).append(index)
    return list(groups.values())
