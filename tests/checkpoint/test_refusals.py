"""Weights that do not fit, are damaged, or would run code."""

from __future__ import annotations

import argparse
import json
import os
import pickle
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from passreid.checkpoint import (
    load_checkpoint,
    load_folder,
)
from passreid.errors import CheckpointError, ConfigError, ModelNotFoundError
from tests import seeded, small
from tests.checkpoint.fabricate import (
    Tensors,
    backbone,
    dino,
    fine_tuned,
    plain,
    prefixed,
)


def test_everything_that_does_not_fit_is_one_error(tmp_path: Path) -> None:
    tensors = prefixed("module.", fine_tuned())
    del tensors["module.base.blocks.1.norm2.bias"], tensors["module.base.part2_pos"]
    tensors["module.base.extra"] = torch.zeros(1)
    tensors["module.base.norm.weight"] = torch.zeros(65)
    tensors["module.base.norm.bias"][3] = float("nan")
    tensors["module.base.cls_token"][0, 0, 0] = float("inf")
    torch.save(tensors, tmp_path / "bad.pth")
    with pytest.raises(CheckpointError) as error:
        load_checkpoint(tmp_path / "bad.pth")
    assert str(error.value) == (
        f"{tmp_path / 'bad.pth'}: does not fit; "
        "2 missing: module.base.blocks.1.norm2.bias, module.base.part2_pos; "
        "1 left over: module.base.extra; "
        "1 of wrong shape: module.base.norm.weight (expected (64,), found (65,)); "
        "2 not finite: module.base.cls_token, module.base.norm.bias."
    )


def test_long_lists_are_cut_and_counted(tmp_path: Path) -> None:
    tensors = fine_tuned() | {f"base.x{i:02}": torch.zeros(1) for i in range(12)}
    torch.save(tensors, tmp_path / "bad.pth")
    with pytest.raises(CheckpointError, match=r"12 left over: base.x00, .*base.x09 and 2 more\."):
        load_checkpoint(tmp_path / "bad.pth")


@pytest.mark.parametrize("name", sorted(set(seeded.pass_shapes()) - {"base.fc.weight"}))
def test_no_tensor_may_be_missing_but_the_unused(tmp_path: Path, name: str) -> None:
    tensors = fine_tuned()
    del tensors[name]
    torch.save(tensors, tmp_path / "m.pth")
    if name.startswith(("base.fc.", "classifier.")):
        load_checkpoint(tmp_path / "m.pth")
    else:
        with pytest.raises(CheckpointError, match=r"missing|no tensor|left over|not a vision|grid"):
            load_checkpoint(tmp_path / "m.pth")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"cls_token": torch.zeros(64)}, "'cls_token' has shape .64,., expected 3 axes"),
        ({"module.cls_token": torch.zeros(1, 1, 64)}, "one tensor twice: 'cls_token' and"),
        ({"cls_token": torch.zeros(1).expand(1, 1, 1 << 40)}, "'cls_token' is not a plain dense"),
        ({"norm.bias": torch.zeros(64, dtype=torch.complex64)}, "'norm.bias' is not a plain dense"),
        ({"norm.bias": torch.zeros(0)}, r"norm.bias .expected \(64,\), found \(0,\)"),
        ({"norm.bias": torch.full((64,), -torch.inf)}, r"1 not finite: norm\.bias"),
        ({"norm.bias": torch.full((64,), torch.nan).half()}, r"1 not finite: norm\.bias"),
        (
            {"norm.bias": torch.full((64,), torch.nan).to(torch.float8_e4m3fn)},
            r"1 not finite: norm\.bias",
        ),
        ({"cls_token": torch.zeros(1, 1, 65)}, "width 65 is not a multiple of 64; give"),
    ],
)
def test_odd_tensors(tmp_path: Path, change: Tensors, message: str) -> None:
    torch.save(backbone() | change, tmp_path / "m.pth")
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(tmp_path / "m.pth")


