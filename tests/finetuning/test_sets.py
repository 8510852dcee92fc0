"""Training on the union of several labelled sets."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from passreid.data import make_synthetic, relabel
from passreid.errors import DatasetError
from passreid.finetuning.sets import read_sets


@pytest.fixture(scope="module")
def roots(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("places")
    for seed, name in enumerate(("north", "south")):
        make_synthetic(folder / name, people=6, cameras=2, per_camera=2, size=(64, 32), seed=seed)
    return [folder / "north", folder / "south"]


def test_people_and_cameras_of_different_sets_never_share_a_number(roots: list[Path]) -> None:
    alone = [read_sets([root]) for root in roots]
    both = read_sets(roots)
    assert both.names == ("north", "south")
    assert len(both.samples) == sum(len(one.samples) for one in alone)
    for attribute in ("pid", "camid"):
        seen = [
            {
                getattr(s, attribute)
                for s, n in zip(both.samples, both.set_of, strict=True)
                if n == i
            }
            for i in range(2)
        ]
        assert not seen[0] & seen[1]
        for one, here in zip(alone, seen, strict=True):
            assert len(here) == len({getattr(s, attribute) for s in one.samples})
    _, people = relabel(both.samples)
    assert len(people) == sum(len(relabel(one.samples)[1]) for one in alone)


def test_an_unknown_camera_stays_unknown(roots: list[Path], tmp_path: Path) -> None:
    for person in ("a", "b"):
        (tmp_path / "own" / "train" / person).mkdir(parents=True)
        for number, source in enumerate(sorted((roots[0] / "query").glob("*.jpg"))[:2]):
            shutil.copy(source, tmp_path / "own" / "train" / person / f"{number}.jpg")
    both = read_sets([roots[0], tmp_path / "own"])
    cameras = {s.camid for s, n in zip(both.samples, both.set_of, strict=True) if n == 1}
    assert cameras == {-1}


def test_left_out_images_leave_the_rest_in_place(roots: list[Path]) -> None:
    both = read_sets(roots)
    kept = both.without([both.samples[0].path, both.samples[-1].path])
    assert kept.samples == both.samples[1:-1]
    assert kept.set_of == both.set_of[1:-1]


@pytest.mark.parametrize(("case", "said"), [("same", "named 'north'"), ("link", "two of the sets")])
def test_sets_that_overlap_are_refused(
    case: str, said: str, roots: list[Path], tmp_path: Path
) -> None:
    second = roots[0]
    if case == "link":
        second = tmp_path / "again"
        second.mkdir()
        for folder in ("bounding_box_train", "query", "bounding_box_test"):
            (second / folder).symlink_to(roots[0] / folder)
    with pytest.raises(DatasetError, match=said):
        read_sets([roots[0], second])


def test_a_set_without_training_people_is_named(roots: list[Path], tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    shutil.copytree(roots[0], bare)
    shutil.rmtree(bare / "bounding_box_train")
    with pytest.raises(DatasetError, match="bare has no training images"):
        read_sets([roots[1], bare])
