"""What a score means: false match rate, strangers expected in a search, band, cut.

    calibration.fmr(cosine)              FMR, the share of impostor pairs at least as alike
    assess(cosine, calibration, N)       what a hit with this score means among N entries
    cut(calibration, N, fpir=0.05)       the score from which a search shows hits

Terms are those of ISO/IEC 19795-1. A pair of pictures is genuine (one person) or an impostor pair
(two people). False match rate (FMR, in older papers false accept rate): the share of impostor pairs
that reach a threshold; false non-match rate (FNMR): of genuine pairs that do not; false positive
identification rate (FPIR): of searches for an absent person that return anybody.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal, overload

import numpy as np
from numpy.typing import NDArray

from passreid.errors import CalibrationError, UsageError

F64 = NDArray[np.float64]
Band = Literal["strong", "possible", "weak"]

DEFAULT_FMR = 1e-3
DEFAULT_PRIOR = 0.5
DEFAULT_FPIR = 0.05
"""The cut of a search: at most one search in twenty for an absent person returns anybody."""
STRONG, POSSIBLE = 0.05, 1.0
"""Strangers expected at or above a score, below which a hit is strong or possible."""


@dataclass(frozen=True, kw_only=True)
class OperatingPoint:
    """A threshold and what it costs on the calibration set.

    Attributes:
        false_accept_rate: FMR that was asked for: the share of impostor pairs at or above
            `threshold`.
        threshold: Cosine from which two crops count as the same person.
        true_accept_rate: Share of genuine pairs at or above `threshold` (1 - FNMR, TPR@FAR); None
            when fitted without labels.
    """

    false_accept_rate: float
    threshold: float
    true_accept_rate: float | None = None


@dataclass(frozen=True, kw_only=True)
class Curve:
    """Error rates over the threshold, loosest first; it ends where the pairs end to support it.

    Attributes:
        thresholds: Cosines, rising.
        fmr: Share of impostor pairs at or above each.
        fnmr: Share of genuine pairs below each; empty when fitted without labels.
    """

    thresholds: tuple[float, ...]
    fmr: tuple[float, ...]
    fnmr: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        """Refuse what is no such curve, as a damaged card may hold."""
        at, rates = np.array(self.thresholds), np.array(self.fmr)
        if len(at) != len(rates) or not len(at) or len(self.fnmr) not in (0, len(at)):
            raise ValueError("a curve has one FMR, and one FNMR or none, for each threshold")
        if (np.diff(at) <= 0).any() or (np.diff(rates) > 0).any() or not 0 < rates[-1] <= 1:
            raise ValueError("a curve's thresholds rise and its FMR falls, from 1 to above 0")


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """The decision on one pair; what the calibration does not tell is None.

    Attributes:
        cosine: Of the two embeddings.
        probability: That both show one person, if the share `prior` of all such pairs did.
        same_person: Whether `cosine` reaches `threshold`.
        threshold: Cosine from which two crops count as the same person.
        false_accept_rate: FMR that `threshold` was chosen for.
        false_match_rate: FMR at this very cosine: the share of impostor pairs at least as alike.
        false_match_rate_is_bound: The rate is smaller than that, and too small to be measured.
        prior: Assumed share of genuine pairs, which `probability` rests on.
    """

    cosine: float
    probability: float | None = None
    same_person: bool | None = None
    threshold: float | None = None
    false_accept_rate: float | None = None
    false_match_rate: float | None = None
    false_match_rate_is_bound: bool | None = None
    prior: float | None = None


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """What a model's cosines mean, fitted on crops of a place.

    Attributes:
        slope, intercept: P(same) = 1 / (1 + exp(-(slope * cosine + intercept))), both classes
            weighted alike (a prior of one half); None when fitted without labels.
        points: Operating points, from the loosest FMR to the strictest.
        equal_error_rate: Error where FMR and FNMR are equal; None when fitted without labels.
        equal_error_threshold: The cosine at which they are.
        same_pairs, different_pairs: How many genuine and impostor pairs the fit has seen.
        data: The set it was fitted on.
        flip: Whether the embeddings were averaged with those of the mirrored crops.
        curve: FMR and FNMR over the whole range; None in cards written before there was one.
        contamination: Without labels, the share of the impostor pairs that are genuine after all,
            1 / people. It makes every FMR an upper bound; None where the people are not counted.
        centred: Whether each camera's mean was subtracted first, see `centring`.
        origin: "model" where a published model comes with it, "user" where it was fitted on the
            user's own crops.
    """

    slope: float | None = None
    intercept: float | None = None
    points: tuple[OperatingPoint, ...]
    equal_error_rate: float | None = None
    equal_error_threshold: float | None = None
    same_pairs: int = 0
    different_pairs: int
    data: str
    flip: bool = False
    curve: Curve | None = None
    contamination: float | None = None
    centred: bool = False
    origin: Literal["model", "user"] = "user"

    @overload
    def probability(self, cosine: float, *, prior: float = ...) -> float: ...
    @overload
    def probability(self, cosine: NDArray[Any], *, prior: float = ...) -> F64: ...
    def probability(
        self, cosine: float | NDArray[Any], *, prior: float = DEFAULT_PRIOR
    ) -> float | F64:
        """Turn a cosine, or an array of them, into P(same person).

        The prior is the share of pairs like this one that are genuine: in a search through N
        entries with one of the right person it is 1 / N, not one half.

        Raises:
            CalibrationError: Fitted without labels, which tells nothing about genuine pairs.
            UsageError: A prior that is not between 0 and 1.
        """
        if not 0 < prior < 1:
            raise UsageError(f"The prior is {prior:g}; it must lie between 0 and 1.")
        if self.slope is None or self.intercept is None:
            raise CalibrationError(
                f"The calibration on {self.data} has no labels, so it gives false match rates and "
                "no probability."
            )
        logit = np.float64(self.slope) * np.asarray(cosine, np.float64) + self.intercept
        logit = logit + math.log(prior / (1 - prior))
        chance = np.exp(-np.logaddexp(0, -logit))
        return float(chance) if np.ndim(cosine) == 0 else np.asarray(chance)

    def point(self, false_accept_rate: float) -> OperatingPoint:
        """Return the operating point of an FMR.

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
        """Return the threshold of `point`; raises as it does."""
        return self.point(false_accept_rate).threshold

    @property
    def _knots(self) -> tuple[F64, F64]:
        """(thresholds, FMR), rising and falling."""
        if self.curve is not None:
            return np.array(self.curve.thresholds), np.array(self.curve.fmr)
        known = [(p.threshold, p.false_accept_rate) for p in self.points]
        if self.equal_error_threshold is not None and self.equal_error_rate:
            known.append((self.equal_error_threshold, self.equal_error_rate))
        # Every pair reaches a cosine of -1.
        rising = np.array(sorted([(-1.0, 1.0), *known]))
        return rising[:, 0], np.minimum.accumulate(rising[:, 1])

    @property
    def smallest_fmr(self) -> float:
        """The smallest FMR that the calibration's pairs support."""
        return float(self._knots[1][-1])

    def is_beyond(self, cosine: float) -> bool:
        """Whether a cosine lies beyond the strictest threshold that was measured."""
        return bool(cosine > self._knots[0][-1])

    @property
    def labelled(self) -> bool:
        """Whether it was fitted with identities, and so knows genuine pairs, too."""
        return self.slope is not None

    def fmr(self, cosine: float) -> float:
        """False match rate of a threshold, interpolated in its logarithm.

        Beyond the strictest threshold that was measured it is `smallest_fmr`, an upper bound: the
        curve is not extrapolated.
        """
        thresholds, rates = self._knots
        return float(np.exp(np.interp(cosine, thresholds, np.log(rates))))

    def threshold_at(self, fmr: float) -> float:
        """Smallest cosine whose FMR is at most `fmr`; any rate down to `smallest_fmr` will do.

        Raises:
            CalibrationError: The calibration's pairs do not support so small a rate.
        """
        if fmr < self.smallest_fmr * (1 - 1e-9):
            raise CalibrationError(
                f"The calibration on {self.data} supports false match rates down to "
                f"{self.smallest_fmr:.2g}, not {fmr:.2g}: calibrate on more people."
            )
        thresholds, rates = self._knots
        return float(np.interp(-math.log(fmr), -np.log(rates), thresholds))

    def judge(
        self,
        cosine: float,
        *,
        false_accept_rate: float | None = DEFAULT_FMR,
        prior: float = DEFAULT_PRIOR,
    ) -> Verdict:
        """Decide on one cosine; what the calibration does not tell is None.

        An FMR (`false_accept_rate`) of None decides at 0.001 if that was measured, and else leaves
        the decision out.

        Raises:
            CalibrationError: An FMR is asked for that was not measured.
            UsageError: A prior that is not between 0 and 1.
        """
        threshold, rate = None, false_accept_rate
        if rate is not None:
            threshold = self.threshold(rate)
        elif any(point.false_accept_rate == DEFAULT_FMR for point in self.points):
            threshold, rate = self.threshold(DEFAULT_FMR), DEFAULT_FMR
        return Verdict(
            cosine=float(cosine),
            probability=self.probability(float(cosine), prior=prior) if self.labelled else None,
            same_person=None if threshold is None else bool(cosine >= threshold),
            threshold=threshold,
            false_accept_rate=rate,
            false_match_rate=self.fmr(cosine),
            false_match_rate_is_bound=self.is_beyond(cosine),
            prior=prior if self.labelled else None,
        )


