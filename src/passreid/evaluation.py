"""Evaluate a model on a labelled set, or calibrate it on crops.

evaluate(embedder, dataset)              -> Report        mAP, mINP, Rank-k, TPIR at FPIR
calibrate(embedder, dataset)             -> Calibration   what cosines mean, from identities
calibrate_unlabelled(embedder, paths)    -> Calibration   false match rates, without identities
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from passreid.calibration import UNKNOWN_CAMERA, fit_unlabelled
from passreid.centring import CameraMeans
from passreid.data import ReIDDataset, Sample
from passreid.embed import Embedder, OnError
from passreid.embeddings import Embeddings, copy_notes
from passreid.errors import CalibrationError, DatasetError, UsageError
from passreid.labels import Labels
from passreid.openset import Calibration
from passreid.ranking import measure, measure_distances
from passreid.report import Report, pairs_calibration

log = logging.getLogger("passreid")

MOST_CROPS = 5000
"""Crops whose pairs a calibration without labels counts: more change no threshold."""


def evaluate(
    embedder: Embedder,
    dataset: ReIDDataset,
    *,
    rerank: bool = False,
    camera_filter: bool = True,
    clothes_changing: bool = False,
    centre_on: CameraMeans | None = None,
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
        centre_on: Camera means to subtract; empty ones are filled from query and gallery, without
            their labels.
        on_error: "skip" leaves unreadable images out and says so in the notes.
        progress: Draw bars on stderr.
        max_rank: Length of the CMC.

    Raises:
        DatasetError: No query and gallery, not one query has a positive, or cameras are to be
            centred or clothes left out and the set does not say them.
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
    query, gallery = _sides(embedder, dataset, centre_on, on_error, progress)
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
    trained_on = embedder.card.trained_on
    centred = centre_on is not None
    report = Report(
        model=embedder.card.name,
        data=dataset.name,
        metrics=metrics,
        query=query,
        gallery=gallery,
        labels=labels,
        distances=distances,
        flip=embedder.flip,
        centred=centred,
        in_domain=dataset.name in trained_on if trained_on else None,
        people=dataset.people,
        cameras=dataset.cameras,
        notes=(*dataset.notes, *_settings(rerank, camera_filter, centred, dataset)),
    )
    notes = [*report.notes, *_left_out(report), *copy_notes([query, gallery])]
    if clothes_changing:
        notes.append("Pictures of the query's person in the query's clothes do not count.")
    elif any(sample.clothid >= 0 for sample in dataset.query):
        notes.append("Pictures in the query's clothes count; --clothes-changing leaves them out.")
    return replace(report, notes=tuple(notes))


def calibrate(
    embedder: Embedder,
    dataset: ReIDDataset | Sequence[ReIDDataset],
    *,
    centre_on: CameraMeans | None = None,
    on_error: OnError = "raise",
    progress: bool = False,
) -> Calibration:
    """Fit what a model's cosines mean; `ModelCard.with_calibration` keeps it.

    Query and gallery are used, whose people the model has not been trained on; a set that has only
    training images gives those.

    Args:
        embedder: The model, with the `flip` it will be used with.
        dataset: A labelled set like the pictures the model will see, or several, of different
            places and people; pairs within each count.
        centre_on, on_error, progress: As in `evaluate`.

    Raises:
        CalibrationError: Too few pairs, or cosines that tell nobody apart.
        DatasetError: Cameras are to be centred and none is known.
        ImageError: An image cannot be read, and `on_error` is "raise".
        UsageError: Cameras of several sets are to be centred.
    """
    datasets = [dataset] if isinstance(dataset, ReIDDataset) else list(dataset)
    if centre_on is not None and len(datasets) > 1:
        raise UsageError("Cameras of several sets share their names; centre one set at a time.")
    sets = []
    for data in datasets:
        subsets = (data.query, data.gallery) if data.query else (data.train,)
        parts = [_embed(embedder, samples, on_error, progress) for samples in subsets]
        for line in copy_notes(parts):
            log.warning("%s: %s", data.name, line)
        sets.append((data.name, _centred(parts, data, centre_on)))
    return pairs_calibration(sets, flip=embedder.flip, centred=centre_on is not None)


def calibrate_unlabelled(
    embedder: Embedder,
    paths: Sequence[Path],
    *,
    cameras: Sequence[str | None],
    data: str,
    people: int | None = None,
    within_cameras: bool = False,
    centre_on: CameraMeans | None = None,
    on_error: OnError = "raise",
    progress: bool = False,
) -> Calibration:
    """Fit thresholds at false match rates on crops without identities.

    Args:
        embedder: The model, with the `flip` it will be used with.
        paths: Crops as the model will see them; of more than 5,000 a random 5,000 are used.
        cameras: Camera of each crop, None where it is not known.
        data: Name of the crops.
        people: About how many people they show, see `fit_unlabelled`.
        within_cameras: Count pairs within a camera, too: for searches in galleries that hold the
            query's own camera, whose strangers are more alike.
        centre_on, on_error, progress: As in `evaluate`.

    Raises:
        CalibrationError: Too few crops.
        DatasetError: Cameras are to be centred and none is known.
        ImageError: An image cannot be read, and `on_error` is "raise".
    """
    chosen = np.random.default_rng(0).permutation(len(paths))[:MOST_CROPS]
    numbers = {name: n for n, name in enumerate(sorted({c for c in cameras if c is not None}))}
    named = dict(enumerate(numbers))
    samples = tuple(
        Sample(paths[i], 0, UNKNOWN_CAMERA if (c := cameras[i]) is None else numbers[c])
        for i in sorted(chosen.tolist())
    )
    dataset = ReIDDataset(data, "crops", paths[0].parent, train=samples, cameras=named)
    part = _embed(embedder, samples, on_error, progress)
    if not part.samples:
        raise CalibrationError(f"{data} has no readable image.")
    for line in copy_notes([part]):
        log.warning("%s: %s", data, line)
    (part,) = _centred([part.distinct()], dataset, centre_on)
    known = len({sample.camid for sample in part.samples} - {UNKNOWN_CAMERA})
    seen = f"{known} cameras" if known else "unknown cameras"
    fitted = fit_unlabelled(
        part.rows,
        camids=None if within_cameras else part.camids,
        people=people,
        data=f"{data} ({len(part.samples)} crops by {seen}, without labels)",
        flip=embedder.flip,
    )
    return replace(fitted, centred=centre_on is not None)


def camera_names(samples: Sequence[Sample], dataset: ReIDDataset) -> list[str | None]:
    """Name each sample's camera as the set's files do; None where it is not known."""
    unnamed = {UNKNOWN_CAMERA: None}
    return [
        unnamed[s.camid] if s.camid in unnamed else dataset.cameras.get(s.camid, str(s.camid))
        for s in samples
    ]


def _centred(
    parts: list[Embeddings], dataset: ReIDDataset, centre_on: CameraMeans | None
) -> list[Embeddings]:
    """Subtract camera means from the rows of every part, means of these parts if there are none."""
    if centre_on is None:
        return parts
    names = [camera_names(part.samples, dataset) for part in parts]
    if not any(name is not None for part in names for name in part):
        raise DatasetError(f"{dataset.root} does not say which camera took its images.")
    if not centre_on.counts:
        for part, cameras in zip(parts, names, strict=True):
            centre_on.add(part.rows, cameras)
    return [
        replace(part, rows=centre_on.centre(part.rows, cameras))
        for part, cameras in zip(parts, names, strict=True)
    ]


def _sides(
    embedder: Embedder,
    dataset: ReIDDataset,
    centre_on: CameraMeans | None,
    on_error: OnError,
    progress: bool,
) -> tuple[Embeddings, Embeddings]:
    """Embed query and gallery, and centre them."""
    sides = dataset.query, dataset.gallery
    query, gallery = (_embed(embedder, samples, on_error, progress) for samples in sides)
    for name, side in (("query", query), ("gallery", gallery)):
        if not side.samples:
            raise DatasetError(f"{dataset.root}: not one {name} image can be read.")
    query, gallery = _centred([query, gallery], dataset, centre_on)
    return query, gallery


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


def _settings(rerank: bool, camera_filter: bool, centred: bool, dataset: ReIDDataset) -> list[str]:
    notes = []
    if rerank:
        notes.append("Re-ranked by k-reciprocal neighbours, which looks at all queries at once.")
    if centred:
        notes.append("Each camera's mean embedding was subtracted.")
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
