"""ModelScope's calls: scripts written for it run with another import line, and see the same."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from PIL import Image

import passreid
from passreid.compat import modelscope
from passreid.compat.modelscope import OutputKeys, ReIDPipeline, Tasks, pipeline
from passreid.embed import Embedder, load
from passreid.errors import ImageError, ModelNotFoundError, UsageError
from tests import seeded, small

GOLDEN = Path(__file__).parent / "golden"
MODEL_ID = "damo/cv_passvitb_image-reid-person_market"
SAMPLE_URL = "https://modelscope.oss-cn-beijing.aliyuncs.com/test/images/image_reid_person.jpg"


def modelscope_folder(folder: Path, *, size: tuple[int, int], **shapes: Any) -> Path:
    """Fabricate what ModelScope ships, and a Python file that must never run."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {
        name: torch.from_numpy(seeded.tensor(name, shape))
        for name, shape in seeded.pass_shapes(**shapes).items()
    }
    torch.save(tensors, folder / "pytorch_model.pt")
    half = [0.5, 0.5, 0.5]
    cfg = {
        "INPUT": {"SIZE_TRAIN": size, "SIZE_TEST": size, "PIXEL_MEAN": half, "PIXEL_STD": half},
        "MODEL": {"STRIDE_SIZE": [16, 16], "MULTI_NECK": True, "FEAT_FUSION": "cat"},
        "TEST": {"NECK_FEAT": "before"},
    }
    document = {
        "framework": "pytorch",
        "task": "image-reid-person",
        "pipeline": {"type": "passvitb-image-reid-person"},
        "model": {"type": "passvitb", "cfg": cfg},
        "plugins": ["evil"],
        "allow_remote": True,
    }
    (folder / "configuration.json").write_text(json.dumps(document))
    trap = f"open({str(folder / 'ran')!r}, 'w')\nraise SystemExit\n"
    for name in ("ms_wrapper.py", "__init__.py", "evil.py"):
        (folder / name).write_text(trap)
    return folder


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder to work in, where the model's id is a folder of that name."""
    place = tmp_path_factory.mktemp("place")
    modelscope_folder(place / MODEL_ID, size=(64, 32))
    return place


@pytest.fixture
def reid(place: Path) -> ReIDPipeline:
    return pipeline(Tasks.image_reid_person, model=place / MODEL_ID)


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "photo.png"
    Image.fromarray(small.picture(1)).save(path)
    return path


