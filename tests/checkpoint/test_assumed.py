"""What a weight file does not show is found, asked for, or assumed aloud."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

import passreid
from passreid.card import HALF, IMAGENET_MEAN, IMAGENET_STD
from passreid.checkpoint import initialise, load_checkpoint
from passreid.errors import CheckpointError, PassreidError, UsageError
from passreid.model import PartViT
from tests import plain_vit, seeded, small
from tests.checkpoint.fabricate import (
    IMAGES,
    SUPERVISED,
    TINY,
    Tensors,
    backbone,
    bare,
    build,
    plain,
    prefixed,
)
from tests.cli.conftest import Cli, cli  # noqa: F401 - a fixture


def transreid(tensors: Tensors) -> Tensors:
    """Make a fine-tuned TransReID of a plain ViT."""
    return prefixed("base.", tensors) | build(seeded.neck_shapes("bottleneck", 64))


def images(height: int, width: int) -> torch.Tensor:
    return torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("patches", "size", "stride"),
    [
        (210, (256, 128), (12, 12)),
        (128, (256, 128), (16, 16)),
        (310, (384, 128), (12, 12)),
        (441, (256, 256), (12, 12)),
    ],
)
def test_overlapping_patches_of_published_sizes(
    tmp_path: Path, patches: int, size: Any, stride: Any
) -> None:
    tensors = transreid(plain(patches=patches))
    torch.save(tensors, tmp_path / "m.pth")
    given = {"image_size": size} if patches == 441 else {}  # which could be 336x336
    model, card, report = load_checkpoint(tmp_path / "m.pth", **given)
    assert (card.architecture.image_size, card.architecture.stride) == (size, stride)
    assert report.resized is None and report.assumed["stride"] == stride
    pixels = images(*size)
    special = plain_vit.tokens(bare(tensors), pixels, heads=1, stride=stride)
    with torch.inference_mode():
        torch.testing.assert_close(model(pixels), special[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("patches", "inputs"),
    [
        (192, ["--image-size 384 128 --stride 16 16", "--image-size 256 192 --stride 16 16"]),
        (162, ["--image-size 288 144 --stride 16 16", "--image-size 256 128 --stride 14 14"]),
        (243, ["--image-size 432 144 --stride 16 16", "--image-size 384 128 --stride 14 14"]),
        (441, ["--image-size 336 336 --stride 16 16", "--image-size 256 256 --stride 12 12"]),
    ],
)
def test_several_inputs_that_fit_are_listed(
    tmp_path: Path, patches: int, inputs: list[str]
) -> None:
    torch.save(transreid(plain(patches=patches)), tmp_path / "m.pth")
    with pytest.raises(CheckpointError, match=f"{patches} patch positions fit several") as error:
        load_checkpoint(tmp_path / "m.pth")
    for option in inputs:
        assert option in str(error.value)
        words = option.split()
        size: Any = (int(words[1]), int(words[2]))
        stride: Any = (int(words[4]), int(words[5]))
        for given in ({"image_size": size, "stride": stride}, {"image_size": size}):
            _, card, report = load_checkpoint(tmp_path / "m.pth", **given)
            assert card.architecture.image_size == size and report.resized is None
            assert card.architecture.stride == stride


def test_a_stride_alone_chooses_among_inputs(tmp_path: Path) -> None:
    torch.save(transreid(plain(patches=162)), tmp_path / "m.pth")
    _, card, report = load_checkpoint(tmp_path / "m.pth", stride=(14, 14))
    assert (card.architecture.image_size, report.resized) == ((256, 128), None)


def test_another_size_than_the_files_keeps_its_stride(tmp_path: Path) -> None:
    torch.save(transreid(plain(patches=210)), tmp_path / "m.pth")
    _, card, report = load_checkpoint(tmp_path / "m.pth", image_size=(384, 128))
    assert (card.architecture.stride, report.resized) == ((12, 12), ((21, 10), (31, 10)))


def test_initialise_prefers_the_models_own_input(tmp_path: Path) -> None:
    torch.save(backbone(patches=192), tmp_path / "pass.pth")
    for size, grid in (((256, 192), (16, 12)), ((384, 128), (24, 8))):
        a = passreid.card.Architecture(width=64, depth=2, heads=1, image_size=size)
        report = initialise(PartViT(a), tmp_path / "pass.pth")
        assert report.resized is None and a.grid == grid
    with pytest.raises(CheckpointError, match="fit several inputs"):
        initialise(PartViT(TINY), tmp_path / "pass.pth")


@pytest.mark.parametrize(("width", "heads"), [(1280, 16), (1408, 16), (1024, 16), (384, 6)])
def test_heads_of_published_vits(tmp_path: Path, width: int, heads: int) -> None:
    shapes = seeded.backbone_shapes(width=width, depth=1)
    shapes |= {"cls_token": (1, 1, width), "pos_embed": (1, 9, width)}
    torch.save({name: torch.zeros(shape) for name, shape in shapes.items()}, tmp_path / "h.pth")
    _, card, report = load_checkpoint(tmp_path / "h.pth")
    assert (card.architecture.heads, report.assumed["heads"]) == (heads, heads)
    assert "heads" not in load_checkpoint(tmp_path / "h.pth", heads=heads // 2).report.assumed


def test_every_assumption_is_in_the_report_the_card_and_the_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    torch.save(transreid(plain()), tmp_path / "m.pth")
    _, card, report = load_checkpoint(tmp_path / "m.pth")
    options = (
        "--image-size 64 32 --stride 16 16 --heads 1 --feature before --pooling cls "
        "--mean 0.5 0.5 0.5 --std 0.5 0.5 0.5 --interpolation bilinear"
    )
    assert report.assumptions == options
    assert f"assumed: {options}" in str(report) and options in card.description
    assert [options in record.getMessage() for record in caplog.records] == [True]
    caplog.clear()
    loaded = load_checkpoint(tmp_path / "m.pth", **report.assumed)
    assert not loaded.report.assumed and not caplog.records
    assert loaded.card.architecture == card.architecture
    load_checkpoint(small.folder(tmp_path / "own"))
    assert not caplog.records


def test_what_is_given_comes_first(tmp_path: Path) -> None:
    torch.save(transreid(plain()), tmp_path / "m.pth")
    given: Any = {"mean": (0.1, 0.2, 0.3), "std": (0.4, 0.5, 0.6), "interpolation": "bicubic"}
    card = load_checkpoint(tmp_path / "m.pth", feature="after", **given).card
    assert (card.mean, card.std, card.interpolation) == tuple(given.values())
    assert card.architecture.feature == "after"


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        (
            "config.json",
            {"architecture": "vit", "pretrained_cfg": {"mean": [0.5] * 3, "std": [0.5] * 3,
             "input_size": [3, 64, 64], "interpolation": "bicubic"}},
            (HALF, HALF, "bicubic"),
        ),
        (
            "preprocessor_config.json",
            {"image_mean": [0.5] * 3, "image_std": [0.25] * 3, "resample": 3, "size": 224},
            (HALF, (0.25,) * 3, "bicubic"),
        ),
        ("preprocessor_config.json", {"image_mean": [0.1] * 3, "resample": 2,
                                      "size": {"height": 224, "width": 224}},
         ((0.1,) * 3, IMAGENET_STD, "bilinear")),
        ("config.json", {"model_type": "bert", "size": [1]}, None),
        ("config.json", "// not JSON", None),
    ],
)  # fmt: skip
def test_hugging_faces_configuration_is_read(
    tmp_path: Path, name: str, content: Any, expected: Any
) -> None:
    torch.save(plain(patches=16), tmp_path / "pytorch_model.bin")
    text = content if isinstance(content, str) else json.dumps(content)
    (tmp_path / name).write_text(text)
    for path in (tmp_path, tmp_path / "pytorch_model.bin"):
        _, card, report = load_checkpoint(path)
        mean, std, interpolation = expected or (IMAGENET_MEAN, IMAGENET_STD, "bilinear")
        assert (card.mean, card.std, card.interpolation) == (mean, std, interpolation)
        assert ("mean" in report.assumed) == (expected is None)
        assert card.architecture.image_size == (64, 64)
    assert load_checkpoint(tmp_path, mean=(0.3, 0.3, 0.3)).card.mean == (0.3, 0.3, 0.3)


def test_a_size_of_hugging_face_chooses_among_inputs(tmp_path: Path) -> None:
    torch.save(plain(patches=192), tmp_path / "pytorch_model.bin")
    (tmp_path / "config.json").write_text('{"pretrained_cfg": {"input_size": [3, 256, 192]}}')
    _, card, report = load_checkpoint(tmp_path)
    assert card.architecture.image_size == (256, 192) and "image_size" not in report.assumed


@pytest.mark.parametrize("values", [{"mean": [0.5]}, {"mean": "half"}, {"mean": [0.5, None, 1]}])
def test_a_hugging_face_configuration_that_cannot_be_is_not_taken(
    tmp_path: Path, values: dict[str, Any]
) -> None:
    torch.save(plain(), tmp_path / "pytorch_model.bin")
    (tmp_path / "config.json").write_text(json.dumps({"pretrained_cfg": values}))
    assert load_checkpoint(tmp_path).report.assumed["mean"] == IMAGENET_MEAN


@pytest.mark.parametrize("feature", ["before", "after"])
@pytest.mark.parametrize("pooling", ["avg", "max", "avg_max", "gem"])
def test_poolings_of_personvit(tmp_path: Path, pooling: Any, feature: Any) -> None:
    tensors = transreid(plain(patches=8))
    torch.save(tensors, tmp_path / "m.pth")
    model = load_checkpoint(tmp_path / "m.pth", pooling=pooling, feature=feature).model
    x = plain_vit.everything(bare(tensors), IMAGES, heads=1, stride=(16, 16))
    patches = list(x[:, 1:].unbind(1))
    fours = [torch.stack(patches[i : i + 4]).max(dim=0).values for i in (0, 4)]
    by_name: dict[str, Any] = {
        "avg": sum(patches) / 8,
        "max": torch.stack(patches).max(dim=0).values,
        "avg_max": (fours[0] + fours[1]) / 2,
        "gem": x[:, 0] + (sum(p.clamp(min=1e-6) ** 3 for p in patches) / 8) ** (1 / 3),
    }
    expected = by_name[pooling]
    if feature == "after":
        expected = plain_vit.batch_norm(tensors, "bottleneck", expected)
    with torch.inference_mode():
        torch.testing.assert_close(model(IMAGES), expected, rtol=1e-4, atol=1e-5)


def jigsawed(patches: int) -> Tensors:
    """Return a TransReID with jigsaw branches, as it is saved."""
    tensors = prefixed("base.", plain(patches=patches))
    last = "base.blocks.1."
    for name in [name for name in tensors if name.startswith((last, "base.norm."))]:
        for branch in ("b1", "b2"):
            bare_name = name.replace(last, "0.").replace("base.norm.", "1.")
            tensors |= build({f"{branch}.{bare_name}": tuple(tensors[name].shape)})
    for neck in ("bottleneck", *(f"bottleneck_{i}" for i in range(1, 5))):
        tensors |= build(seeded.neck_shapes(neck, 64))
    heads = ("classifier", *(f"classifier_{i}" for i in range(1, 5)))
    return tensors | build({f"{head}.weight": (9, 64) for head in heads})


@pytest.mark.parametrize("feature", ["before", "after"])
@pytest.mark.parametrize(("patches", "size"), [(8, (64, 32)), (15, (80, 48))])
def test_jigsaw_branches_of_transreid(
    tmp_path: Path, patches: int, size: tuple[int, int], feature: Any
) -> None:
    tensors = jigsawed(patches)
    torch.save(prefixed("module.", tensors), tmp_path / "m.pth")
    model, card, report = load_checkpoint(tmp_path / "m.pth", image_size=size, feature=feature)
    assert (card.architecture.dim, report.format) == (320, "transreid-jpm")
    assert len(report.set_aside["replaced by the jigsaw branches' own"]) == 14
    assert len(report.set_aside["identity classifier"]) == 5
    pixels = images(*size)
    found = plain_vit.jigsaw(bare(tensors), pixels, heads=1, stride=(16, 16))
    if feature == "after":
        necks = (*SUPERVISED, "bottleneck_4")
        pairs = zip(necks, found, strict=True)
        found = [plain_vit.batch_norm(tensors, neck, x) for neck, x in pairs]
    expected = torch.cat([found[0], *(x / 4 for x in found[1:])], dim=1)
    with torch.inference_mode():
        torch.testing.assert_close(model(pixels), expected, rtol=1e-4, atol=1e-5)


def test_side_information_asks_for_the_camera(tmp_path: Path) -> None:
    tensors = transreid(plain()) | build({"base.sie_embed": (6, 1, 64)})
    torch.save(tensors, tmp_path / "m.pth")
    for camera in (None, 6, -1):
        with pytest.raises(CheckpointError, match=r"Choose it with --sie-camera .*0 to 5"):
            load_checkpoint(tmp_path / "m.pth", sie_camera=camera)
    changed = bare(tensors)
    for weight in (3.0, 1.5):
        given: Any = {} if weight == 3.0 else {"sie_weight": weight}
        model, _, report = load_checkpoint(tmp_path / "m.pth", sie_camera=4, **given)
        assert report.assumed.get("sie_weight") == (3.0 if weight == 3.0 else None)
        moved = bare(tensors)["pos_embed"] + weight * tensors["base.sie_embed"][4]
        special = plain_vit.tokens(changed | {"pos_embed": moved}, IMAGES, heads=1, stride=(16, 16))
        with torch.inference_mode():
            torch.testing.assert_close(model(IMAGES), special[0], rtol=1e-4, atol=1e-5)
    torch.save(transreid(plain()), tmp_path / "plain.pth")
    with pytest.raises(CheckpointError, match="has no side information"):
        load_checkpoint(tmp_path / "plain.pth", sie_camera=1)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"stride": (0, 0)}, r"stride is \(0, 0\); give two positive numbers"),
        ({"stride": 12}, "stride is 12; give two"),
        ({"image_size": (256,)}, "image_size is .256,.; give two"),
        ({"imagesize": (64, 32)}, "Unknown option 'imagesize'. Did you mean 'image_size'"),
        ({"heads": 7}, r"heads \(7\) must divide width"),
        ({"std": (0.0, 1.0, 1.0)}, "std must be positive"),
        ({"pooling": "avg_max", "image_size": (64, 48)}, "needs a multiple of 4 patches|avg_max"),
    ],
)
def test_values_that_cannot_be_are_refused(
    tmp_path: Path, given: dict[str, Any], message: str
) -> None:
    torch.save(transreid(plain(patches=9)), tmp_path / "m.pth")
    with pytest.raises(PassreidError, match=message):
        load_checkpoint(tmp_path / "m.pth", **given)


def test_lists_are_taken_as_tuples(tmp_path: Path) -> None:
    torch.save(transreid(plain(patches=192)), tmp_path / "m.pth")
    given: Any = {"image_size": [256, 192], "mean": [0.1, 0.2, 0.3]}
    card = load_checkpoint(tmp_path / "m.pth", **given).card
    assert (card.architecture.grid, card.mean) == ((16, 12), (0.1, 0.2, 0.3))


def test_load_passes_what_a_file_does_not_say(tmp_path: Path) -> None:
    torch.save(transreid(plain()), tmp_path / "m.pth")
    embedder = passreid.load(tmp_path / "m.pth", heads=2, mean=(0.1, 0.2, 0.3), feature=None)
    assert (embedder.card.architecture.heads, embedder.card.mean) == (2, (0.1, 0.2, 0.3))
    assert embedder.identity != passreid.load(tmp_path / "m.pth").identity
    with pytest.raises(UsageError, match=r"leave out heads, or use backend='torch'"):
        passreid.load("passreid-tiny", backend="onnx", heads=2)


@pytest.mark.parametrize("verb", ["embed", "compare", "rank", "models", "convert"])
def test_every_verb_says_what_it_assumed_and_takes_it(
    cli: Cli,  # noqa: F811
    tmp_path: Path,
    verb: str,
) -> None:
    torch.save(transreid(plain()), tmp_path / "m.pth")
    picture = tmp_path / "crops" / "a.png"
    picture.parent.mkdir()
    Image.fromarray(small.picture(0)).save(picture)
    words: dict[str, list[Any]] = {
        "embed": [picture, "--model", tmp_path / "m.pth"],
        "compare": [picture, picture, "--model", tmp_path / "m.pth"],
        "rank": [picture, picture.parent, "--model", tmp_path / "m.pth"],
        "models": [tmp_path / "m.pth"],
        "convert": [tmp_path / "m.pth", tmp_path / "out"],
    }
    given = "--image-size 64 32 --stride 16 16 --heads 2 --mean 0.5 0.5 0.5 --std 0.5 0.5 0.4"
    ran = cli(verb, *words[verb])
    assert ran.code == 0, ran.err
    assert ran.err.count("--image-size 64 32 --stride 16 16 --heads 1 --feature before") == 1
    ran = cli(verb, *words[verb], *given.split(), "--feature", "after")
    assert ran.code == 0, ran.err
    assert "--pooling cls" in ran.err and "--heads" not in ran.err
