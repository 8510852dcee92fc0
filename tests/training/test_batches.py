"""Batches of a data set, read here or by workers: their order, and what goes wrong in them."""

from __future__ import annotations

import multiprocessing
import os
import signal
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from passreid.data.filelist import FileList
from passreid.errors import DatasetError, ImageError, MissingExtraError, PassreidError
from passreid.finetuning.recipe import FinetuneConfig
from passreid.training.augment import CropDataset, build_augmentation
from passreid.training.batches import Batches
from tests import small

CPU = torch.device("cpu")


class Squares(Dataset[int]):
    """The square of an item, and one that nobody can have."""

    def __init__(self, at_7: Exception) -> None:
        self.at_7 = at_7

    def __getitem__(self, item: int) -> int:
        if item == 7:
            raise self.at_7
        return item**2


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_come_in_the_order_of_the_sampler(workers: int) -> None:
    sampler = [[3, 1], [5], [2, 2, 0]]
    batches: Batches[Tensor] = Batches(Squares(ValueError()), sampler, workers=workers, device=CPU)
    assert [batch.tolist() for batch in batches] == [[9, 1], [25], [4, 4, 0]]
    sampler[1] = [6]
    assert [batch.tolist() for batch in batches] == [[9, 1], [36], [4, 4, 0]]


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize(
    "error",
    [
        ImageError("a.jpg", "is gone"),
        DatasetError("Nothing can be read."),
        MissingExtraError("Reading shards", "shards"),
    ],
)
def test_an_error_says_the_same_from_any_process(workers: int, error: PassreidError) -> None:
    batches: Batches[Tensor] = Batches(
        Squares(error), [[1], [2, 7], [3]], workers=workers, device=CPU
    )
    seen = []
    with pytest.raises(type(error)) as raised:
        for batch in batches:
            seen += batch.tolist()
    assert str(raised.value) == str(error)
    assert raised.value.alone
    assert seen == [1]


@pytest.mark.skipif(multiprocessing.get_start_method() != "fork", reason="looks into a fork")
def test_a_worker_survives_a_signal_that_comes_while_it_starts() -> None:
    newborn = [signal.SIGTERM]

    def born() -> None:
        for number in newborn:
            os.kill(os.getpid(), number)

    os.register_at_fork(after_in_child=born)
    batches: Batches[Tensor] = Batches(Squares(ValueError()), [[1], [2]], workers=2, device=CPU)
    try:
        assert [batch.tolist() for batch in batches] == [[1], [4]]
    finally:
        newborn.clear()


def test_a_crop_that_is_gone_is_named(tmp_path: Path) -> None:
    paths = [tmp_path / f"{number}.png" for number in range(2)]
    for number, path in enumerate(paths):
        Image.fromarray(small.picture(number)).save(path)
    augmentation = build_augmentation(FinetuneConfig(data=tmp_path, output=tmp_path), (64, 32))
    crops = CropDataset(FileList.of(paths), [0, 1], transform=augmentation, seed=0)
    paths[1].unlink()
    batches: Batches[list[Tensor]] = Batches(crops, [[(0, 0), (1, 1)]], workers=1, device=CPU)
    with pytest.raises(ImageError) as raised:
        list(batches)
    assert raised.value.source == str(paths[1])
