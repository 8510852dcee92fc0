"""Retrieval figures for each ordered pair of cameras."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from passreid.labels import UNKNOWN_CAMERA, Labels
from passreid.ranking import Metrics

I64 = NDArray[np.int64]


@dataclass(frozen=True)
class CameraPair:
    """Figures of one camera's queries among another camera's pictures.

    Attributes:
        query, gallery: The cameras, as the data set's files call them.
        num_query: Queries whose person the other camera saw; only these count.
        mAP, rank1: Fractions.
    """

    query: str
    gallery: str
    num_query: int
    mAP: float  # noqa: N815 - the field's own spelling
    rank1: float


def measure_camera_pairs(
    labels: Labels,
    measure_part: Callable[[I64, I64, Labels], Metrics],
    *,
    names: Mapping[int, str],
) -> list[CameraPair]:
    """Measure each ordered pair of known cameras that share a person.

    Args:
        labels: People and cameras of all queries and gallery images.
        measure_part: Measures these query and gallery indices, given their labels.
        names: camid -> name of cameras that are not called by that number.
    """
    pairs = []
    for here in np.unique(labels.query_camids).tolist():
        for there in np.unique(labels.gallery_camids).tolist():
            if here == there or UNKNOWN_CAMERA in (here, there):
                continue
            rows = np.flatnonzero(labels.query_camids == here)
            columns = np.flatnonzero(labels.gallery_camids == there)
            part = Labels(
                labels.query_pids[rows],
                labels.gallery_pids[columns],
                query_clothids=labels.query_clothids[rows],
                gallery_clothids=labels.gallery_clothids[columns],
            )
            if not any(part.split(row)[0].any() for row in range(len(rows))):
                continue
            found = measure_part(rows, columns, part)
            counted = int(np.count_nonzero(found.valid))
            query, gallery = (names.get(camid, str(camid)) for camid in (here, there))
            pairs.append(CameraPair(query, gallery, counted, found.mAP, found.rank(1)))
    return pairs
