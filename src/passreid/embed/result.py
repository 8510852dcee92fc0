"""Embeddings, the images they belong to, and the images that have none."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from passreid.backends import F32


class Skipped(NamedTuple):
    """An image that was left out, and why."""

    name: str
    reason: str


@dataclass(frozen=True, eq=False)
class Embedded:
    """Embeddings, and which images they belong to.

    Attributes:
        embeddings: (N, D) float32, as the network gives them, not of unit length.
        indices: (N,) int64 positions of the rows' images in the input, rising.
        skipped: The images without a row, in order.
    """

    embeddings: F32
    indices: NDArray[np.int64]
    skipped: tuple[Skipped, ...] = ()

    def __len__(self) -> int:
        return len(self.embeddings)
