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
from passreid.ranking import Metrics, measure, measure_distances
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
        rerank: Order by k-reciprocal re-ranking (k1 20, k2 6, lambda 0.3) instead of by cosine.
        camera_filter: False also counts images by the query's own camera, which are easy to find.
        clothes_changing: Leave out images of the query's person in the query's clothes.
        centre_on: Camera means to subtract; empty ones are filled from query and gallery.
        on_error: "skip" leaves unreadable images out and lists them in the notes.
        max_rank: Length of the CMC.

    Raises:
        DatasetError: There is no query or no gallery, no query has a positive, or cameras or
            clothes are needed and the set does not label them.
        ImageError: An image cannot be read, and `on_error` is "raise".
        EmbeddingError: An embedding contains NaN or infinity.
    """
    _check(dataset, clothes_changing)
    query, gallery = _sides(embedder, dataset, centre_on, on_error, progress)
    clothes = (query.clothids, gallery.clothids) if clothes_changing else (None, None)
    labels = Labels(
        query.pids,
        gallery.pids,
        query_camids=query.camids,
        gallery_camids=gallery.camids,
        camera_filter=camera_filter,
        query_clothids=clothes[0],
        gallery_clothids=clothes[1],
        people=dataset.people,
    )
    distances, metrics = _measured(query, gallery, labels, rerank=rerank, max_rank=max_rank)
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
    )
    return replace(report, notes=tuple(_notes(report, dataset, clothes_changing)))


def calibrate(
    embedder: Embedder,
    dataset: ReIDDataset | Sequence[ReIDDataset],
    *,
    centre_on: CameraMeans | None = None,
    on_error: OnError = "raise",
    progress: bool = False,
) -> Calibration:
    """Fit a model's error rates and probabilities on query and gallery, or else training images.

    Args:
        embedder: The model, with the `flip` it will be used with.
        dataset: One labelled set, or several of different people; only pairs within a set count.
            The model must not have been trained on these people.
        centre_on, on_error, progress: As in `evaluate`.

    Raises:
        CalibrationError: There are too few pairs, or genuine pairs are no more alike than others.
        DatasetError: Cameras are to be centred and none is known.
        ImageError: An image cannot be read, and `on_error` is "raise".
        UsageError: Several sets are to be centred.
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
        paths: Crops like those the model will be used on; at most 5,000, drawn at random.
        cameras: Camera of each crop, None if unknown.
        data: Name of the crops.
        people: About how many people they show, see `fit_unlabelled`.
        within_cameras: Also count pairs within a camera, for galleries that contain the query's
            own camera.
        centre_on, on_error, progress: As in `evaluate`.

    Raises:
        CalibrationError: There are too few crops.
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


def _check(dataset: ReIDDataset, clothes_changing: bool) -> None:
    """Reject a set without what the evaluation needs, before the work."""
    if not dataset.query:
        raise DatasetError(f"{dataset.root} has no query and gallery images to evaluate on.")
    if clothes_changing and all(sample.clothid < 0 for sample in dataset.query):
        raise DatasetError(
            f"{dataset.root} has no labels of clothes, which a clothes-changing evaluation needs; "
            "give them in a CSV file with a column clothid."
        )


def _measured(
    query: Embeddings, gallery: Embeddings, labels: Labels, *, rerank: bool, max_rank: int
) -> tuple[NDArray[np.float32] | None, Metrics]:
    """Return the re-ranked distances, if asked for, and the metrics."""
    if not rerank:
        return None, measure(query.rows, gallery.rows, labels=labels, max_rank=max_rank)
    from passreid.reranking import rerank as k_reciprocal

    distances = k_reciprocal(query.rows, gallery.rows)
    return distances, measure_distances(distances, labels=labels, max_rank=max_rank)


def _notes(report: Report, dataset: ReIDDataset, clothes_changing: bool) -> list[str]:
    """Describe what affects how the figures compare with others."""
    notes = list(dataset.notes)
    if report.reranked:
        notes.append("Re-ranked by k-reciprocal neighbours, which uses all queries at once.")
    if report.centred:
        notes.append("Each camera's mean embedding was subtracted.")
    if not report.labels.camera_filter:
        notes.append("Pictures by the query's own camera count: not comparable with papers.")
    elif not dataset.has_cameras:
        notes.append("Some cameras are unknown: those pictures count as taken by another one.")
    notes += [*_left_out(report), *copy_notes([report.query, report.gallery])]
    if clothes_changing:
        notes.append("Pictures of the query's person in the query's clothes do not count.")
    elif any(sample.clothid >= 0 for sample in dataset.query):
        notes.append("Pictures in the query's clothes count; --clothes-changing leaves them out.")
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
