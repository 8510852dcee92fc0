"""Pre-training on shards: the same run as on files, and the same resume inside an epoch."""

from __future__ import annotations

from pathlib import Path

import pytest

from passreid.data.shards import pack
from passreid.pretraining.crops import sample_views
from passreid.pretraining.pretrain import pretrain
from passreid.training.folder import RunFolder
from tests.pretraining import tiny
from tests.pretraining.test_run import assert_same, final_state, lines


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    pack(tiny.write_images(tmp_path / "images", 11), tmp_path / "shards", per_shard=4)
    return tmp_path / "shards"


def test_shards_give_the_run_that_files_give(tmp_path: Path, shards: Path) -> None:
    for data, run in ((tmp_path / "images", "files"), (shards, "shards")):
        pretrain(tiny.config(data, tmp_path / run, workers=1), progress=False)
    assert lines(tmp_path / "files") == lines(tmp_path / "shards")
    assert_same(final_state(tmp_path / "files"), final_state(tmp_path / "shards"))


def test_a_killed_run_goes_on_inside_an_epoch(
    tmp_path: Path, shards: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, killed = (
        tiny.config(shards, tmp_path / name, save_steps=1, save_every=0) for name in "ab"
    )
    pretrain(whole, progress=False)
    save = RunFolder.save

    def die(self: RunFolder, state: dict[str, object]) -> None:
        save(self, state)
        if state["step"] == 3:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(RunFolder, "save", die)
        pretrain(killed, progress=False)
    (shards / "index.tsv").unlink()  # the run has its own list
    pretrain(killed, resume=True, progress=False)
    assert_same(final_state(tmp_path / "a"), final_state(tmp_path / "b"))


def test_the_views_of_shards_can_be_looked_at(tmp_path: Path, shards: Path) -> None:
    assert len(sample_views(tiny.config(shards, tmp_path / "run"), 3)) == 3
