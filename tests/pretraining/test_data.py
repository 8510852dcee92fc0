"""File lists, unreadable images and the order of an epoch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from passreid.data.filelist import FileList
from passreid.errors import DatasetError, UsageError
from passreid.pretraining import data
from passreid.pretraining.crops import MultiCrop
from passreid.pretraining.data import EpochSampler, ViewDataset, collate
from passreid.training.process import Process
from tests.pretraining.tiny import recipe, write_images


def test_a_list_gives_the_files_of_a_tree_in_order(tmp_path: Path) -> None:
    write_images(tmp_path / "b" / "ü", 2)
    write_images(tmp_path / "a", 1)
    files = FileList.find(tmp_path)
    assert [files[i] for i in range(len(files))] == [
        "a/0000.png",
        "b/ü/0000.png",
        "b/ü/0001.png",
    ]
    again = FileList.again(tmp_path, files.text)
    assert [again[i] for i in range(3)] == [files[i] for i in range(3)]


def test_a_text_file_lists_images_relative_to_its_folder(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_bytes(b"x/a.jpg\r\ny b.jpg")
    files = FileList.find(tmp_path / "list.txt")
    assert [files[i] for i in range(len(files))] == ["x/a.jpg", "y b.jpg"]
    assert files.name(1) == str(tmp_path / "y b.jpg")


def test_what_cannot_be_listed_is_said(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such folder"):
        FileList.find(tmp_path / "none")
    (tmp_path / "empty.txt").touch()
    with pytest.raises(DatasetError, match="lists no image"):
        FileList.find(tmp_path / "empty.txt")
    write_images(tmp_path / "odd", 1)
    (tmp_path / "odd" / "0000.png").rename(tmp_path / "odd" / "a\nb.png")
    with pytest.raises(DatasetError, match="line break"):
        FileList.find(tmp_path / "odd")
    with pytest.raises(
        DatasetError, match=r"odd/a.*b\.png.*: the name contains a tab or a line break"
    ):
        FileList.of([*(tmp_path / "odd").iterdir()])


def dataset(folder: Path) -> ViewDataset:
    return ViewDataset(FileList.find(folder), MultiCrop(recipe()), seed=3)


def test_an_item_is_fixed_by_its_place(tmp_path: Path) -> None:
    images = dataset(write_images(tmp_path, 3))
    first, again, later = images[1, 7], images[1, 7], images[1, 8]
    assert torch.equal(first.globals, again.globals)
    assert torch.equal(first.locals, again.locals)
    assert not torch.equal(first.globals, later.globals)
    assert int(first.indices) == 1
    batch = collate([first, later])
    assert batch.globals.shape == (2, 2, 32, 16, 3)
    assert batch.locals.shape == (2, 9, 16, 8, 3)
    assert batch.indices.tolist() == [1, 1]


def test_unreadable_images_are_passed_over_and_named(tmp_path: Path) -> None:
    images = dataset(write_images(tmp_path, 4))
    (tmp_path / "0003.png").write_bytes(b"no picture")
    (tmp_path / "0000.png").unlink()
    item = images[3, 7]
    assert int(item.indices) == 1
    assert [Path(path).name for path, _ in item.unreadable] == ["0003.png", "0000.png"]
    assert torch.equal(item.globals, images[1, 7].globals)
    assert collate([item, images[2, 8]]).unreadable == item.unreadable


def test_a_set_of_nothing_but_damage_ends_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = dataset(write_images(tmp_path, 5))
    for path in tmp_path.iterdir():
        path.write_bytes(b"no picture")
    monkeypatch.setattr(data, "TRIES", 3)
    with pytest.raises(DatasetError, match=r"3 images in a row cannot be read.*0002\.png"):
        images[0, 0]


def sampler(images: int, *, rank: int = 0, world: int = 1, **changes: int) -> EpochSampler:
    process = Process(rank, world, torch.device("cpu"))
    return EpochSampler(images, recipe(**{"batch_size": 8, **changes}), process)


@given(
    images=st.integers(8, 40),
    accumulate=st.sampled_from([1, 2]),
    world=st.sampled_from([1, 2]),
    skip=st.integers(0, 2),
)
@settings(max_examples=40, deadline=None)
def test_shares_of_a_step_make_up_the_same_step(
    images: int, accumulate: int, world: int, skip: int
) -> None:
    whole = sampler(images, seed=5)
    whole.set_epoch(2)
    steps = list(whole)
    assert len(steps) == len(whole) == whole.steps == images // 8
    everything = [index for step in steps for index, _ in step]
    assert len(set(everything)) == len(everything)
    places = [place for step in steps for _, place in step]
    assert places == list(range(2 * images, 2 * images + len(places)))
    skip = min(skip, whole.steps)
    shared: list[list[list[tuple[int, int]]]] = []
    for rank in range(world):
        part = sampler(images, accumulate=accumulate, seed=5, rank=rank, world=world)
        part.set_epoch(2, skip=skip)
        lists = list(part)
        assert len(lists) == len(part) == (whole.steps - skip) * accumulate
        shared.append(lists)
    for number, step in enumerate(steps[skip:]):
        rows = range(number * accumulate, (number + 1) * accumulate)
        mine = [pair for row in rows for rank in range(world) for pair in shared[rank][row]]
        assert mine == step


def test_epochs_have_orders_of_their_own() -> None:
    images = sampler(16)
    first = np.array(list(images))[..., 0]
    images.set_epoch(1)
    assert np.array(list(images))[..., 0].tolist() != first.tolist()


def test_batches_that_cannot_be_made_are_refused() -> None:
    with pytest.raises(DatasetError, match="7 images are fewer than a batch of 8"):
        sampler(7)
    with pytest.raises(DatasetError, match="multiple of 1 parts times 3 processes"):
        sampler(20, world=3)
