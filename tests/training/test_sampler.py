"""PK batches against the released sampler's counts, and exactness under resume and sharing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from passreid.errors import DatasetError
from passreid.training.sampler import PKSampler

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "finetune.npz")


def labels_of(images_per_id: np.ndarray) -> list[int]:
    return [int(label) for label in np.repeat(np.arange(len(images_per_id)), images_per_id)]


def emitted(sampler: PKSampler) -> np.ndarray:
    return np.array([index for batch in sampler for index, _ in batch])


@pytest.mark.parametrize(("case", "epochs"), [("small", 200), ("big", 5)])
def test_emits_what_the_released_sampler_emits(case: str, epochs: int) -> None:
    per_id = GOLDEN[f"pk_{case}_images_per_id"]
    people, k = (int(v) for v in GOLDEN[f"pk_{case}_P_K"])
    labels = np.array(labels_of(per_id))
    sampler = PKSampler(labels.tolist(), people=people, images_per_person=k)
    counts = np.zeros((epochs, len(per_id)))
    for epoch in range(epochs):
        sampler.set_epoch(epoch)
        counts[epoch] = np.bincount(labels[emitted(sampler)], minlength=len(per_id))
    assert (counts.max(axis=0) <= np.maximum(k, per_id // k * k)).all()
    expected = GOLDEN[f"pk_{case}_emitted"]
    assert abs(counts.sum(axis=1).mean() - expected.mean()) < 0.03 * expected.mean()
    theirs = GOLDEN[f"pk_{case}_emitted_per_id_mean"]
    assert np.abs(counts.mean(axis=0) - theirs).max() < (0.8 if case == "small" else 8)


@given(
    per_id=st.lists(st.integers(1, 9), min_size=3, max_size=12),
    k=st.integers(2, 4),
    epoch=st.integers(0, 3),
)
@settings(max_examples=50, deadline=None)
def test_batches_hold_p_people_with_k_crops(per_id: list[int], k: int, epoch: int) -> None:
    labels = np.array(labels_of(np.array(per_id)))
    sampler = PKSampler(labels.tolist(), people=3, images_per_person=k)
    sampler.set_epoch(epoch)
    batches = [np.array([index for index, _ in batch]) for batch in sampler]
    assert len(batches) == len(sampler) > 0
    for batch in batches:
        groups = labels[batch].reshape(3, k)
        assert (groups == groups[:, :1]).all()
        assert len(set(groups[:, 0])) == 3
    everything = np.concatenate(batches)
    for person, count in enumerate(per_id):
        if count >= k:
            mine = everything[labels[everything] == person]
            assert len(mine) == len(set(mine.tolist()))


def test_length_is_exact_and_epochs_differ() -> None:
    sampler = PKSampler(labels_of(np.array([9, 9, 5, 2, 7])), people=2, images_per_person=2)
    first = emitted(sampler)
    assert len(first) == len(sampler) * 4
    sampler.set_epoch(1)
    assert emitted(sampler).tolist() != first.tolist()
    sampler.set_epoch(0)
    assert emitted(sampler).tolist() == first.tolist()


def test_the_seed_decides_and_all_crops_of_a_person_with_few_are_drawn() -> None:
    labels = labels_of(np.array([3, 8]))
    samplers = [PKSampler(labels, people=2, images_per_person=4, seed=seed) for seed in range(20)]
    drawn = [emitted(sampler).tolist() for sampler in samplers]
    assert drawn[0] != drawn[1]
    assert {index for indices in drawn for index in indices} == set(range(11))


def test_skipping_gives_the_rest_of_the_same_epoch() -> None:
    sampler = PKSampler(labels_of(np.array([9, 9, 5, 8])), people=2, images_per_person=2)
    sampler.set_epoch(3)
    whole = list(sampler)
    sampler.set_epoch(3, skip=2)
    assert list(sampler) == whole[2:]
    assert len(sampler) == len(whole) - 2


def test_processes_share_a_batch_without_overlap() -> None:
    labels = labels_of(np.array([9, 9, 5, 8]))
    whole = PKSampler(labels, people=4, images_per_person=2)
    parts = [PKSampler(labels, people=4, images_per_person=2, rank=r, world=2) for r in (0, 1)]
    for one, left, right in zip(whole, *parts, strict=True):
        assert [i for i, _ in one] == [i for i, _ in left] + [i for i, _ in right]
        assert [seed for _, seed in one] == [seed for _, seed in left + right]


def test_an_epoch_of_given_length_goes_through_the_crops_again_or_stops_early() -> None:
    labels = labels_of(np.array([9, 9, 5, 8]))
    once = list(PKSampler(labels, people=2, images_per_person=2))
    for batches in (3, 40):
        sampler = PKSampler(labels, people=2, images_per_person=2, batches=batches)
        found = list(sampler)
        assert len(found) == len(sampler) == batches
        assert found[: len(once)] == once[:batches]
    # Every time through is a new draw, and no two places of an epoch share a seed.
    assert emitted(sampler)[4 * len(once) :].tolist() != emitted(sampler)[: -4 * len(once)].tolist()
    assert len({seed for batch in found for _, seed in batch}) == 40 * 4


def test_crops_without_an_identity_are_left_out() -> None:
    labels = [-1, 0, 0, -1, 1, 1, -1]
    assert sorted(emitted(PKSampler(labels, people=2, images_per_person=2))) == [1, 2, 4, 5]
    with pytest.raises(DatasetError, match="has 0 people"):
        PKSampler([-1, -1], people=2, images_per_person=2)


def test_too_few_people_is_a_clear_error() -> None:
    with pytest.raises(DatasetError, match="has 2 people, a batch needs 4"):
        PKSampler([0, 0, 1, 1], people=4, images_per_person=2)
    with pytest.raises(DatasetError, match="multiple of the processes"):
        PKSampler([0, 0, 1, 1], people=3, images_per_person=2, world=2)


def sets_of(batches: PKSampler, set_of: np.ndarray) -> list[set[int]]:
    return [set(set_of[[index for index, _ in batch]].tolist()) for batch in batches]


def two_sets() -> tuple[list[int], np.ndarray]:
    labels = labels_of(np.full(16, 8))
    return labels, (np.array(labels) >= 10).astype(int)


def test_separate_batches_hold_people_of_one_set_each() -> None:
    labels, set_of = two_sets()
    settings_ = {"people": 4, "images_per_person": 4, "set_of": set_of.tolist()}
    mixed = PKSampler(labels, **settings_)
    assert {0, 1} in sets_of(mixed, set_of)
    apart = PKSampler(labels, separate=True, **settings_)
    found = sets_of(apart, set_of)
    assert [len(sets) for sets in found] == [1] * len(found)
    assert found.count({0}) > found.count({1}) > 0
    orders = set()
    for epoch in range(6):
        apart.set_epoch(epoch)
        orders.add(str(sets_of(apart, set_of)))
    assert len(orders) > 1


@pytest.mark.parametrize("weight", [0.25, 0.5, 1.0, 2.5])
def test_a_weight_is_how_often_an_epoch_goes_through_a_set(weight: float) -> None:
    labels, set_of = two_sets()
    sampler = PKSampler(
        labels,
        people=2,
        images_per_person=4,
        set_of=set_of.tolist(),
        weights=(1.0, weight),
        separate=True,
    )
    drawn = np.zeros(2)
    for epoch in range(60):
        sampler.set_epoch(epoch)
        drawn += np.bincount(set_of[emitted(sampler).ravel()], minlength=2)
    share = drawn[1] / drawn[0] / (6 / 10)
    assert abs(share - weight) < 0.08 * max(weight, 1)


def test_weights_must_fit_the_sets_and_each_set_a_batch() -> None:
    labels, set_of = two_sets()
    with pytest.raises(DatasetError, match="3 set_weights for 2 data sets"):
        PKSampler(
            labels, people=4, images_per_person=4, set_of=set_of.tolist(), weights=(1.0, 1.0, 1.0)
        )
    with pytest.raises(DatasetError, match="has 6 people, a batch needs 8"):
        PKSampler(labels, people=8, images_per_person=4, set_of=set_of.tolist(), separate=True)
