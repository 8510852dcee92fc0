"""The wheel: complete, described, and able to run from an empty environment."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def run(*command: str, folder: Path, **environment: str) -> str:
    done = subprocess.run(
        command,
        cwd=folder,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("wheel")
    source = out / "source"  # a copy: builds leave files behind, and pick up those of earlier ones
    for name in ("pyproject.toml", "README.md", "LICENSE", "LICENSES.md"):
        source.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, source)
    ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
    shutil.copytree(ROOT / "src", source / "src", ignore=ignored)
    command = "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(out), str(source)
    run(sys.executable, "-m", *command, folder=out)
    [built] = out.glob("*.whl")
    return built


@pytest.mark.slow
def test_wheel_holds_weights_page_fonts_and_licences(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    for part in (
        "passreid/models/passreid-tiny/model.safetensors",
        "passreid/models/passreid-tiny/model.onnx",
        "passreid/server/page/index.html",
        "passreid/show/fonts/DejaVuSans.ttf",
        "passreid/py.typed",
    ):
        assert part in names
    assert any(name.endswith("licenses/LICENSES.md") for name in names)
    assert not any(name.startswith(("tests/", "docs/")) for name in names)
    assert wheel.stat().st_size < 12_000_000


@pytest.mark.slow
def test_long_description_renders(wheel: Path) -> None:
    pytest.importorskip("twine")
    assert "PASSED" in run(sys.executable, "-m", "twine", "check", str(wheel), folder=ROOT)


@pytest.mark.slow
def test_wheel_alone_ranks_and_compares(wheel: Path, tmp_path: Path) -> None:
    place = tmp_path / "site"
    command = "pip", "install", "--quiet", "--no-deps", "--target", str(place), str(wheel)
    run(sys.executable, "-m", *command, folder=tmp_path)
    told = run(
        sys.executable, "-m", "passreid", "demo", "--output", "demo",
        folder=tmp_path, PYTHONPATH=str(place),
    )  # fmt: skip
    assert "same person" in told
    where = run(
        sys.executable, "-c", "import passreid; print(passreid.__file__)",
        folder=tmp_path, PYTHONPATH=str(place),
    )  # fmt: skip
    assert where.startswith(str(place))
