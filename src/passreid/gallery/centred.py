"""Search with each camera's mean embedding subtracted, over vectors that are stored as they are.

For a query q of camera a and a stored vector v of camera c, with means m, the score is the cosine
of q - m_a and v - m_c. With q' of unit length that is (q'·v - q'·m_c) / |v - m_c|, so a search
needs one number for each entry, |v - m_c|, besides the vectors.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from passreid.centring import CameraMeans
from passreid.gallery.vectors import F16, Mask, Nearest
from passreid.similarity import F32, I64, unit_rows

_CHUNK = 16_384


class CentredIndex:
    """Camera means of a gallery's entries, and their vectors' lengths after subtracting them.

    Args:
        rows: (N, D) unit vectors.
        cameras: (N,) hash of each entry's camera.
        known: (N,) whether the camera is known.
        alive: (N,) which entries count.
    """

    def __init__(self, rows: F16, cameras: I64, known: Mask, alive: Mask) -> None:
        self._rows = rows
        names, self._camera = np.unique(cameras, return_inverse=True)
        sums = np.zeros((len(names), rows.shape[1]))
        counts = np.bincount(self._camera[known & alive], minlength=len(names))
        for start, chunk in self._chunks(np.arange(len(rows))):
            counted = (known & alive)[start : start + len(chunk)]
            camera = self._camera[start : start + len(chunk)]
            for number in np.unique(camera[counted]).tolist():
                sums[number] += chunk[counted & (camera == number)].sum(axis=0)
        self.means = CameraMeans.of(
            rows.shape[1],
            {
                name: (int(count), total)
                for name, count, total in zip(names.tolist(), counts, sums, strict=True)
                if count
            },
        )
        self._mean = np.array([self.means.mean(name) for name in names.tolist()], np.float32)
        self._mean = self._mean.reshape(-1, rows.shape[1])
        self._length = np.ones(len(rows), np.float32)
        for start, chunk in self._chunks(np.arange(len(rows))):
            camera = self._camera[start : start + len(chunk)]
            lengths = np.linalg.norm(chunk - self._mean[camera], axis=1)
            self._length[start : start + len(chunk)] = np.maximum(lengths, 1e-6)

    def centre(self, queries: F32, camera: int | None) -> F32:
        """Subtract a camera's mean from unit queries (T, D); None takes the mean of all."""
        return unit_rows(queries - self.means.mean(camera).astype(np.float32), "the query")

    def centre_rows(self, positions: I64) -> F32:
        """Return the centred unit vectors at some positions, (N, D)."""
        rows = self._rows[positions].astype(np.float32)
        centred: F32 = rows - self._mean[self._camera[positions]]
        centred /= self._length[positions, None]
        return centred

    def search(self, queries: F32, limit: int, *, kept: Mask | None) -> list[Nearest]:
        """Compare centred queries (T, D) with every entry that is kept (None: all), best first."""
        chosen = np.arange(len(self._rows)) if kept is None else np.flatnonzero(kept)
        limit = min(limit, len(chosen))
        scores = np.empty((len(queries), len(chosen)), np.float32)
        shift = queries @ self._mean.T
        for start, chunk in self._chunks(chosen):
            at = chosen[start : start + len(chunk)]
            products = queries @ chunk.T - shift[:, self._camera[at]]
            scores[:, start : start + len(chunk)] = products / self._length[at]
        return [self._best(chosen, own, limit) for own in scores]

    @staticmethod
    def _best(chosen: I64, scores: NDArray[np.float32], limit: int) -> Nearest:
        if limit < len(chosen):
            part = np.argpartition(-scores, limit - 1)[:limit] if limit else np.arange(0)
            chosen, scores = chosen[part], scores[part]
        order = np.lexsort((chosen, -scores))
        return Nearest(chosen[order], np.clip(scores[order], -1, 1))

    def _chunks(self, positions: I64) -> Iterator[tuple[int, F32]]:
        """Yield (start, float32 rows) of some positions, in bounded memory."""
        for start in range(0, len(positions), _CHUNK):
            yield start, self._rows[positions[start : start + _CHUNK]].astype(np.float32)
