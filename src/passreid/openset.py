"""Open-set error rates (ISO/IEC 19795-1): FMR of a cosine, bands of hits, cut of a search.

calibration.fmr(cosine)              share of impostor pairs (two people) at least as similar
assess(cosine, calibration, N)       expected strangers and band of a hit among N entries
cut(calibration, N, fpir=0.05)       threshold that keeps a false positive identification rate
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
STRONG, POSSIBLE = 0.05, 1.0
"""A hit is strong or possible if fewer strangers than this are expected at or above its score."""


@dataclass(frozen=True, kw_only=True)
class OperatingPoint:
    """A threshold and its error rates on the calibration set.

    Attributes:
        false_accept_rate: Requested FMR: the share of impostor pairs at or above `threshold`.
        threshold: Smallest cosine that counts as the same person.
        true_accept_rate: Share of genuine pairs at or above `threshold` (1 - FNMR); None when
            fitted without labels.
    """

    false_accept_rate: float
    threshold: float
    true_accept_rate: float | None = None


@dataclass(frozen=True, kw_only=True)
class Curve:
    """Error rates by rising threshold, up to the last that enough pairs support.

    Attributes:
        thresholds: Cosines.
        fmr: Share of impostor pairs at or above each.
        fnmr: Share of genuine pairs below each; empty when fitted without labels.
    """

    thresholds: tuple[float, ...]
    fmr: tuple[float, ...]
    fnmr: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        """Reject curves out of order, which a damaged card may hold."""
        at, rates = np.array(self.thresholds), np.array(self.fmr)
        if len(at) != len(rates) or not len(at) or len(self.fnmr) not in (0, len(at)):
            raise ValueError("a curve has one FMR, and one FNMR or none, for each threshold")
        if (np.diff(at) <= 0).any() or (np.diff(rates) > 0).any() or not 0 < rates[-1] <= 1:
            raise ValueError("a curve's thresholds rise and its FMR falls, from 1 to above 0")


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """The decision on one pair; figures that the calibration does not provide are None.

    Attributes:
        cosine: Cosine of the two embeddings.
        probability: Probability that both show one person, given `prior`.
        same_person: Whether `cosine` reaches `threshold`.
        threshold: Smallest cosine that counts as the same person.
        false_accept_rate: FMR that `threshold` was chosen for.
        false_match_rate: FMR at this cosine: the share of impostor pairs at least as similar.
        false_match_rate_is_bound: Whether that rate is an upper bound, too small to be measured.
        prior: Assumed share of genuine pairs among pairs like this one.
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
    """Error rates and probabilities of a model's cosines, fitted on crops of a place.

    Attributes:
        slope, intercept: P(same) = 1 / (1 + exp(-(slope * cosine + intercept))) at a prior of 0.5;
            None when fitted without labels.
        points: Operating points, from the highest FMR to the lowest.
        equal_error_rate: FMR where it equals FNMR; None when fitted without labels.
        equal_error_threshold: Cosine at the equal error rate.
        same_pairs, different_pairs: Numbers of genuine and impostor pairs.
        data: The set it was fitted on.
        flip: Whether embeddings were averaged with those of the mirrored crops.
        curve: FMR and FNMR over the whole range; None in cards of earlier versions.
        contamination: Without labels, the share of genuine pairs among those counted as impostor
            pairs, 1 / people: FMRs are upper bounds. None if the number of people is unknown.
        centred: Whether each camera's mean was subtracted first, see `centring`.
        origin: "model" if it came with a published model, "user" if fitted on the user's crops.
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
        """Convert cosines to the probability that both crops show one person.

        The prior is the share of pairs like this one that are genuine: 1 / N, not 0.5, in a search
        through N entries of which one shows the person.

        Raises:
            CalibrationError: The calibration was fitted without labels.
            UsageError: The prior is not between 0 and 1.
        """
        if not 0 < prior < 1:
            raise UsageError(f"The prior is {prior:g}; it must lie between 0 and 1.")
        if self.slope is None or self.intercept is None:
            raise CalibrationError(
                f"The calibration on {self.data} was fitted without labels, so it gives false "
                "match rates but no probability."
            )
        logit = np.float64(self.slope) * np.asarray(cosine, np.float64) + self.intercept
        logit = logit + math.log(prior / (1 - prior))
        chance = np.exp(-np.logaddexp(0, -logit))
        return float(chance) if np.ndim(cosine) == 0 else np.asarray(chance)

    def point(self, false_accept_rate: float) -> OperatingPoint:
        """Return the operating point of an FMR; CalibrationError if it was not measured."""
        for point in self.points:
            if np.isclose(point.false_accept_rate, false_accept_rate, rtol=1e-6, atol=0):
                return point
        measured = ", ".join(f"{point.false_accept_rate:g}" for point in self.points) or "none"
        raise CalibrationError(
            f"No threshold is known for a false-accept rate of {false_accept_rate:g}; measured on "
            f"{self.data}: {measured}. Calibrate on more people for a stricter one."
        )

    def threshold(self, false_accept_rate: float) -> float:
        """Return the threshold of an FMR; CalibrationError if it was not measured."""
        return self.point(false_accept_rate).threshold

    @property
    def _knots(self) -> tuple[F64, F64]:
        """Thresholds, rising, and their FMR, falling."""
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
        """Smallest FMR that the calibration's pairs support."""
        return float(self._knots[1][-1])

    def is_beyond(self, cosine: float) -> bool:
        """Whether a cosine is above the highest threshold that was measured."""
        return bool(cosine > self._knots[0][-1])

    @property
    def labelled(self) -> bool:
        """Whether it was fitted with identities, so that genuine pairs are known, too."""
        return self.slope is not None

    def fmr(self, cosine: float) -> float:
        """Return the FMR of a threshold, interpolated on a log scale.

        Above the highest threshold that was measured it is `smallest_fmr`, an upper bound: the
        curve is not extrapolated.
        """
        thresholds, rates = self._knots
        return float(np.exp(np.interp(cosine, thresholds, np.log(rates))))

    def threshold_at(self, fmr: float) -> float:
        """Return the smallest cosine whose FMR is at most `fmr`.

        Raises:
            CalibrationError: `fmr` is below `smallest_fmr`.
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
        """Decide whether a cosine means one person.

        With a `false_accept_rate` (FMR) of None it decides at 0.001 if that was measured, and
        otherwise leaves the decision out.

        Raises:
            CalibrationError: The requested FMR was not measured.
            UsageError: The prior is not between 0 and 1.
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
    """Error rates of one hit in a gallery.

    Attributes:
        false_match_rate: FMR at this score.
        expected_strangers: N x FMR: entries of other people expected at or above this score.
        is_bound: Whether both figures are upper bounds, too small to be measured.
        band: "strong" below 0.05 expected strangers, "possible" below 1, else "weak".
    """

    false_match_rate: float
    expected_strangers: float
    is_bound: bool
    band: Band


