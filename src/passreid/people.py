"""Group the unnamed entries of a gallery into people by average linkage."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np

from passreid.errors import UsageError
from passreid.gallery.base import Entry, Where
from passreid.gallery.engine import Gallery
from passreid.openset import Calibration
from passreid.similarity import F32

MAX_ENTRIES = 4000
"""Grouped at once: their distances take 64 MB and a few seconds."""

PAIR_FMR = 0.001
"""False match rate of the cosine at which two groups are joined."""


@dataclass(frozen=True)
class Grouping:
    """People found in a gallery.

    Attributes:
        named: Entries by their person label.
        unnamed: Groups of entries without a label, the largest first.
        threshold: Mean cosine from which two groups were joined.
        left_out: Entries beyond `MAX_ENTRIES`, which were not grouped.
    """

    named: dict[str, list[Entry]]
    unnamed: list[list[Entry]]
    threshold: float
    left_out: int


def group_people(
    gallery: Gallery, calibration: Calibration, *, most: int = MAX_ENTRIES, timeout_s: float = 60.0
) -> Grouping:
    """Group the gallery's entries: labelled ones by their label, the others by their embeddings.

    Raises:
        UsageError: It takes longer than `timeout_s`.
    """
    deadline = time.monotonic() + timeout_s
    named: dict[str, list[Entry]] = {}
    alone: list[Entry] = []
    after, seen = None, 0
    while seen < most:
        page = gallery.page(Where(), limit=min(1000, most - seen), after=after, whole=True)
        seen += len(page.entries)
        for entry in page.entries:
            alone.append(entry) if entry.person is None else named.setdefault(
                entry.person, []
            ).append(entry)
        after = page.next
        if after is None:
            break
        _check_time(deadline)
    fmr = max(PAIR_FMR, calibration.smallest_fmr)
    threshold = calibration.threshold_at(fmr)
    groups: list[list[Entry]] = []
    if alone:
        rows = np.stack([np.asarray(entry.embedding, np.float32) for entry in alone])
        found = average_linkage(rows, threshold, deadline=deadline)
        groups = [[alone[index] for index in group] for group in found]
    left_out = max(gallery.count() - seen, 0)
    return Grouping(named, groups, threshold, left_out)


def average_linkage(
    rows: F32, threshold: float, *, deadline: float | None = None
) -> list[list[int]]:
    """Join unit rows into groups whose mean cosine with each other reaches `threshold`.

    Follows chains of nearest neighbours, which for average linkage gives the same groups as always
    joining the closest pair, in O(N^2). Returns row numbers, the largest group first.
    """
    count = len(rows)
    similarity = rows @ rows.T
    np.fill_diagonal(similarity, -np.inf)
    members = [[index] for index in range(count)]
    size = np.ones(count, np.float32)
    open_ = np.ones(count, bool)
    done: list[list[int]] = []
    chain: list[int] = []
    while open_.any():
        _check_time(deadline)
        if not chain:
            chain.append(int(open_.argmax()))
        at = chain[-1]
        nearest = int(similarity[at].argmax())
        best = similarity[at, nearest]
        if best < threshold:  # no later join brings any group closer than its parts were
            chain.pop()
            done.append(members[at])
            open_[at] = False
            similarity[at] = similarity[:, at] = -np.inf
        elif len(chain) > 1 and similarity[at, chain[-2]] >= best:
            other = chain[-2]
            del chain[-2:]
            total = size[at] + size[other]
            mean = (similarity[at] * size[at] + similarity[other] * size[other]) / total
            mean[other] = -np.inf
            similarity[other] = similarity[:, other] = mean
            similarity[at] = similarity[:, at] = -np.inf
            size[other], open_[at] = total, False
            members[other] += members[at]
        else:
            chain.append(nearest)
    return sorted((sorted(group) for group in done), key=lambda group: (-len(group), group))


def _check_time(deadline: float | None) -> None:
    if deadline is not None and time.monotonic() > deadline:
        raise UsageError("Grouping people took too long; label or forget some pictures first.")
