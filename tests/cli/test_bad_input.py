"""Bad input: one clear sentence on stderr, the right exit code, nothing half-written."""

from __future__ import annotations

import re
import shlex
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from passreid.data import ReIDDataset
from tests.cli.conftest import Cli


def giant_png() -> bytes:
    """Header of a 60,000 x 60,000 picture, with nothing behind it."""
    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    chunks = (b"IHDR", header), (b"IDAT", zlib.compress(bytes(1000)))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in chunks
    )


def make(kind: str, folder: Path) -> Path:
    rng = np.random.default_rng(0)
    rgb = Image.fromarray(rng.integers(0, 256, (128, 64, 3), dtype=np.uint8))
    path = folder / kind
    if kind.startswith("empty"):
        path.write_bytes(b"")
    elif kind.startswith("truncated"):
        rgb.save(path)
        path.write_bytes(path.read_bytes()[:700])
    elif kind.startswith("giant"):
        path.write_bytes(giant_png())
    elif kind.startswith("text"):
        path.write_text("this is not a picture")
    elif kind == "one-pixel.png":
        rgb.crop((0, 0, 1, 1)).save(path)
    elif kind == "16-bit.png":
        Image.fromarray(rng.integers(0, 65536, (128, 64), dtype=np.uint16)).save(path)
    elif kind == "animated.gif":
        rgb.save(path, save_all=True, append_images=[rgb.rotate(90), rgb.rotate(180)])
    elif kind != "missing.jpg":
        mode = {"grey.png": "L", "rgba.png": "RGBA", "palette.png": "P", "cmyk.jpg": "CMYK"}[kind]
        rgb.convert(mode).save(path)
    return path


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("missing.jpg", "no such file"),
        ("empty.jpg", "empty"),
        ("truncated.jpg", "truncated|damaged|incomplete"),
        ("giant.png", "60000 x 60000"),
        ("text.jpg", "not a picture|not a .* file|JPEG"),
    ],
)
def test_unreadable_pictures(kind: str, message: str, cli: Cli, tmp_path: Path) -> None:
    path = make(kind, tmp_path)
    output = tmp_path / "out.npz"
    ran = cli("embed", path, "--output", output)
    assert ran.code == 1
    assert ran.err.startswith(f"error: {path}: ")
    assert ran.err.count("\n") == 1
    assert "Traceback" not in ran.err
    assert re.search(message, ran.err)
    assert not output.exists()


@pytest.mark.parametrize(
    "kind",
    [
        "one-pixel.png",
        "grey.png",
        "rgba.png",
        "palette.png",
        "16-bit.png",
        "cmyk.jpg",
        "animated.gif",
    ],
)
def test_unusual_pictures_are_read(kind: str, cli: Cli, tmp_path: Path) -> None:
    ran = cli("embed", make(kind, tmp_path), "--json")
    assert ran.code == 0, ran.err
    assert len(ran.out.splitlines()) == 1


@pytest.mark.loopback
@pytest.mark.enable_socket
def test_an_address_inside_the_network_is_refused(cli: Cli) -> None:
    ran = cli("embed", "https://127.0.0.1/a.jpg", "--json")
    assert ran.code == 1
    assert "127.0.0.1" in ran.err


def test_a_folder_without_pictures(cli: Cli, people: ReIDDataset, tmp_path: Path) -> None:
    ran = cli("rank", people.query[0].path, tmp_path)
    assert ran.code == 2
    assert str(tmp_path) in ran.err


def test_a_set_without_positives_says_what_to_do(cli: Cli, tmp_path: Path) -> None:
    for folder in ("query", "bounding_box_test", "bounding_box_train"):
        (tmp_path / folder).mkdir()
    picture = Image.new("RGB", (64, 128))
    picture.save(tmp_path / "query" / "0001_c1s1_000001_00.jpg")
    picture.save(tmp_path / "bounding_box_test" / "0001_c1s1_000002_00.jpg")
    ran = cli("evaluate", tmp_path, "--json")
    assert ran.code == 1
    assert "--no-camera-filter" in ran.err
    assert cli("evaluate", tmp_path, "--json", "--no-camera-filter").code == 0


