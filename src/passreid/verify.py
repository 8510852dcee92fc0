"""Compare embeddings by cosine, and decide whether two images show one person."""

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
    """The part of an `Embedder` that `same_person` uses."""

    @property
    def flip(self) -> bool:
        """Whether embeddings are averaged with those of the mirrored images."""

    @property
    def calibration(self) -> Calibration | None:
        """Calibration of the model, if it has one."""

    def __call__(self, images: Any, *, channel_order: ChannelOrder | None = None) -> F32:
        """Embed images: (N, D)."""


def usable_calibration(embedder: Embeds, *, centred: bool = False) -> Calibration:
    """Return a model's calibration if it fits how embeddings are made.

    Raises:
        CalibrationError: There is none, or it was fitted with another `flip` or centring.
    """
    calibration = embedder.calibration
    if calibration is None:
        raise CalibrationError(
            "This model has no calibration, so there are no error rates for its cosines: run "
            "`passreid calibrate ROOT` on crops of your cameras, or use passreid.cosine."
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
    """Compute the cosine of every embedding of `a` with every one of `b`, in [-1, 1].

    Each side is a vector (D,) or rows (N, D). Shapes combine as with `numpy.inner`: two vectors
    give a float, rows and a vector (N,), rows and rows (N, M) float32. The cosine with a zero
    vector is 0.

    Raises:
        EmbeddingError: Inputs are not vectors or rows of finite numbers of one width.
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
        embedder: An `Embedder` whose model has a calibration.
        channel_order: Order of the channels of arrays.
        false_accept_rate: FMR to decide at, one of those that were measured.
        prior: Share of genuine pairs among pairs like this one, for the probability.

    Raises:
        CalibrationError: There is no calibration for these embeddings or for this FMR.
        ImageError: An image cannot be read.
        UsageError: The prior is not between 0 and 1.
    """
    calibration = usable_calibration(embedder)
    first, second = embedder([a, b], channel_order=channel_order)
    similarity = cosine(first, second)
    return calibration.judge(similarity, false_accept_rate=false_accept_rate, prior=prior)


def explain_hit(cosine: float, calibration: Calibration | None, entries: int) -> dict[str, Any]:
    """Return the probability (prior 0.5) and the `Assessment` of a hit as a dict."""
    if calibration is None:
        names = ("probability", *(field.name for field in fields(Assessment)))
        return dict.fromkeys(names)
    chance = calibration.probability(cosine) if calibration.labelled else None
    return {"probability": chance, **asdict(assess(cosine, calibration, entries))}
