"""What a network under training can be scored on."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from passreid.card import ModelCard
from passreid.data import make_synthetic
from passreid.errors import DatasetError
from passreid.training.scoring import Scorer, can_score, read_watched


@pytest.mark.parametrize("lacks", ["queries", "another camera"])
def test_a_set_no_query_of_which_counts_is_not_watched(lacks: str, tmp_path: Path) -> None:
    people = make_synthetic(tmp_path / "people", people=4, cameras=2, per_camera=2, size=(64, 32))
    card = ModelCard(name="small")
    assert read_watched(people.root) == (people,)
    assert can_score(people)
    assert Scorer(card, [people], precision="float32").card_scores({"mAP": 0.5, "rank1": 0.75}) == {
        "people mAP": 50.0,
        "people Rank-1": 75.0,
    }
    for folder in ("query", "bounding_box_test"):
        if lacks == "queries":
            shutil.rmtree(people.root / folder)
            continue
        for crop in (people.root / folder).glob("*_c2*"):
            crop.unlink()
    with pytest.raises(DatasetError, match="nothing can be scored on it"):
        read_watched(people.root)
    assert read_watched(None) == ()
