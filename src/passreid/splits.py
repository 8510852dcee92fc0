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
        mean: Mean of mAP, mINP, rank1, rank5 and rank10 over the splits.
        spread: Sample standard deviation of the same.
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
    cached = cast(Embedder, _CachingEmbedder(embedder))
    # `evaluate` fills camera means in place, so each split starts from a copy of the options.
    reports = tuple(evaluate(cached, dataset, **deepcopy(options)) for dataset in datasets)
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


class _CachingEmbedder:
    """An `Embedder` that remembers the embedding, or the failure, of every path."""

    def __init__(self, embedder: Embedder) -> None:
        self._embedder = embedder
        self._known: dict[Path, NDArray[np.float32] | Skipped] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._embedder, name)

    def embed(self, paths: Sequence[Path], **options: Any) -> Embedded:
        if new := [path for path in paths if path not in self._known]:
            done = self._embedder.embed(new, **options)
            self._known |= {
                new[i]: row for i, row in zip(done.indices, done.embeddings, strict=True)
            }
            failed = [path for path in new if path not in self._known]
            self._known |= dict(zip(failed, done.skipped, strict=True))
        found = [self._known[path] for path in paths]
        rows = [row for row in found if not isinstance(row, Skipped)]
        return Embedded(
            np.stack(rows) if rows else np.empty((0, self._embedder.dim), np.float32),
            np.array([n for n, row in enumerate(found) if not isinstance(row, Skipped)], np.int64),
            tuple(row for row in found if isinstance(row, Skipped)),
        )
