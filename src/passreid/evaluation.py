"""A labelled set -> how well a model finds people in it.

evaluate(embedder, dataset)   -> Report        mAP, mINP, Rank-k; and the embeddings, kept
calibrate(embedder, dataset)  -> Calibration   what the model's cosines mean
"""

from __future__ import annotations

import hashlib
import logging
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from passreid.data import ReIDDataset, Sample
from passreid.embed import Embedder, OnError
from passreid.errors import DatasetError
from passreid.ranking import Labels, measure, measure_distances
from passreid.report import Embeddings, Report, copy_notes, pairs_calibration
from passreid.verify import Calibration

log = logging.getLogger("passreid")


def evaluate(
    embedder: Embedder,
    dataset: ReIDDataset,
    *,
    rerank: bool = False,
    camera_filter: bool = True,
    clothes_changing: bool = False,
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
        clothes_changing: Leave out pictures of the query's person in the query's clothes; queries
            whose person is not there in others do not count.
        on_error: "skip" leaves unreadable images out and says so in the notes.
        progress: Draw bars on stderr.
        max_rank: Length of the CMC.

    Raises:
        DatasetError: No query and gallery, not one query has a positive, or clothes are to be left
            out and the set does not say who wears what.
        ImageError: An image cannot be read, and `on_error` is "raise".
        EmbeddingError: The network gives NaN or infinity.
    """
    if not dataset.query:
        raise DatasetError(f"{dataset.root} has no query and gallery images to evaluate on.")
    if clothes_changing and all(sample.clothid < 0 for sample in dataset.query):
        raise DatasetError(
            f"{dataset.root} does not say which clothes people wear, so a clothes-changing search "
            "cannot be scored; a CSV file says it in a column clothid."
        )
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
        query_clothids=query.clothids if clothes_changing else None,
        gallery_clothids=gallery.clothids if clothes_changing else None,
        people=dataset.people,
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
    notes = [*report.notes, *_left_out(report), *copy_notes([query, gallery])]
    if clothes_changing:
        notes.append("Pictures of the query's person in the query's clothes do not count.")
    elif any(sample.clothid >= 0 for sample in dataset.query):
        notes.append("Pictures in the query's clothes count; --clothes-changing leaves them out.")
    return replace(report, notes=tuple(notes))


def calibrate(
    embedder: Embedder,
    dataset: ReIDDataset,
    *,
    on_error: OnError = "raise",
    progress: bool = False,
) -> Calibration:
    """Fit what a model's cosines mean; `ModelCard.with_calibration` keeps it.

    Query and gallery are used, whose people the model has not been trained on; a set that has only
    training images gives those. A file that is there twice counts once; one that is labelled as two
    people does not count.

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
    for line in copy_notes(parts):
        log.warning("%s", line)
    return pairs_calibration(dataset.name, parts, embedder.flip)


def _embed(
    embedder: Embedder, samples: tuple[Sample, ...], on_error: OnError, progress: bool
) -> Embeddings:
    start = time.perf_counter()
    paths = [sample.path for sample in samples]
    done = embedder.embed(paths, on_error=on_error, progress=progress)
    seconds = time.perf_counter() - start
    kept = tuple(samples[index] for index in done.indices)
    digests = tuple(hashlib.sha256(sample.path.read_bytes()).hexdigest() for sample in kept)
    found = Embeddings(kept, done.embeddings, done.skipped, seconds, digests, len(kept))
    return found.pooled()


def _reranked(query: Embeddings, gallery: Embeddings) -> NDArray[np.float32]:
    from passreid.reranking import rerank

    return rerank(query.rows, gallery.rows)


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
    why = "no other camera saw" if report.labels.camera_filter else "the gallery does not show"
    for images, what in (
        (
            [Path(name).name for name in report.invalid],
            f"queries do not count, as {why} their person",
        ),
        ([image.name for image in report.skipped], "images cannot be read and were left out"),
    ):
        if images:
            shown = ", ".join(images[:3]) + (", …" if len(images) > 3 else "")
            notes.append(f"{len(images)} {what}: {shown}.")
    return notes
