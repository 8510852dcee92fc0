"""Same person or not: cosine, calibrated probability, thresholds at given false-accept rates.

    cosine(a, b)                                  how alike two embeddings are
    calibration.judge(cosine)       -> Verdict    probability and decision for one cosine
    same_person(a, b, embedder)     -> Verdict    the same from two images

`calibration.fit_calibration` makes a `Calibration` from a labelled set.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, Protocol, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray

from passreid.errors import CalibrationError, EmbeddingError
from passreid.similarity import product_blocks, unit_rows

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
ChannelOrder = Literal["rgb", "bgr"]


@dataclass(frozen=True, kw_only=True)
class OperatingPoint:
    """A threshold and what it costs on the calibration set.

    Attributes:
        false_accept_rate: Asked share of different-person pairs at or above `threshold`.
        threshold: Cosine from which two crops count as the same person.
        true_accept_rate: Share of same-person pairs at or above `threshold` (TPR@FAR).
    """

    false_accept_rate: float
    threshold: float
    true_accept_rate: float


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """One decision.

    Attributes:
        cosine: Of the two embeddings.
        probability: That both show one person, if half of all pairs did.
        same_person: Whether `cosine` reaches `threshold`.
        threshold: The cosine that was asked for.
        false_accept_rate: Share of different-person pairs that reach it on the calibration set.
    """

    cosine: float
    probability: float
    same_person: bool
    threshold: float
    false_accept_rate: float


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """What a model's cosines mean, fitted on a labelled set.

    Attributes:
        slope, intercept: P(same) = 1 / (1 + exp(-(slope * cosine + intercept))), both classes
            weighted alike (a prior of one half).
        points: Operating points, from the loosest false-accept rate to the strictest.
        equal_error_rate: Error where false accepts and false rejects are equal.
        equal_error_threshold: The cosine at which they are.
        same_pairs, different_pairs: How many pairs of each kind the fit has seen.
        data: The set it was fitted on.
        flip: Whether the embeddings were averaged with those of the mirrored crops.
    """

    slope: float
    intercept: float
    points: tuple[OperatingPoint, ...]
    equal_error_rate: float
    equal_error_threshold: float
    same_pairs: int
    different_pairs: int
    data: str
    flip: bool = False

    @overload
    def probability(self, cosine: float) -> float: ...
    @overload
    def probability(self, cosine: NDArray[Any]) -> F64: ...
    def probability(self, cosine: float | NDArray[Any]) -> float | F64:
        """Turn a cosine, or an array of them, into P(same person) with a prior of one half."""
        logit = np.float64(self.slope) * np.asarray(cosine, np.float64) + self.intercept
        chance = np.exp(-np.logaddexp(0, -logit))
        return float(chance) if np.ndim(cosine) == 0 else np.asarray(chance)

    def point(self, false_accept_rate: float) -> OperatingPoint:
        """Return the operating point of a rate.

        Raises:
            CalibrationError: That rate was not measured; the message lists those that were.
        """
        for point in self.points:
            if np.isclose(point.false_accept_rate, false_accept_rate, rtol=1e-6, atol=0):
                return point
        measured = ", ".join(f"{point.false_accept_rate:g}" for point in self.points) or "none"
        raise CalibrationError(
            f"No threshold is known for a false-accept rate of {false_accept_rate:g}; measured on "
            f"{self.data}: {measured}. Calibrate on more people for a stricter one."
        )

    def threshold(self, false_accept_rate: float) -> float:
        """Return the cosine from which two crops count as one person, at a measured rate.

        Raises:
            CalibrationError: As for `point`.
        """
        return self.point(false_accept_rate).threshold

    def judge(self, cosine: float, *, false_accept_rate: float = 1e-3) -> Verdict:
        """Decide on one cosine.

        Raises:
            CalibrationError: As for `point`.
        """
        threshold = self.threshold(false_accept_rate)
        return Verdict(
            cosine=float(cosine),
            probability=self.probability(float(cosine)),
            same_person=bool(cosine >= threshold),
            threshold=threshold,
            false_accept_rate=false_accept_rate,
        )


class Embeds(Protocol):
    """What `same_person` needs of an `Embedder`."""

    @property
    def flip(self) -> bool:
        """Whether embeddings are averaged with those of the mirrored images."""

    @property
    def calibration(self) -> Calibration | None:
        """What its cosines mean, if it is known."""

    def __call__(self, images: Any, *, channel_order: ChannelOrder | None = None) -> F32:
        """Embed images: (N, D)."""


def cosine(a: ArrayLike, b: ArrayLike) -> Any:
    """Cosine of every embedding of `a` with every one of `b`, in [-1, 1].

    Each side is one vector (D,) or rows (N, D); the result has one axis for each side that has
    rows, as with `numpy.inner`: a float for two vectors, (N,) for rows and a vector, (N, M) float32
    for rows and rows. A vector of zeros has a cosine of 0 with everything; identical rows have
    identical cosines.

    Raises:
        EmbeddingError: Not one or two axes of numbers, two widths, NaN or infinity.
    """
    left, right = _unit(a, "a"), _unit(b, "b")
    if left.shape[-1] != right.shape[-1]:
        raise EmbeddingError(
            f"Embeddings of {left.shape[-1]} and {right.shape[-1]} numbers cannot be compared: "
            "embed both with the same model."
        )
    rows, columns = np.atleast_2d(left), np.atleast_2d(right)
    table = np.empty((len(rows), len(columns)), np.float32)
    for start, block in product_blocks(rows, columns):
        np.clip(block, -1, 1, out=table[start : start + len(block)])
    shaped = table.reshape(left.shape[:-1] + right.shape[:-1])
    return shaped if shaped.ndim else float(shaped)


def _unit(embeddings: ArrayLike, name: str) -> F32:
    """`unit_rows`, and one vector (D,) as one."""
    try:
        single = np.ndim(embeddings) == 1
    except ValueError:  # rows of several lengths, which `unit_rows` puts into words
        single = False
    if single:
        row: F32 = unit_rows(np.asarray(embeddings)[None], name)[0]
        return row
    return unit_rows(embeddings, name)


def same_person(
    a: Any,
    b: Any,
    embedder: Embeds,
    *,
    channel_order: ChannelOrder | None = None,
    false_accept_rate: float = 1e-3,
) -> Verdict:
    """Decide whether two images show one person.

    Args:
        a, b: Images in any form the embedder takes.
        embedder: An `Embedder` whose model was calibrated.
        channel_order: Order of the channels of arrays.
        false_accept_rate: Accepted share of different people taken for one person.

    Raises:
        CalibrationError: The model was never calibrated, or with another `flip`, or not for this
            rate.
        ImageError: An image cannot be read.
    """
    calibration = embedder.calibration
    if calibration is None:
        raise CalibrationError(
            "This model was never calibrated, so its cosines have no known meaning: run "
            "`passreid calibrate ROOT` on a labelled set once, or use passreid.cosine."
        )
    if calibration.flip != embedder.flip:
        raise CalibrationError(
            f"The calibration was fitted with flip={calibration.flip} and the embedder runs with "
            f"flip={embedder.flip}, which shifts cosines: load the model with "
            f"flip={calibration.flip}, or calibrate again."
        )
    first, second = embedder([a, b], channel_order=channel_order)
    return calibration.judge(cosine(first, second), false_accept_rate=false_accept_rate)
