"""A labelled set -> how well a model finds people in it.

evaluate(embedder, dataset)   -> Report        mAP, mINP, Rank-k; and the embeddings, kept
calibrate(embedder, dataset)  -> Calibration   what the model's cosines mean
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from passreid.calibration import fit_calibration
from passreid.camera_pairs import CameraPair, measure_camera_pairs
from passreid.data import ReIDDataset, Sample
from passreid.embed import Embedder, OnError, Skipped
from passreid.errors import CalibrationError, DatasetError
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
    """

    samples: tuple[Sample, ...]
    rows: NDArray[np.float32]
    skipped: tuple[Skipped, ...] = ()
    seconds: float = 0.0

    @property
    def pids(self) -> NDArray[np.int64]:
        """(N,) people."""
        return np.array([sample.pid for sample in self.samples], np.int64)

    @property
    def camids(self) -> NDArray[np.int64]:
        """(N,) cameras, -1 where unknown."""
        return np.array([sample.camid for sample in self.samples], np.int64)


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
        images = len(self.query.samples) + len(self.gallery.samples)
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
        return _calibration(self.data, [self.query, self.gallery], self.flip)

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
        table = Table("figure", "value", title=escape(f"{self.model} on {self.data}"))
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


def evaluate(
    embedder: Embedder,
    dataset: ReIDDataset,
    *,
    rerank: bool = False,
    camera_filter: bool = True,
    on_error: OnError = "raise",
    progress: bool = False,
    max_rank: int = 50,
) -> Report:
    """Embed query and gallery, rank, and measure.

    Args:
        embedder: The model.
        dataset: A set with query and gallery.
        rerank: Order by k-reciprocal re-ranking (k1 20, k2 6, lambda 0.3) in place of the cosine.
        camera_filter: False counts pictures by the query's own camera too, which makes it easy.
        on_error: "skip" leaves unreadable images out and says so in the notes.
        progress: Draw bars on stderr.
        max_rank: Length of the CMC.

    Raises:
        DatasetError: No query and gallery, or not one query has a positive.
        ImageError: An image cannot be read, and `on_error` is "raise".
        EmbeddingError: The network gives NaN or infinity.
    """
    if not dataset.query:
        raise DatasetError(f"{dataset.root} has no query and gallery images to evaluate on.")
    sides = dataset.query, dataset.gallery
    query, gallery = (_embed(embedder, samples, on_error, progress) for samples in sides)
    for name, side in (("query", query), ("gallery", gallery)):
        if not side.samples:
            raise DatasetError(f"{dataset.root}: not one {name} image can be read.")
    labels = Labels(
        query.pids,
        gallery.pids,
        query_camids=query.camids,
        gallery_camids=gallery.camids,
        camera_filter=camera_filter,
    )
    distances = _reranked(query, gallery) if rerank else None
    if distances is not None:
        metrics = measure_distances(distances, labels=labels, max_rank=max_rank)
    else:
        metrics = measure(query.rows, gallery.rows, labels=labels, max_rank=max_rank)
    report = Report(
        model=embedder.card.name,
        data=dataset.name,
        metrics=metrics,
        query=query,
        gallery=gallery,
        labels=labels,
        distances=distances,
        flip=embedder.flip,
        people=dataset.people,
        cameras=dataset.cameras,
        notes=(*dataset.notes, *_settings(rerank, camera_filter, dataset)),
    )
    return replace(report, notes=(*report.notes, *_left_out(report)))


def calibrate(
    embedder: Embedder,
    dataset: ReIDDataset,
    *,
    on_error: OnError = "raise",
    progress: bool = False,
) -> Calibration:
    """Fit what a model's cosines mean; `ModelCard.with_calibration` keeps it.

    Query and gallery are used, whose people the model has not been trained on; a set that has only
    training images gives those.

    Args:
        embedder: The model, with the `flip` it will be used with.
        dataset: A labelled set like the pictures the model will see.
        on_error, progress: As in `evaluate`.

    Raises:
        CalibrationError: Too few pairs, or cosines that tell nobody apart.
        ImageError: An image cannot be read, and `on_error` is "raise".
    """
    subsets = (dataset.query, dataset.gallery) if dataset.query else (dataset.train,)
    parts = [_embed(embedder, samples, on_error, progress) for samples in subsets]
    return _calibration(dataset.name, parts, embedder.flip)


def _embed(
    embedder: Embedder, samples: tuple[Sample, ...], on_error: OnError, progress: bool
) -> Embeddings:
    start = time.perf_counter()
    paths = [sample.path for sample in samples]
    done = embedder.embed(paths, on_error=on_error, progress=progress)
    kept = tuple(samples[index] for index in done.indices)
    return Embeddings(kept, done.embeddings, done.skipped, time.perf_counter() - start)


def _reranked(query: Embeddings, gallery: Embeddings) -> NDArray[np.float32]:
    from passreid.reranking import rerank

    return rerank(query.rows, gallery.rows)


def _calibration(data: str, parts: list[Embeddings], flip: bool) -> Calibration:
    """Fit on all images of `parts`, each file once: some sets list a query in the gallery too."""
    samples = [sample for part in parts for sample in part.samples]
    first = {sample.path: index for index, sample in reversed(list(enumerate(samples)))}
    chosen = sorted(first.values())
    if not chosen:
        raise CalibrationError(f"{data} has no readable image.")
    pids = np.array([samples[index].pid for index in chosen])
    # Only where no query asks for pid 0 does it mean "nobody known"; else it is a person.
    people = {sample.pid for sample in parts[0].samples}
    crops = f"{len(chosen)} crops of {len(set(pids.tolist()) & people)} people"
    return fit_calibration(
        np.concatenate([part.rows for part in parts])[chosen],
        pids + 1 if 0 in people else pids,
        camids=np.array([samples[index].camid for index in chosen]),
        data=f"{data} ({crops})",
        flip=flip,
    )


def _settings(rerank: bool, camera_filter: bool, dataset: ReIDDataset) -> list[str]:
    notes = []
    if rerank:
        notes.append("Re-ranked by k-reciprocal neighbours, which looks at all queries at once.")
    if not camera_filter:
        notes.append("Pictures by the query's own camera count: not comparable with papers.")
    elif not dataset.has_cameras:
        notes.append("Some cameras are unknown: those pictures count as taken by another one.")
    return notes


def _left_out(report: Report) -> list[str]:
    notes = []
    for images, what in (
        (
            [Path(name).name for name in report.invalid],
            "queries do not count, as no other camera saw their person",
        ),
        ([image.name for image in report.skipped], "images cannot be read and were left out"),
    ):
        if images:
            shown = ", ".join(images[:3]) + (", …" if len(images) > 3 else "")
            notes.append(f"{len(images)} {what}: {shown}.")
    return notes