class Evil:
    """Runs a command when unpickled carelessly."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.path}",)


@pytest.mark.parametrize("legacy", [True, False])
@pytest.mark.parametrize("where", ["top", "args", "tensor"])
def test_a_pickle_with_code_is_refused_and_not_run(
    tmp_path: Path, where: str, legacy: bool
) -> None:
    trap = Evil(tmp_path / "ran")
    content: Any = trap
    if where == "args":
        content = dino(backbone(), backbone()) | {"args": argparse.Namespace(arch=trap)}
    elif where == "tensor":
        content = backbone() | {"norm.bias": trap}
    path = tmp_path / "m.pth"
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    with pytest.raises(CheckpointError, match=r"reading it would run code \((posix|nt)\.system\)"):
        load_checkpoint(path)
    path.write_bytes(pickle.dumps(trap, protocol=2))
    with pytest.raises(CheckpointError, match=r"run code|damaged"):
        load_checkpoint(path)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the file is empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "a Git LFS pointer"),
        (b"<!DOCTYPE html><html>Google Drive", "a web page, not weights"),
        (b"\n <html>", "a web page, not weights"),
        (b'<?xml version="1.0"?>\n<net name="m" version="11">', "an OpenVINO network, not PyTorch"),
        (b"<note>of another kind</note>", r"not a weight file \(text\)"),
        (b"\x08\x08\x12\x07pytorch\x1a\x052.1.0:", "an ONNX graph, not PyTorch weights; ask"),
        (b"\x89HDF\r\n\x1a\n", "an HDF5 file .Keras."),
        (b"epoch,loss\n1,2\n", r"not a weight file \(text\)"),
        (bytes(range(1, 99)), "neither safetensors nor a PyTorch file"),
        (b"PK\x03\x04 but no more", "damaged or truncated PyTorch file"),
        (b"\x80\x02 but no more", "damaged"),
        ((1 << 20).to_bytes(8, "little") + b'{"a":', "damaged or truncated safetensors"),
    ],
)
def test_files_that_are_no_weights(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "m.pth").write_bytes(content)
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(tmp_path / "m.pth")


@pytest.mark.parametrize("kind", ["zip", "legacy", "safetensors"])
def test_truncated_and_damaged_files_are_named(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "m.pth"
    if kind == "safetensors":
        save_file(backbone(), path)
    else:
        torch.save(backbone(), path, _use_new_zipfile_serialization=kind == "zip")
    whole = path.read_bytes()
    for share in (0.02, 0.5, 0.99):
        path.write_bytes(whole[: int(len(whole) * share)])
        with pytest.raises(CheckpointError, match="damaged or truncated"):
            load_checkpoint(path)
    spots = np.random.default_rng(0).integers(0, 2000, 40)
    for spot in spots:  # wherever a byte flips: a clear error or a network, never another exception
        path.write_bytes(whole[:spot] + bytes([whole[spot] ^ 0x55]) + whole[spot + 1 :])
        try:
            load_checkpoint(path)
        except CheckpointError as error:
            assert str(path) in str(error)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([torch.zeros(1)], "holds a list, not named tensors"),
        ({"epoch": 3, "lr": 0.1}, "holds no named tensors .found: epoch, lr"),
        ({"conv1.weight": torch.zeros(1)}, "not a vision transformer passreid knows .1 tensors"),
    ],
)
def test_files_that_hold_something_else(tmp_path: Path, content: Any, message: str) -> None:
    torch.save(content, tmp_path / "m.pth")
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(tmp_path / "m.pth")


@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:.torch.jit:FutureWarning")
def test_torchscript_is_named_with_the_way_out(tmp_path: Path) -> None:
    torch.jit.save(torch.jit.script(torch.nn.Linear(3, 3)), tmp_path / "m.pt")
    with pytest.raises(CheckpointError, match=r"a TorchScript program.*torch\.jit\.load"):
        load_checkpoint(tmp_path / "m.pt")


def test_openvino_tensors_are_named(tmp_path: Path) -> None:
    (tmp_path / "m.xml").write_text("<net/>")
    (tmp_path / "m.bin").write_bytes(bytes(range(1, 99)))
    with pytest.raises(CheckpointError, match="the tensors of an OpenVINO network"):
        load_checkpoint(tmp_path / "m.bin")


FOREIGN = {
    "dist_token": "A distilled DeiT, .* take the checkpoint of the same model without distillation",
    "vit.embeddings.cls_token": "names of Hugging Face transformers; take .* from a timm repo",
    "embeddings.cls_token": "names of Hugging Face transformers",
    "blocks.0.ls1.gamma": "DINOv2 or DeiT III, which has layer scale; start from",
    "blocks.0.0.ls1.gamma": "DINOv2 or DeiT III",
    "storage_tokens": "DINOv3, which has rotary positions",
    "rope_embed.periods": "DINOv3",
    "layer.0.layer_scale1.lambda1": "DINOv3",
    "blocks.0.attn.q_bias": "BEiT or EVA",
    "image_encoder.class_embedding": "CLIP's image encoder",
    "norm_pre.weight": "CLIP's image encoder",
    "base.layers.0.blocks.0.attn.relative_position_bias_table": "A Swin transformer .SOLIDER.",
    "module.base.layer1.0.conv1.weight": "A convolutional network .ResNet, OSNet.",
    "conv2.0.conv1.conv.weight": "A convolutional network",
}


@pytest.mark.parametrize("name", FOREIGN)
def test_other_families_are_named_with_a_way_out(tmp_path: Path, name: str) -> None:
    prefix = "" if name.startswith(("base.", "module.")) else "module."
    torch.save(backbone() | {prefix + name: torch.zeros(64)}, tmp_path / "m.pth")
    with pytest.raises(CheckpointError, match=FOREIGN[name]):
        load_checkpoint(tmp_path / "m.pth")


@pytest.mark.parametrize(
    ("gone", "added", "message"),
    [
        ("qkv.bias", None, "TransReID's vit_small, which scales attention differently"),
        ("norm.", "fc_norm.weight", "pools patches before it normalises them"),
    ],
)
def test_vits_that_compute_otherwise_are_named(
    tmp_path: Path, gone: str, added: str | None, message: str
) -> None:
    def left(name: str) -> bool:
        return name.endswith(gone) if gone == "qkv.bias" else name.startswith(gone)

    tensors = {name: tensor for name, tensor in plain().items() if not left(name)}
    tensors |= {added: torch.ones(64)} if added else {}
    torch.save(tensors, tmp_path / "m.pth")
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(tmp_path / "m.pth")


def test_a_file_that_holds_itself(tmp_path: Path) -> None:
    content: dict[str, Any] = {}
    content["model"] = content
    torch.save(content, tmp_path / "m.pth")
    with pytest.raises(CheckpointError, match="holds no named tensors"):
        load_checkpoint(tmp_path / "m.pth")


def test_a_role_that_a_file_has_not(tmp_path: Path) -> None:
    torch.save(backbone(), tmp_path / "m.pth")
    save_file(backbone(), tmp_path / "m.safetensors")
    for path in tmp_path.iterdir():
        with pytest.raises(CheckpointError, match="has no 'teacher' entry"):
            load_checkpoint(path, role="teacher")


@pytest.mark.parametrize(
    ("value", "said"), [("0", "std must be positive"), ("NaN", "NaN is not a JSON number")]
)
def test_a_card_that_divides_by_no_number(value: str, said: str, tmp_path: Path) -> None:
    folder = small.folder(tmp_path / "m")
    text = (folder / "model.json").read_text()
    (folder / "model.json").write_text(re.sub(r'"std": \[\s*0.5', f'"std": [{value}', text))
    with pytest.raises(ConfigError, match=said):
        load_checkpoint(folder)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("width", 10**12),
        ("depth", 10**9),
        ("mlp_ratio", 1e9),
        ("parts", 10**12),
        ("image_size", [10**9, 32]),
        ("num_classes", 10**15),
    ],
)
def test_a_card_of_a_network_that_fits_into_no_memory(
    name: str, value: Any, tmp_path: Path
) -> None:
    folder = small.folder(tmp_path / "m")
    card = json.loads((folder / "model.json").read_text())
    card["architecture"][name] = value
    (folder / "model.json").write_text(json.dumps(card))
    with pytest.raises(ConfigError, match=f"{name} is .*; a network has at most"):
        load_checkpoint(folder)


def test_old_torch_reads_safetensors_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.save(backbone(), tmp_path / "m.pth")
    save_file(backbone(), tmp_path / "m.safetensors")
    monkeypatch.setattr(torch, "__version__", "2.9.1+cpu")
    load_checkpoint(tmp_path / "m.safetensors")
    with pytest.raises(CheckpointError, match=r"memory of torch 2\.9\.1\+cpu .*2\.10 or newer"):
        load_checkpoint(tmp_path / "m.pth")
    monkeypatch.setattr(torch, "__version__", "2.10.0")
    load_checkpoint(tmp_path / "m.pth")


def test_places_without_a_model(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match="no such file or folder"):
        load_checkpoint(tmp_path / "none")
    with pytest.raises(ModelNotFoundError, match="found: none"):
        load_checkpoint(tmp_path)
    for name in ("a.pth", "b.pth"):
        torch.save(backbone(), tmp_path / name)
    with pytest.raises(ModelNotFoundError, match=r"found: a\.pth, b\.pth"):
        load_checkpoint(tmp_path)
    with pytest.raises(ModelNotFoundError, match=r"no model\.json"):
        load_folder(tmp_path)
    (tmp_path / "dir.pth").mkdir()
    with pytest.raises(ModelNotFoundError):
        load_checkpoint(tmp_path / "dir.pth")
    (tmp_path / "a.pth").unlink()
    (tmp_path / "b.pth").rename(tmp_path / "b.bin")
    assert load_checkpoint(tmp_path).card.name == "b"


def test_a_file_that_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.save(backbone(), tmp_path / "m.pth")

    def denied(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", denied)
    with pytest.raises(CheckpointError, match=r"cannot be read \(Permission denied\)"):
        load_checkpoint(tmp_path / "m.pth")


def test_a_feature_that_needs_a_neck_needs_a_neck(tmp_path: Path) -> None:
    torch.save(backbone(), tmp_path / "m.pth")
    with pytest.raises(CheckpointError, match="has no neck, so no feature 'after'"):
        load_checkpoint(tmp_path / "m.pth", feature="after")


def test_a_neck_that_does_not_fit_the_folders_own(tmp_path: Path) -> None:
    folder = small.folder(tmp_path / "m")
    with pytest.raises(CheckpointError, match="neck does not fit single neck and cat fusion"):
        load_checkpoint(folder, neck="single")


def test_a_card_says_nothing_of_another_file_beside_it(tmp_path: Path) -> None:
    folder = small.folder(tmp_path / "m")
    torch.save(fine_tuned(), folder / "other.pth")
    assert load_checkpoint(folder / "other.pth").card.name == "other"


def test_loading_draws_no_random_numbers(tmp_path: Path) -> None:
    torch.save(fine_tuned(), tmp_path / "m.pth")
    before = torch.get_rng_state()
    load_checkpoint(tmp_path / "m.pth")
    assert torch.equal(before, torch.get_rng_state())
