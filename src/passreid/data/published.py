"""Sizes of the published data sets, to notice a download that is not whole."""

from __future__ import annotations

from collections.abc import Mapping

from passreid.data.dataset import SubsetCounts

# kind -> subset -> (people, images). Market-1501: Zheng et al. 2015, gallery without junk, people
# without distractors. MSMT17: Wei et al. 2018 with list_val inside train. DukeMTMC-reID: Zheng et
# al. 2017. Occluded-Duke: Miao et al. 2019, counted from its lists. CUHK03-NP: Zhong et al. 2017.
_MSMT17 = {"train": (1041, 32621), "query": (3060, 11659), "gallery": (3060, 82161)}
PUBLISHED: Mapping[str, Mapping[str, tuple[int, int]]] = {
    "market1501": {"train": (751, 12936), "query": (750, 3368), "gallery": (750, 15913)},
    "msmt17": _MSMT17,
    "msmt17-v2": _MSMT17,
    "dukemtmc": {"train": (702, 16522), "query": (702, 2228), "gallery": (1110, 17661)},
    "occluded-duke": {"train": (702, 15618), "query": (519, 2210), "gallery": (1110, 17661)},
    "cuhk03-np/labeled": {"train": (767, 7368), "query": (700, 1400), "gallery": (700, 5328)},
    "cuhk03-np/detected": {"train": (767, 7365), "query": (700, 1400), "gallery": (700, 5332)},
}
# Where no subset comes near its published size, the set is a sample of the published one or another
# set in the same layout, and no count says anything about it.
_NEAR = 0.8


def compare_with_published(name: str, counts: list[SubsetCounts]) -> list[str]:
    """Say where a set that looks like a full published one differs from it.

    Args:
        name: A key of `PUBLISHED`; any other name gives no notes.
        counts: `ReIDDataset.summary`.
    """
    known = PUBLISHED.get(name, {})
    present = [row for row in counts if row.images and row.subset in known]
    ratios = [row.images / known[row.subset][1] for row in present]
    if not any(_NEAR <= ratio <= 1 / _NEAR for ratio in ratios):
        return []
    return [
        f"{row.subset}: {found:,} {what}, the published set has {expected:,}"
        for row in present
        for what, found, expected in (
            ("people", row.people, known[row.subset][0]),
            ("images", row.images, known[row.subset][1]),
        )
        if found != expected
    ]