@dataclass(frozen=True, kw_only=True)
class Assessment:
    """What the score of one hit means in a gallery.

    Attributes:
        false_match_rate: FMR at this score.
        expected_strangers: Entries of other people expected at or above this score in a search,
            N x FMR.
        is_bound: Both figures are upper bounds: the score lies beyond what the calibration's pairs
            can measure.
        band: "strong" with fewer than 0.05 strangers expected, "possible" with fewer than 1, else
            "weak".
    """

    false_match_rate: float
    expected_strangers: float
    is_bound: bool
    band: Band


@dataclass(frozen=True, kw_only=True)
class Cut:
    """The score from which a search shows hits.

    Attributes:
        threshold: Smallest cosine shown.
        fpir: Share of searches for an absent person that still return somebody, at most. Above
            what was asked where the calibration's pairs support no stricter threshold.
        false_match_rate: FMR at the threshold.
    """

    threshold: float
    fpir: float
    false_match_rate: float


def assess(cosine: float, calibration: Calibration, entries: int) -> Assessment:
    """Say what a hit means in a gallery of so many entries.

    Args:
        cosine: The hit's score.
        calibration: Of the model that made the embeddings.
        entries: N, how many pictures were searched.
    """
    fmr = calibration.fmr(cosine)
    strangers = entries * fmr
    band: Band = "strong" if strangers < STRONG else "possible" if strangers < POSSIBLE else "weak"
    return Assessment(
        false_match_rate=fmr,
        expected_strangers=strangers,
        is_bound=calibration.is_beyond(cosine),
        band=band,
    )


def cut(calibration: Calibration, entries: int, *, fpir: float = DEFAULT_FPIR) -> Cut:
    """Find the score from which a search of so many entries shows hits.

    FPIR = 1 - (1 - FMR)^N holds for entries that are independent. Pictures of one person are not,
    so the rate that is met in practice is lower, the lower the more pictures a person has.

    Args:
        calibration: Of the model that made the embeddings.
        entries: N, how many pictures are searched.
        fpir: Accepted share of searches for an absent person that return somebody.

    Raises:
        UsageError: An FPIR that is not between 0 and 1.
    """
    if not 0 < fpir < 1:
        raise UsageError(f"The FPIR is {fpir:g}; it must lie between 0 and 1.")
    entries = max(entries, 1)
    wanted = -math.expm1(math.log1p(-fpir) / entries)
    fmr = max(wanted, calibration.smallest_fmr)
    promised = fpir if fmr == wanted else -math.expm1(entries * math.log1p(-min(fmr, 1 - 1e-12)))
    return Cut(threshold=calibration.threshold_at(fmr), fpir=promised, false_match_rate=fmr)