def test_a_folder_that_is_no_data_set(cli: Cli, tmp_path: Path) -> None:
    ran = cli("evaluate", tmp_path)
    assert ran.code == 1
    assert str(tmp_path) in ran.err


def test_unknown_options_and_values_suggest_the_nearest(cli: Cli, tmp_path: Path) -> None:
    ran = cli("embed", "a.jpg", "--outptu", "x.npz")
    assert ran.code == 2
    assert "--output" in ran.err
    assert cli("embde", "a.jpg").code == 2
    assert "embed" in cli("embde", "a.jpg").err
    wrong = cli("embed", "a.jpg", "--batch-size", "many")
    assert wrong.code == 2
    assert "--batch-size" in wrong.err
    unknown = cli("embed", "a.jpg", "--model", "passreid-tniy")
    assert unknown.code == 1
    assert "passreid-tiny" in unknown.err


def test_an_unknown_recipe_key_suggests_the_nearest(cli: Cli, tmp_path: Path) -> None:
    recipe = tmp_path / "r.toml"
    recipe.write_text("epcohs = 3\n")
    ran = cli("finetune", tmp_path, "--output", tmp_path / "run", "--config", recipe)
    assert ran.code == 2
    assert "Did you mean 'epochs'?" in ran.err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('epochs = "three"', "'epochs' is 'three', expected int"),
        ('optimizer = "lion"', "'optimizer' is 'lion', expected 'sgd' or 'adamw'"),
        ("mean = 0.5", "'mean' is 0.5, expected a list: float, float, float"),
        ('mean = [1, "a", 0.5]', "expected a list: float, float, float"),
        ("image_size = [256]", "expected a list: int, int."),
    ],
)
def test_a_recipe_value_of_the_wrong_type_is_named(
    line: str, said: str, cli: Cli, tmp_path: Path
) -> None:
    recipe = tmp_path / "r.toml"
    recipe.write_text(line)
    ran = cli("finetune", tmp_path, "--output", tmp_path / "run", "--config", recipe)
    assert ran.code == 2
    assert said in ran.err
    assert not (tmp_path / "run").exists()


def test_an_output_that_cannot_be_written(cli: Cli, people: ReIDDataset, tmp_path: Path) -> None:
    picture = people.query[0].path
    ran = cli("embed", picture, "--output", tmp_path / "missing" / "a.npz")
    assert ran.code == 2
    assert "does not exist" in ran.err
    assert cli("embed", picture, "--output", tmp_path / "a.csv").code == 2
    (tmp_path / "taken").write_text("mine")
    assert cli("synthetic", tmp_path).code == 2
    assert (tmp_path / "taken").read_text() == "mine"


def test_weights_with_nan_are_refused(cli: Cli, people: ReIDDataset, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    from tests import small

    folder = small.folder(tmp_path / "model")
    from safetensors.torch import load_file, save_file

    tensors = load_file(folder / "model.safetensors")
    tensors["vit.norm.weight"] = torch.full_like(tensors["vit.norm.weight"], float("nan"))
    save_file(tensors, folder / "model.safetensors")
    ran = cli("embed", people.query[0].path, "--model", folder)
    assert ran.code == 1
    assert "vit.norm.weight" in ran.err


def test_closed_output_is_no_failure() -> None:
    command = [sys.executable, "-m", "passreid", "models", "--json"]
    script = f"exec {shlex.join(command)} >&-"
    done = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_ctrl_c_while_verbs_are_imported_is_one_word() -> None:
    code = """
import sys

class Impatient:
    def find_spec(self, name, *_):
        if name == "passreid.cli.bench":
            raise KeyboardInterrupt

from passreid.cli import main

sys.meta_path.insert(0, Impatient())
main(["models"])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (130, "error: Stopped.\n")