def test_the_first_sample_of_the_model_card(
    place: Path, photo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def download(url: str, *_: Any, **__: Any) -> bytes:
        asked.append(url)
        return photo.read_bytes()

    monkeypatch.setattr("passreid.fetch.download", download)
    monkeypatch.chdir(place)
    image_reid_person = pipeline(Tasks.image_reid_person, model=MODEL_ID)
    result: Any = image_reid_person(SAMPLE_URL)
    assert asked == [SAMPLE_URL]
    embedding = result[OutputKeys.IMG_EMBEDDING]
    assert result.keys() == {"img_embedding"}
    assert (embedding.shape, embedding.dtype) == ((1, 128), np.float32)
    assert abs(np.linalg.norm(embedding) - 1) > 0.5
    assert not list(place.rglob("ran"))
    assert "modelscope" not in sys.modules


def test_the_second_sample_of_the_model_card(
    place: Path, photo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tmp_path / "other.png"
    Image.fromarray(small.picture(2)).save(other)
    monkeypatch.chdir(place)
    image_reid_person = pipeline(Tasks.image_reid_person, model=MODEL_ID)
    scores = []
    for location in (photo, other):
        pair = [image_reid_person(str(each)) for each in (photo, location)]
        first, second = (np.array(each[OutputKeys.IMG_EMBEDDING][0]) for each in pair)
        assert first.shape == (128,)
        scores.append(np.dot(first / np.linalg.norm(first), second / np.linalg.norm(second)))
    assert scores[0] == pytest.approx(1, abs=1e-6)
    assert -1 <= scores[1] < 0.999


def test_every_form_of_input(reid: ReIDPipeline, photo: Path) -> None:
    expected = reid(str(photo))["img_embedding"]
    bgr = small.picture(1)[..., ::-1]
    for one in (photo, photo.read_bytes(), Image.open(photo), bgr, {"image": str(photo)}):
        np.testing.assert_array_equal(reid(one)["img_embedding"], expected)
    grey = reid(small.picture(1)[..., 0])["img_embedding"]
    assert grey.shape == (1, 128)
    assert not np.array_equal(reid(small.picture(1))["img_embedding"], expected)


def test_exif_is_applied_to_files_and_not_to_pil_images(reid: ReIDPipeline) -> None:
    path = GOLDEN / "images_exif6_160x72.jpg"
    upright = Image.open(path).transpose(Image.Transpose.ROTATE_270)
    turned = reid(str(path))["img_embedding"]
    np.testing.assert_array_equal(turned, reid(upright.convert("RGB"))["img_embedding"])
    assert not np.array_equal(turned, reid(Image.open(path))["img_embedding"])


@pytest.mark.parametrize("batch_size", [None, 1, 2, 50])
def test_a_list_gives_a_list_in_order(reid: ReIDPipeline, batch_size: int | None) -> None:
    pictures = [small.picture(n) for n in range(5)]
    results = reid(pictures, batch_size=batch_size)
    assert isinstance(results, list)
    for result, picture in zip(results, pictures, strict=True):
        assert result["img_embedding"].shape == (1, 128)
        alone = reid(picture)["img_embedding"]
        np.testing.assert_allclose(result["img_embedding"], alone, atol=1e-5)
    assert reid([]) == []


def test_outputs_do_not_share_memory(reid: ReIDPipeline) -> None:
    first, second = reid([small.picture(1), small.picture(1)])
    first["img_embedding"][:] = 0
    assert second["img_embedding"].any()


def test_mistakes_are_named(reid: ReIDPipeline, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"\{'image': …\}"):
        reid({"img": "a.jpg"})
    with pytest.raises(ImageError, match=r"gone\.jpg"):
        reid(str(tmp_path / "gone.jpg"))
    with pytest.raises(UsageError, match="Unknown task 'image-captioning'"):
        pipeline("image-captioning")
    with pytest.raises(UsageError, match=r"'batchsize'\. Did you mean 'batch_size'"):
        pipeline(Tasks.image_reid_person, model=tmp_path, batchsize=3)


def test_without_a_model_it_is_modelscopes_own(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(place)
    assert pipeline(Tasks.image_reid_person).embedder.card.name == MODEL_ID.split("/")[1]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PASSREID_OFFLINE", "1")
    monkeypatch.setenv("PASSREID_CACHE", str(tmp_path))
    with pytest.raises(ModelNotFoundError, match=MODEL_ID):
        pipeline(Tasks.image_reid_person)
    with pytest.raises(ModelNotFoundError, match="v9"):
        pipeline(Tasks.image_reid_person, MODEL_ID + "x/y", model_revision="v9")


@pytest.mark.parametrize("device", ["gpu", "gpu:1", "cuda", "cuda:0", "GPU:0"])
@pytest.mark.parametrize(("there", "asked"), [("cuda", None), ("mps", "auto"), (None, "auto")])
def test_what_wants_cuda_runs_without_it(
    device: str, there: str | None, asked: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    devices = []

    def load(name: str, *, device: str) -> Embedder:
        devices.append(device)
        return cast("Embedder", None)

    monkeypatch.setattr(modelscope, "load", load)
    monkeypatch.setattr(modelscope, "gpu", lambda: there)
    pipeline(Tasks.image_reid_person, device=device)
    assert devices == [asked or device.lower().replace("gpu", "cuda")]


def test_devices_and_options_go_to_load(place: Path) -> None:
    made = pipeline(Tasks.image_reid_person, place / MODEL_ID, device="cpu", flip=True)
    assert (made.embedder.device, made.embedder.flip) == ("cpu", True)
    with pytest.raises(UsageError, match="no device 'moon'"):
        pipeline(Tasks.image_reid_person, place / MODEL_ID, device="moon")
    # The original ignores the revision of a folder, too.
    folder = str(place / MODEL_ID)
    assert pipeline(Tasks.image_reid_person, folder, model_revision="v1.0.1").embedder.dim
    embedder = load(place / MODEL_ID)
    assert pipeline(Tasks.image_reid_person, embedder).embedder is embedder


def test_it_is_the_public_pipeline() -> None:
    assert passreid.pipeline is pipeline
    assert Tasks.image_reid_person == "image-reid-person"
    assert OutputKeys.IMG_EMBEDDING == "img_embedding"


@pytest.mark.slow
def test_the_originals_own_outputs(tmp_path: Path) -> None:
    """Seeded ViT-B through ModelScope 1.40's pipeline: files, PIL images and a BGR array."""
    stored = np.load(GOLDEN / "pipeline_modelscope.npz")
    folder = modelscope_folder(
        tmp_path, size=(256, 128), width=768, depth=12, patches=128, classes=751
    )
    reid = pipeline(Tasks.image_reid_person, folder)
    inputs: list[Any] = []
    for kind, what in (str(name).split(":") for name in stored["names"]):
        if "." in what:
            path = GOLDEN / f"images_{what}"
            inputs.append(str(path) if kind == "path" else Image.open(path))
        else:
            height, width = (int(side) for side in what.split("_")[1].split("x"))
            pixels = seeded.image(what, height, width)
            inputs.append(pixels[..., ::-1] if kind == "bgr" else Image.fromarray(pixels))
    rows = np.concatenate([output["img_embedding"] for output in reid(inputs)])
    difference = rows - stored["embedding"]
    assert np.abs(difference).max() < 5e-5
    assert np.linalg.norm(difference) / np.linalg.norm(stored["embedding"]) < 1e-5
