"""Grouping entries into people."""

from __future__ import annotations

import time

import numpy as np
import pytest

from passreid.errors import UsageError
from passreid.people import average_linkage


def _merge_closest_pairs(rows: np.ndarray, threshold: float) -> list[list[int]]:
    """Average linkage by its definition, in O(N^4)."""
    groups = [[index] for index in range(len(rows))]
    similarity = rows @ rows.T
    while len(groups) > 1:
        score, a, b = max(
            (float(similarity[np.ix_(groups[a], groups[b])].mean()), a, b)
            for a in range(len(groups))
            for b in range(a)
        )
        if score < threshold:
            break
        groups[b] = sorted(groups[b] + groups[a])
        del groups[a]
    return sorted(groups, key=lambda group: (-len(group), group))


@pytest.mark.parametrize("threshold", [0.1, 0.3, 0.6])
def test_groups_equal_those_of_joining_the_closest_pair_first(threshold: float) -> None:
    rng = np.random.default_rng(3)
    rows = np.repeat(rng.normal(size=(8, 16)), 5, axis=0) + rng.normal(size=(40, 16))
    rows = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    assert average_linkage(rows, threshold) == _merge_closest_pairs(rows, threshold)


def test_grouping_ends_at_its_deadline() -> None:
    with pytest.raises(UsageError, match="took too long"):
        average_linkage(np.eye(5, dtype=np.float32), 0.5, deadline=time.monotonic() - 1)
