"""Same person or not: cosine, calibrated probability, thresholds at given false-accept rates."""

from __future__ import annotations

from dataclasses import dataclass


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
