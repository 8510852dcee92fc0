"""PK batches: P people with K crops each.

Hermans et al., *In defense of the triplet loss*, 2017, section 2; as released in
`PASS_transreid/datasets`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from torch.utils.data import Sampler

from passreid.errors import DatasetError


class PKSampler(Sampler[list[tuple[int, int]]]):
    """Batches of P people with K crops each, fixed by (seed, epoch).

    Each person's crops are shuffled and cut into groups of K, the rest dropped; people with fewer
    than K are drawn with replacement. P people at a time give one group each until fewer than P
    people have one left. The plan is made when the epoch is set, so the length is exact.

    Args:
        labels: Identity of each crop; crops with a negative one are left out.
        people: P, over all processes.
        images_per_person: K.
        batches: Length of an epoch, through the crops as often as that takes; None is once.
        seed: Of the plan; the same on all processes.
        rank, world: This process's share: `people / world` people of every batch.

    Raises:
        DatasetError: Fewer than P people, or P cannot be shared out evenly.
    """

    def __init__(
        self,
        labels: Sequence[int],
        *,
        people: int,
        images_per_person: int,
        batches: int | None = None,
        seed: int = 0,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        if people % world:
            raise DatasetError(f"people ({people}) must be a multiple of the processes ({world}).")
        self._crops = _by_label(labels)
        if len(self._crops) < people:
            raise DatasetError(
                f"The training set has {len(self._crops)} people, a batch needs {people}; "
                "lower people."
            )
        self.people, self.images_per_person, self.seed = people, images_per_person, seed
        self.batches = batches
        self.rank, self.world = rank, world
        self.set_epoch(0)

    def set_epoch(self, epoch: int, *, skip: int = 0) -> None:
        """Plan an epoch; `skip` leaves out batches that a resumed run has already seen."""
        self.epoch, self.skip = epoch, skip
        rng = np.random.default_rng((self.seed, epoch))
        self.plan = self._once(rng)
        while self.batches is not None and len(self.plan) < self.batches:
            self.plan += self._once(rng)
        self.plan = self.plan[: self.batches]

    def _once(self, rng: np.random.Generator) -> list[np.ndarray]:
        """Return batches of indices (P, K), once through the crops."""
        k = self.images_per_person
        groups: list[list[np.ndarray]] = []
        for crops in self._crops:
            drawn = rng.choice(crops, k) if len(crops) < k else rng.permutation(crops)
            groups.append(list(drawn[: len(drawn) // k * k].reshape(-1, k)))
        left = np.arange(len(groups))
        batches = []
        while len(left) >= self.people:
            chosen = rng.choice(left, self.people, replace=False)
            batches.append(np.stack([groups[person].pop(0) for person in chosen]))
            left = np.array([person for person in left if groups[person]], dtype=np.int64)
        return batches

    def __len__(self) -> int:
        """Return the batches left in this epoch."""
        return len(self.plan) - self.skip

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        """Yield this process's part of each batch as (crop, seed of its augmentation) pairs."""
        share = self.people // self.world
        for number in range(self.skip, len(self.plan)):
            mine = self.plan[number][self.rank * share : (self.rank + 1) * share].ravel()
            first = (self.epoch * 2**20 + number) * 2**12 + self.rank * len(mine)
            yield [(int(index), first + i) for i, index in enumerate(mine)]


def _by_label(labels: Sequence[int]) -> list[np.ndarray]:
    order = np.argsort(np.asarray(labels), kind="stable")
    values = np.asarray(labels)[order]
    order, values = order[values >= 0], values[values >= 0]
    if not len(order):
        return []
    return np.split(order, np.flatnonzero(np.diff(values)) + 1)
