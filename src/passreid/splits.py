"""Evaluate the random splits of a protocol, and average their scores."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from passreid.data import ReIDDataset
from passreid.embed import Embedded, Embedder, Skipped
from passreid.evaluation import evaluate
from passreid.report import Report


@dataclass(frozen=True)
class SplitScores:
    """Scores over the random splits of a protocol.

    Attributes:
        reports: One for each split.
        mean, spread: Figure -> its mean and standard deviation (of a sample) over the splits, for
            mAP, mINP, rank1, rank5 and rank10.
    """

    reports: tuple[Report, ...]
    mean: dict[str, float]
    spread: dict[str, float]


def evaluate_splits(
    embedder: Embedder, datasets: Iterable[ReIDDataset], **options: Any
) -> SplitScores:
    """Evaluate several random splits of one set, embedding each image once.

    Args:
        embedder: The model.
        datasets: The splits, as `read_dataset` reads them with ``split=0``, 1, ….
        options: Of `evaluate`.

    Raises:
        DatasetError, ImageError, EmbeddingError: As `evaluate`.
    """
    once = cast(Embedder, _EachOnce(embedder))
    # Each split starts from the options as they were given: camera means are filled anew.
    reports = tuple(evaluate(once, dataset, **deepcopy(options)) for dataset in datasets)
    figures = {
        "mAP": [report.mAP for report in reports],
        "mINP": [report.mINP for report in reports],
        **{f"rank{k}": [report.metrics.rank(k) for report in reports] for k in (1, 5, 10)},
    }
    degrees = min(1, len(reports) - 1)
    return SplitScores(
        reports,
        {name: float(np.mean(values)) for name, values in figures.items()},
        {name: float(np.std(values, ddof=degrees)) for name, values in figures.items()},
    )


class _EachOnce:
    """An `Embedder` that keeps the embedding of every path it has seen."""

    def __init__(self, embedder: Embedder) -> None:
        self._embedder = embedder
        self._rows: dict[Path, NDArray[np.float32]] = {}
        self._skipped: dict[Path, Skipped] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._embedder, name)

    def embed(self, paths: Sequence[Path], **options: Any) -> Embedded:
        new = [path for path in paths if path not in self._rows and path not in self._skipped]
        if new:
            done = self._embedder.embed(new, **options)
            kept = [new[index] for index in done.indices]
            self._rows |= dict(zip(kept, done.embeddings, strict=True))
            left = [path for path in new if path not in self._rows]
            self._skipped |= dict(zip(left, done.skipped, strict=True))
        indices = [n for n, path in enumerate(paths) if path in self._rows]
        empty = np.empty((0, self._embedder.dim), np.float32)
        return Embedded(
            np.stack([self._rows[paths[n]] for n in indices]) if indices else empty,
            np.array(indices, np.int64),
            tuple(self._skipped[path] for path in paths if path in self._skipped),
        )
