"""PK batches: P people with K crops each.

Hermans et al., *In defense of the triplet loss*, 2017, section 2; as released in
`PASS_transreid/datasets`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
from torch.utils.data import Sampler

from passreid.errors import DatasetError


class PKSampler(Sampler[list[tuple[int, int]]]):
    """Batches of P people with K crops each, determined by (seed, epoch).

    Each person's crops are shuffled and cut into groups of K, the rest dropped; people with fewer
    than K crops are drawn with replacement. P people at a time give one group each until fewer than
    P people have one left. The plan is made when the epoch is set, so the length is exact.

    Args:
        labels: Identity of each crop; crops with a negative one are left out.
        people: P, over all processes.
        images_per_person: K.
        set_of: Index of each crop's data set; None is one set.
        weights: Passes through each data set's crops per epoch; () is one each.
        separate: Draw each batch from one data set instead of mixing their people.
        batches: Length of an epoch, in as many passes as that takes; None is one pass.
        seed: Seed of the plan; the same on all processes.
        rank, world: This process's share: `people / world` people of every batch.

    Raises:
        DatasetError: Fewer than P people, P is not a multiple of the processes, or not one weight
            per data set.
    """

    def __init__(
        self,
        labels: Sequence[int],
        *,
        people: int,
        images_per_person: int,
        set_of: Sequence[int] | None = None,
        weights: Sequence[float] = (),
        separate: bool = False,
        batches: int | None = None,
        seed: int = 0,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        if people % world:
            raise DatasetError(f"people ({people}) must be a multiple of the processes ({world}).")
        self._crops = _by_label(labels)
        of = np.zeros(len(labels), np.int64) if set_of is None else np.asarray(set_of)
        sets = [int(of[crops[0]]) for crops in self._crops]
        count = 1 + max(sets, default=0)
        if weights and len(weights) != count:
            raise DatasetError(f"{len(weights)} set_weights for {count} data sets; name one each.")
        self._weights = [weights[number] if weights else 1.0 for number in sets]
        # People who may share a batch.
        self._pools = [np.flatnonzero(np.array(sets) == n) for n in range(count)]
        if not separate:
            self._pools = [np.arange(len(sets))]
        fewest = min(map(len, self._pools))
        if fewest < people:
            raise DatasetError(
                f"The training set has {fewest} people, a batch needs {people}; lower --people."
            )
        self.people, self.images_per_person, self.seed = people, images_per_person, seed
        self.batches, self.rank, self.world = batches, rank, world
        self.set_epoch(0)

    def set_epoch(self, epoch: int, *, skip: int = 0) -> None:
        """Plan an epoch; `skip` leaves out batches that a resumed run has already seen."""
        self.epoch, self.skip = epoch, skip
        rng = np.random.default_rng((self.seed, epoch))
        self.plan = self._pass(rng)
        while self.batches is not None and len(self.plan) < self.batches:
            self.plan += self._pass(rng)
        self.plan = self.plan[: self.batches]

    def _pass(self, rng: np.random.Generator) -> list[np.ndarray]:
        """Return the batches (P, K) of one weighted pass through the crops."""
        pairs = zip(self._crops, self._weights, strict=True)
        groups = [self._groups(crops, weight, rng) for crops, weight in pairs]
        batches = [batch for pool in self._pools for batch in self._deal(groups, pool, rng)]
        if len(self._pools) > 1:
            batches = [batches[i] for i in rng.permutation(len(batches))]
        return batches

    def _groups(
        self, crops: np.ndarray, weight: float, rng: np.random.Generator
    ) -> list[np.ndarray]:
        """Cut a person's shuffled crops into groups of K, `weight` times over on average."""
        k = self.images_per_person
        groups: list[np.ndarray] = []
        for _ in range(math.ceil(weight)):
            drawn = rng.choice(crops, k) if len(crops) < k else rng.permutation(crops)
            groups += list(drawn[: len(drawn) // k * k].reshape(-1, k))
        if weight != 1:
            wanted = len(groups) * weight / math.ceil(weight)
            groups = groups[: int(wanted + rng.random())]
        return groups

    def _deal(
        self, groups: list[list[np.ndarray]], pool: np.ndarray, rng: np.random.Generator
    ) -> list[np.ndarray]:
        """Take one group of each of P people until fewer than P have one left."""
        left = np.array([person for person in pool if groups[person]], dtype=np.int64)
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
    return np.split(order, np.flatnonzero(np.diff(values)) + 1) if len(order) else []
