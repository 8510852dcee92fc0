"""Camera centring: subtract each camera's mean embedding, the share of its light and view.

    means = CameraMeans(dim)
    means.add(embeddings, cameras)            crops without labels, as they come
    means.centre(embeddings, cameras)         unit rows, ready to compare across cameras

The mean of few crops is mostly chance, so a camera's mean of n crops is shrunk towards that of all:
(n * mean + k * mean of all) / (n + k). A camera that was never seen gets the mean of all, as does
None, an unknown camera.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from passreid.errors import EmbeddingError, UsageError
from passreid.similarity import unit_rows
from passreid.storage import replacing

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]

SHRINKAGE = 10.0
"""k, how many crops the mean of all weighs as much as in each camera's mean."""


class CameraMeans:
    """Running mean embedding of each camera.

    Args:
        dim: Width D of the embeddings.
        shrinkage: k above, in crops.
    """

    def __init__(self, dim: int, *, shrinkage: float = SHRINKAGE) -> None:
        self.dim, self.shrinkage = dim, shrinkage
        self._sums: dict[Hashable, F64] = {}
        self._counts: dict[Hashable, int] = {}

    @staticmethod
    def of(dim: int, sums: Mapping[Hashable, tuple[int, NDArray[Any]]]) -> CameraMeans:
        """Make means of each camera's number of crops and the (D,) sum of their unit rows."""
        means = CameraMeans(dim)
        means._counts = {camera: count for camera, (count, _) in sums.items()}
        means._sums = {camera: np.asarray(total, np.float64) for camera, (_, total) in sums.items()}
        return means

    @property
    def counts(self) -> Mapping[Hashable, int]:
        """Camera -> crops its mean rests on."""
        return dict(self._counts)

    def add(self, embeddings: ArrayLike, cameras: Sequence[Hashable]) -> None:
        """Take crops into the means.

        Args:
            embeddings: (N, D), normalised or not.
            cameras: (N,) names or numbers of the cameras; None is unknown and left out.

        Raises:
            EmbeddingError: Not (N, D) finite numbers, or not one camera for each.
        """
        self._update(embeddings, cameras, 1)

    def remove(self, embeddings: ArrayLike, cameras: Sequence[Hashable]) -> None:
        """Take crops that were added out of the means again; raises as `add`."""
        self._update(embeddings, cameras, -1)

    def mean(self, camera: Hashable) -> F64:
        """(D,) mean of a camera, shrunk towards that of all; zero before any crop was added."""
        if not self._counts:
            return np.zeros(self.dim)
        overall = sum(self._sums.values(), np.zeros(self.dim)) / sum(self._counts.values())
        count = self._counts.get(camera, 0)
        if count == 0:
            return np.asarray(overall)
        shrunk = self._sums[camera] + self.shrinkage * overall
        return np.asarray(shrunk / (count + self.shrinkage))

    def centre(self, embeddings: ArrayLike, cameras: Sequence[Hashable]) -> F32:
        """Subtract the camera's mean from each unit row, and normalise again: (N, D) float32.

        Raises:
            EmbeddingError: As `add`.
        """
        rows = self._rows(embeddings, cameras)
        means = {camera: self.mean(camera) for camera in dict.fromkeys(cameras)}
        return unit_rows(rows - np.stack([means[camera] for camera in cameras]), "embeddings")

    def save(self, path: Path) -> None:
        """Write sums and counts to an .npz, whole or not at all; cameras become text."""
        names = list(self._counts)
        with replacing(path) as temporary, temporary.open("wb") as file:
            np.savez(
                file,
                cameras=np.array([str(name) for name in names], np.str_),
                counts=np.array([self._counts[name] for name in names], np.int64),
                sums=np.array([self._sums[name] for name in names]).reshape(-1, self.dim),
                shrinkage=self.shrinkage,
            )

    @staticmethod
    def load(path: Path) -> CameraMeans:
        """Read what `save` wrote; cameras are text.

        Raises:
            UsageError: The file is missing or holds something else.
        """
        try:
            with np.load(path, allow_pickle=False) as stored:
                cameras, counts, sums = stored["cameras"], stored["counts"], stored["sums"]
                means = CameraMeans(sums.shape[1], shrinkage=float(stored["shrinkage"]))
            if not np.isfinite(sums).all() or sums.shape[0] != len(counts) or (counts < 1).any():
                raise ValueError("its numbers do not fit together")
        except (OSError, KeyError, ValueError, IndexError) as error:
            raise UsageError(f"{path}: holds no camera means ({error}).") from None
        names = cameras.tolist()
        means._counts = dict(zip(names, counts.tolist(), strict=True))
        means._sums = dict(zip(names, sums.astype(np.float64), strict=True))
        return means

    def _update(self, embeddings: ArrayLike, cameras: Sequence[Hashable], sign: int) -> None:
        rows = self._rows(embeddings, cameras).astype(np.float64)
        for camera in set(cameras) - {None}:
            chosen = rows[[name == camera for name in cameras]]
            count = self._counts.get(camera, 0) + sign * len(chosen)
            if count < 0:
                raise UsageError(f"Camera {camera} has fewer crops than are to be removed.")
            if count == 0:
                self._counts.pop(camera, None)
                self._sums.pop(camera, None)
                continue
            self._counts[camera] = count
            start = self._sums.get(camera, np.zeros(self.dim))
            self._sums[camera] = start + sign * chosen.sum(axis=0)

    def _rows(self, embeddings: ArrayLike, cameras: Sequence[Hashable]) -> F32:
        rows = unit_rows(embeddings, "embeddings")
        if rows.shape != (len(cameras), self.dim):
            raise EmbeddingError(
                f"Camera means of {self.dim} numbers cannot take {rows.shape[0]} embeddings of "
                f"{rows.shape[1]} by {len(cameras)} cameras."
            )
        return rows