@dataclass(frozen=True, kw_only=True)
class Cut:
    """The threshold of a search.

    Attributes:
        threshold: Smallest cosine that is a hit.
        fpir: Upper bound on the share of searches for an absent person that return somebody. Higher
            than requested where the calibration's pairs support no stricter threshold.
        false_match_rate: FMR at the threshold.
    """

    threshold: float
    fpir: float
    false_match_rate: float


def assess(cosine: float, calibration: Calibration, entries: int) -> Assessment:
    """Compute the expected strangers and the band of a hit among `entries` pictures."""
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
    """Find the threshold at which a search through `entries` pictures keeps an FPIR.

    FPIR = 1 - (1 - FMR)^N assumes independent entries. Pictures of one person are similar, so the
    measured FPIR is lower, the more so the more pictures each person has.

    Raises:
        UsageError: The FPIR is not between 0 and 1.
    """
    if not 0 < fpir < 1:
        raise UsageError(f"The FPIR is {fpir:g}; it must lie between 0 and 1.")
    entries = max(entries, 1)
    wanted = -math.expm1(math.log1p(-fpir) / entries)
    fmr = max(wanted, calibration.smallest_fmr)
    promised = fpir if fmr == wanted else -math.expm1(entries * math.log1p(-min(fmr, 1 - 1e-12)))
    return Cut(threshold=calibration.threshold_at(fmr), fpir=promised, false_match_rate=fmr)
