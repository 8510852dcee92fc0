"""Who is on each image, and what therefore counts for a query."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike, NDArray

from passreid.errors import DatasetError

Bool = NDArray[np.bool_]
I64 = NDArray[np.int64]

JUNK = -1
UNKNOWN_CAMERA = -1
UNKNOWN_CLOTHES = -1


class Labels:
    """Who is on each image and which camera took it; decides what counts for a query.

    The rules of Market-1501 (Zheng et al. 2015): gallery images of pid -1 (junk) never count, and
    those of the query's own person by the query's own camera do not count for that query.
    Distractors need no rule: no query carries their pid, so they are wrong answers.

    Args:
        query_pids: (Q,) integers.
        gallery_pids: (G,) integers.
        query_camids: (Q,) integers, -1 = unknown, which equals no other; None = all unknown.
        gallery_camids: (G,) integers, given together with `query_camids` or not at all.
        camera_filter: False counts the query's own camera too.
        query_clothids: (Q,) integers, what each person wears, -1 = unknown; where given, gallery
            images of the query's person in the same clothes do not count for that query either.
        gallery_clothids: (G,) integers, given together with `query_clothids` or not at all.
        people: pid -> the name to call it by in messages; a pid without one is its number.

    Raises:
        DatasetError: Labels that are not 1-D integers, of unequal lengths, or on one side only.
    """

    def __init__(
        self,
        query_pids: ArrayLike,
        gallery_pids: ArrayLike,
        *,
        query_camids: ArrayLike | None = None,
        gallery_camids: ArrayLike | None = None,
        camera_filter: bool = True,
        query_clothids: ArrayLike | None = None,
        gallery_clothids: ArrayLike | None = None,
        people: Mapping[int, str] | None = None,
    ) -> None:
        if (query_camids is None) != (gallery_camids is None):
            raise DatasetError("Cameras of only one of query and gallery: give both or neither.")
        self.query_pids = _integers("query_pids", query_pids)
        self.gallery_pids = _integers("gallery_pids", gallery_pids)
        self.query_camids = _integers("query_camids", query_camids, self.query_pids)
        self.gallery_camids = _integers("gallery_camids", gallery_camids, self.gallery_pids)
        self.camera_filter = camera_filter
        self.query_clothids = _integers("query_clothids", query_clothids, self.query_pids)
        self.gallery_clothids = _integers("gallery_clothids", gallery_clothids, self.gallery_pids)
        self.people = dict(people or {})

    def check(self, queries: int, gallery: int) -> None:
        """Raise DatasetError unless these are the labels of so many images."""
        have = len(self.query_pids), len(self.gallery_pids)
        if have != (queries, gallery):
            raise DatasetError(
                f"Labels of {have[0]} queries and {have[1]} gallery images were given for "
                f"{queries} queries and {gallery} gallery images."
            )

    def split(self, query: int) -> tuple[Bool, Bool]:
        """(G,) masks of one query's positives, and of the images that do not count for it."""
        same = self.gallery_pids == self.query_pids[query]
        ignored = self.gallery_pids == JUNK
        camera = self.query_camids[query]
        if self.camera_filter and camera != UNKNOWN_CAMERA:
            ignored |= same & (self.gallery_camids == camera)
        clothes = self.query_clothids[query]
        if clothes != UNKNOWN_CLOTHES:
            ignored |= same & (self.gallery_clothids == clothes)
        return same & ~ignored, ignored


def _integers(name: str, values: ArrayLike | None, like: I64 | None = None) -> I64:
    """Labels as int64; None is unknown (-1) for each entry of `like`, whose length they share."""
    if values is None and like is not None:
        return np.full(len(like), UNKNOWN_CAMERA)
    array = np.asarray(values)
    if array.ndim != 1 or array.dtype.kind not in "iu" or array.max(initial=0) >= 2**63:
        raise DatasetError(
            f"{name} must be a list of integers of at most 64 bits, one for each image."
        )
    if like is not None and len(array) != len(like):
        raise DatasetError(f"{name} has {len(array)} entries for {len(like)} pids.")
    return array.astype(np.int64)
