"""Same person or not: cosine, false match rate, thresholds, and a probability with its prior.

    cosine(a, b)                               how alike two embeddings are
    calibration.judge(cosine)   -> Verdict     the decision on one cosine
    same_person(a, b, embedder) -> Verdict     the same from two images

`calibration.fit_calibration` makes a `Calibration` from a labelled set, `fit_unlabelled` from crops
without identities; `openset` explains its terms.
"""

from __future__ import annotations

from dataclasses import asdict, fields
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from passreid.errors import CalibrationError, EmbeddingError
from passreid.openset import DEFAULT_FMR, DEFAULT_PRIOR, Assessment, assess
from passreid.openset import Calibration as Calibration
from passreid.openset import OperatingPoint as OperatingPoint
from passreid.openset import Verdict as Verdict
from passreid.similarity import product_blocks, unit_rows

F32 = NDArray[np.float32]
ChannelOrder = Literal["rgb", "bgr"]


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


def usable_calibration(embedder: Embeds, *, centred: bool = False) -> Calibration:
    """Return the calibration of a model that fits the way it embeds.

    Args:
        embedder: A loaded model.
        centred: Whether each camera's mean is subtracted from its embeddings.

    Raises:
        CalibrationError: The model was never calibrated, or for embeddings of another kind.
    """
    calibration = embedder.calibration
    if calibration is None:
        raise CalibrationError(
            "This model was never calibrated, so its cosines have no known meaning: run "
            "`passreid calibrate ROOT` on crops of your cameras once, or use passreid.cosine."
        )
    if calibration.flip != embedder.flip:
        how = "with" if calibration.flip else "without"
        raise CalibrationError(
            f"The calibration was fitted {how} --flip, with flip={calibration.flip} and the "
            f"embedder runs with flip={embedder.flip}, which shifts cosines: load the model with "
            f"flip={calibration.flip}, or calibrate again."
        )
    if calibration.centred != centred:
        how = "with" if calibration.centred else "without"
        raise CalibrationError(
            f"The calibration was fitted {how} camera centring (--centre-on), which shifts "
            "cosines: use it the same way, or calibrate again."
        )
    return calibration


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
    false_accept_rate: float = DEFAULT_FMR,
    prior: float = DEFAULT_PRIOR,
) -> Verdict:
    """Decide whether two images show one person.

    Args:
        a, b: Images in any form the embedder takes.
        embedder: An `Embedder` whose model was calibrated.
        channel_order: Order of the channels of arrays.
        false_accept_rate: Accepted FMR: share of pairs of different people taken for one person.
        prior: Share of pairs like this one that show one person, for the probability.

    Raises:
        CalibrationError: The model was never calibrated, or with another `flip`, or not for this
            rate.
        ImageError: An image cannot be read.
        UsageError: A prior that is not between 0 and 1.
    """
    calibration = usable_calibration(embedder)
    first, second = embedder([a, b], channel_order=channel_order)
    similarity = cosine(first, second)
    return calibration.judge(similarity, false_accept_rate=false_accept_rate, prior=prior)


def explain_hit(cosine: float, calibration: Calibration | None, entries: int) -> dict[str, Any]:
    """Say what a hit's score means among so many entries, as plain data.

    Args:
        cosine: The hit's score.
        calibration: Of the model that made the embeddings; None is unknown.
        entries: How many pictures were searched.

    Returns:
        probability (at a prior of one half), false_match_rate, expected_strangers, is_bound and
        band, see `openset.Assessment`; None where the calibration does not tell.
    """
    if calibration is None:
        names = ("probability", *(field.name for field in fields(Assessment)))
        return dict.fromkeys(names)
    chance = calibration.probability(cosine) if calibration.labelled else None
    return {"probability": chance, **asdict(assess(cosine, calibration, entries))}
