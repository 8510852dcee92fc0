"""Every layout of weights is loaded strictly, and is the network its tensors describe."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from passreid.card import HALF, IMAGENET_MEAN, IMAGENET_STD
from passreid.checkpoint import (
    layouts,
    load_checkpoint,
    resize_positions,
)
from passreid.checkpoint.infer import facts_from_shapes
from passreid.errors import CheckpointError
from tests import seeded
from tests.checkpoint.fabricate import (
    CLUSTERED,
    SUPERVISED,
    Tensors,
    assert_same_network,
    backbone,
    bare,
    build,
    clustered,
    dino,
    expected,
    fine_tuned,
    plain,
    prefixed,
)

WRAPS: dict[str, Callable[[Tensors], Any]] = {
    "flat": lambda t: t,
    "ddp": lambda t: prefixed("module.", t),
    "compiled": lambda t: prefixed("_orig_mod.module.", t),
    "model": lambda t: {"model": t},
    "state_dict": lambda t: {"state_dict": prefixed("module.", t), "epoch": 3},
    "model_state_dict": lambda t: {"model_state_dict": t, "optimizer_state_dict": {"state": {}}},
    "net": lambda t: {"net": prefixed("module.", t), "acc": 0.9},
    "params": lambda t: {"params": t},
    "nested": lambda t: {"model": {"state_dict": prefixed("model.", t)}},
}


@pytest.mark.parametrize("wrap", WRAPS)
@pytest.mark.parametrize("neck", ["multi", "single"])
@pytest.mark.parametrize("fusion", ["cat", "mean"])
def test_official_fine_tuned(tmp_path: Path, wrap: str, neck: str, fusion: str) -> None:
    tensors = fine_tuned(neck=neck, fusion=fusion)
    torch.save(WRAPS[wrap](tensors), tmp_path / "transformer_120.pth")
    model, card, report = load_checkpoint(tmp_path / "transformer_120.pth", feature="after")
    necks = SUPERVISED if neck == "multi" else SUPERVISED[:1]
    options = {"fusion": fusion, "feature": "after", "necks": necks}
    assert_same_network(model, expected(bare(tensors), **options))
    a = card.architecture
    assert (a.neck, a.fusion, a.image_size, a.heads, a.num_classes) == (
        neck,
        fusion,
        (64, 32),
        1,
        0,
    )
    assert (card.name, card.mean, card.interpolation) == ("transformer_120", HALF, "bilinear")
    assert report.format == "pass" and report.loaded == len(tensors) - 3 and not report.initialised
    assert set(report.set_aside) >= {"identity classifier", "never used by the original"}
    assert not model.training


@pytest.mark.parametrize("kind", ["legacy", "safetensors", "half"])
def test_other_containers_of_the_same_tensors(tmp_path: Path, kind: str) -> None:
    tensors = fine_tuned()
    if kind == "legacy":
        torch.save(tensors, tmp_path / "m.pth", _use_new_zipfile_serialization=False)
    elif kind == "safetensors":
        save_file(tensors, tmp_path / "m.pth")  # the first bytes decide, not the name
    else:
        tensors = {n: t.half().float() if t.is_floating_point() else t for n, t in tensors.items()}
        halved = {n: t.half() if t.is_floating_point() else t for n, t in tensors.items()}
        torch.save(halved, tmp_path / "m.pth")
    model = load_checkpoint(tmp_path / "m.pth").model
    assert_same_network(model, expected(bare(tensors)))
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


@pytest.mark.parametrize("prefix", ["", "backbone.", "base.", "module.backbone.", "base.module."])
def test_pre_trained_backbone_under_any_prefix(tmp_path: Path, prefix: str) -> None:
    tensors = backbone()
    torch.save(prefixed(prefix, tensors) | {"epoch": 3}, tmp_path / "pass_vit.pth")
    model, card, report = load_checkpoint(tmp_path / "pass_vit.pth")
    assert_same_network(model, expected(tensors))
    assert (card.mean, card.std) == (IMAGENET_MEAN, IMAGENET_STD)
    assert report.initialised == ("neck: new, the file has none",)
    assert report.set_aside == {"other entries of the file": ("epoch",)}
    assert torch.equal(model.neck.weight, torch.ones(256)) and not model.neck.bias.requires_grad


def test_a_students_mask_token_is_set_aside(tmp_path: Path) -> None:
    student = plain() | build({"masked_embed": (1, 64)})
    torch.save(dino(student, plain()), tmp_path / "ibot.pth")
    model, _, report = load_checkpoint(tmp_path / "ibot.pth", role="student")
    assert_same_network(model, expected(plain()))
    name = "module.backbone.masked_embed"
    assert report.set_aside["mask token of pre-training"] == (name,)


def test_self_supervised_checkpoint_prefers_the_teacher(tmp_path: Path) -> None:
    student, teacher = backbone(), {name: value + 0.01 for name, value in backbone().items()}
    path = tmp_path / "checkpoint.pth"
    torch.save(dino(student, teacher), path)
    for role, tensors in (("auto", teacher), ("teacher", teacher), ("student", student)):
        model, _, report = load_checkpoint(path, role=role)  # type: ignore[arg-type]
        assert_same_network(model, expected(tensors))
        assert report.source == f"{path} {'student' if role == 'student' else 'teacher'}"
    (head,) = (names for why, names in report.set_aside.items() if "head" in why)
    assert head == ("module.head.last_layer_cls.weight_v", "module.head.mlp_cls.0.weight")
    assert "optimizer" in report.set_aside["other entries of the file"]
    torch.save({"teacher": teacher}, path)
    with pytest.raises(CheckpointError, match="has no 'student' entry"):
        load_checkpoint(path, role="student")
    torch.save({"student": student}, path)
    assert_same_network(load_checkpoint(path).model, expected(student))


@pytest.mark.parametrize("neck", ["multi", "single"])
def test_a_neck_on_a_bare_backbone_is_supervised_where_something_tells(
    tmp_path: Path, neck: str
) -> None:
    tensors = bare(fine_tuned(neck=neck))
    if neck == "multi":
        del tensors["classifier.weight"]
    torch.save(tensors, tmp_path / "m.pth")
    _, card, report = load_checkpoint(tmp_path / "m.pth")
    assert (report.format, card.architecture.feature) == ("pass", "before")


def test_any_number_of_part_tokens(tmp_path: Path) -> None:
    tensors = backbone()
    for part in range(4, 11):
        tensors |= build({f"part_token{part}": (1, 1, 64), f"part{part}_pos": (1, 1, 64)})
    torch.save(tensors, tmp_path / "ten.pth")
    model, card, _ = load_checkpoint(tmp_path / "ten.pth")
    assert card.architecture.parts == 10
    for part in (1, 10):
        token = model.state_dict()["vit.reg_token"][:, part - 1]
        assert torch.equal(token, tensors[f"part_token{part}"][:, 0])
    torch.save({n: t for n, t in tensors.items() if "part" not in n}, tmp_path / "none.pth")
    _, card, report = load_checkpoint(tmp_path / "none.pth")
    assert (card.architecture.parts, report.format) == (0, "pass")


def test_every_hidden_width_is_what_the_network_makes_of_the_ratio() -> None:
    shapes = {"cls_token": (1, 1, 448), "patch_embed.proj.weight": (448, 3, 16, 16)}
    for hidden in range(1, 1000):
        shapes["blocks.0.mlp.fc1.weight"] = (hidden, 448)
        facts = facts_from_shapes(shapes, layouts.TIMM, keep_classifier=False)
        assert int(448 * facts["mlp_ratio"]) == hidden


@pytest.mark.parametrize("neck", ["multi", "single"])
def test_cluster_contrast(tmp_path: Path, neck: str) -> None:
    tensors = clustered(neck)
    best = np.mean([0.5, 0.6])  # a NumPy scalar, as the original leaves it
    wrapped = {"state_dict": prefixed("module.", tensors), "epoch": 50, "best_mAP": best}
    torch.save(wrapped, tmp_path / "model_best.pth.tar")
    model, card, report = load_checkpoint(tmp_path / "model_best.pth.tar")
    necks = CLUSTERED if neck == "multi" else CLUSTERED[:1]
    assert_same_network(model, expected(tensors, feature="normalized", necks=necks))
    assert (card.interpolation, card.architecture.feature) == ("bicubic", "normalized")
    assert report.format == "cluster-contrast"
    # Each token's own neck fits either fusion; that of the fused feature tells which it is.
    assert report.assumed.get("fusion") == ("cat" if neck == "multi" else None)


def test_a_scalar_of_an_older_numpy(tmp_path: Path) -> None:
    path = tmp_path / "old.pth"
    content = {"state_dict": backbone(), "best_mAP": np.mean([0.5, 0.6])}
    torch.save(content, path, _use_new_zipfile_serialization=False)
    written = path.read_bytes()
    assert b"numpy._core.multiarray" in written
    path.write_bytes(written.replace(b"numpy._core.multiarray", b"numpy.core.multiarray"))
    assert "best_mAP" in load_checkpoint(path).report.set_aside["other entries of the file"]


def test_a_fusion_that_was_said_is_not_assumed(tmp_path: Path) -> None:
    torch.save(prefixed("module.", clustered("multi")), tmp_path / "usl.pth")
    _, card, report = load_checkpoint(tmp_path / "usl.pth", fusion="mean")
    assert card.architecture.fusion == "mean" and "fusion" not in report.assumed
    card = load_checkpoint(tmp_path / "usl.pth", feature="before").card
    assert card.architecture.feature == "before"
    torch.save(fine_tuned(), tmp_path / "supervised.pth")  # whose classifier tells
    assert "fusion" not in load_checkpoint(tmp_path / "supervised.pth").report.assumed


@pytest.mark.parametrize("stem", [True, False])
def test_transreid_ssl(tmp_path: Path, stem: bool) -> None:
    tensors = plain(stem=stem)
    torch.save(dino(tensors, tensors), tmp_path / "dino.pth")
    model, card, report = load_checkpoint(tmp_path / "dino.pth")
    assert_same_network(model, expected(tensors))
    assert card.architecture.stem == ("ics" if stem else "none")
    assert card.architecture.neck == "single"
    assert report.format == ("transreid-ssl" if stem else "timm")
    tuned = prefixed("base.", tensors) | build(seeded.neck_shapes("bottleneck", 64))
    tuned |= build(
        {"classifier.weight": (9, 64), "base.fc.weight": (10, 64), "base.fc.bias": (10,)}
    )
    torch.save(tuned, tmp_path / "tuned.pth")
    model, card, report = load_checkpoint(tmp_path / "tuned.pth", feature="after")
    assert_same_network(model, expected(bare(tuned), feature="after", necks=("bottleneck",)))
    assert (report.format, card.mean, card.architecture.parts) == ("transreid-ssl", HALF, 0)
    assert card.architecture.fusion == "cat"
    unsupervised = prefixed("module.", tensors | build(seeded.neck_shapes("bottleneck", 64)))
    torch.save({"state_dict": unsupervised}, tmp_path / "usl.pth")
    model, card, _ = load_checkpoint(tmp_path / "usl.pth")
    assert (card.architecture.feature, card.interpolation) == ("normalized", "bicubic")
    necks = ("bottleneck",)
    tuned = {name.removeprefix("module."): value for name, value in unsupervised.items()}
    assert_same_network(model, expected(tuned, feature="normalized", necks=necks))


@pytest.mark.parametrize("registers", [0, 3])
@pytest.mark.parametrize("inside", [True, False])
def test_timm_with_and_without_register_tokens(
    tmp_path: Path, registers: int, inside: bool
) -> None:
    tensors = plain(registers=registers)
    if not inside:  # timm's no_embed_class: the table has the patches alone
        tensors["pos_embed"] = tensors["pos_embed"][:, 1 + registers :].contiguous()
    head = build({"head.weight": (10, 64), "head.bias": (10,), "fc_norm.weight": (64,)})
    save_file(tensors | head, tmp_path / "model.safetensors")
    # Without a size, 8 rows could also be 4 special tokens and a 2x2 grid.
    model, card, report = load_checkpoint(tmp_path, image_size=(64, 32))
    assert_same_network(model, expected(tensors))
    assert (card.architecture.parts, report.format) == (registers, "timm")
    if inside:  # though 12 rows could be a 6x2 grid without them
        assert load_checkpoint(tmp_path).card.architecture.image_size == (64, 32)


def test_square_grid_is_found_and_resampled(tmp_path: Path) -> None:
    tensors = plain(patches=16)
    torch.save(tensors, tmp_path / "dino.pth")
    assert load_checkpoint(tmp_path / "dino.pth").card.architecture.image_size == (64, 64)
    model, _, report = load_checkpoint(tmp_path / "dino.pth", image_size=(64, 32))
    tensors["pos_embed"] = resize_positions(tensors["pos_embed"], (4, 4), (4, 2), 1)
    assert_same_network(model, expected(tensors))
    assert report.resized == ((4, 4), (4, 2)) and "4x4 -> 4x2, bilinear" in str(report)
    _, card, report = load_checkpoint(tmp_path / "dino.pth", stride=(12, 12))
    assert (card.architecture.image_size, report.resized) == ((64, 64), ((4, 4), (5, 5)))


def test_grid_that_no_ratio_fits_must_be_said(tmp_path: Path) -> None:
    path = tmp_path / "overlap.pth"
    torch.save(fine_tuned(patches=10), path)
    with pytest.raises(CheckpointError, match="10 patch positions form no grid"):
        load_checkpoint(path)
    a = load_checkpoint(path, image_size=(64, 28), stride=(12, 12)).card.architecture
    assert a.grid == (5, 2)
