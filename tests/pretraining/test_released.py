"""Every stored number of the released pre-training: outputs, terms, gradients, updates."""

from __future__ import annotations

import fnmatch
import zlib
from pathlib import Path

import numpy as np
import pytest

from passreid.pretraining.crops import MultiCrop
from passreid.pretraining.recipe import PretrainRecipe
from tests import seeded
from tests.pretraining import released

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "pretrain_released.npz")
NAMES = [str(name) for name in GOLDEN["param_names"]]
WATCHED = [str(name) for name in GOLDEN["watched"]]

TOLERANCES = {
    "?_n_clipped": 0,
    "?_term_index": 0,
    "?_epoch_it": 0,
    "*_crc32": 0,
    "?_lr_wd_momentum": 1e-12,
    "?_loss_second": 1e-5,
    "?_loss": 2e-6,
    "?_term_value": 2e-6,
    "?_branch_sum": 2e-6,
    "?_grad_first": 2e-5,
    "?_grad_norm_clipped": 2e-4,
    "?_step_update_norm": 1e-4,
    # Teacher and student are nearly equal in A: float32 leaves little of their difference.
    "A_ema_update_norm": 1e-2,
    "B_ema_update_norm": 1e-4,
    "?_*_param_norm*": 1e-6,
    "*": 1e-5,
}
"""Relative L2 distance that another order of summation in float32 may make; first match."""


def relative(ours: np.ndarray, theirs: np.ndarray) -> float:
    assert ours.shape == theirs.shape
    gap = np.subtract(ours, theirs, dtype=np.float64)
    return float(np.linalg.norm(gap) / max(np.linalg.norm(theirs.astype(np.float64)), 1e-300))


@pytest.mark.slow
def test_a_step_of_each_case() -> None:
    ours = released.results(NAMES, WATCHED)
    stored = {name for name in GOLDEN.files if name[:2] in ("A_", "B_")}
    assert stored == {name for name in ours if name[:2] in ("A_", "B_")} | {
        "A_pos_global",
        "A_pos_local",
    }
    worst = {}
    for name, value in ours.items():
        limit = next(t for pattern, t in TOLERANCES.items() if fnmatch.fnmatch(name, pattern))
        distance = relative(value, GOLDEN[name])
        if distance > limit:
            worst[name] = (distance, limit)
    assert not worst


def test_the_views_are_rebuilt_bit_by_bit() -> None:
    whole, local = released.views()
    crops = [crop.numpy() for crop in (*whole, *local)]
    checks = [zlib.crc32(np.ascontiguousarray(crop).tobytes()) for crop in crops]
    assert checks == GOLDEN["input_crc32"].ravel().tolist()


@pytest.mark.parametrize(("letter", "batch"), [("S", 1024), ("B", 512)])
def test_schedules(letter: str, batch: int) -> None:
    per_epoch = int(GOLDEN[f"sched_{letter}_iters_per_epoch"])
    assert 4_180_243 // batch == per_epoch
    ours = released.schedules(GOLDEN[f"sched_{letter}_iterations"], batch, per_epoch)
    for field, value in ours.items():
        expected = GOLDEN[f"sched_{letter}_{field}"]
        np.testing.assert_allclose(value, expected, rtol=1e-12, atol=1e-16)


def test_position_tables() -> None:
    for name, ours in released.position_tables(GOLDEN["pos_table"]).items():
        assert relative(ours, GOLDEN[f"pos_table_{name}"]) < 1e-5
    table = seeded.tensor("backbone.pos_embed", (1, 128, 384))
    tables = released.position_tables(table)
    assert relative(tables["global"][0, :, :4], GOLDEN["A_pos_global"]) < 1e-5
    assert relative(tables["local"][0, :, :4], GOLDEN["A_pos_local"]) < 1e-5


def test_which_tensors_are_decayed_and_which_stand_still() -> None:
    assert released.groups(NAMES).tolist() == GOLDEN["param_group"].tolist()


def test_rows_each_view_is_drawn_from() -> None:
    crop = MultiCrop(PretrainRecipe())
    for height in GOLDEN["crops_heights"]:
        views = GOLDEN[f"crops_h{height}_views"]
        assert crop.sources(int(height)) == [(top, bottom) for top, bottom, *_ in views.tolist()]
        width = int(GOLDEN[f"crops_h{height}_size"][1])
        assert (views[:, 2:] == [0, width]).all()
