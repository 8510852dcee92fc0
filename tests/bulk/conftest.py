"""Pictures to embed, a quick model, a storage in memory, and what is read back."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from passreid.bulk import work
from tests.cli.conftest import cli  # noqa: F401
from tests.small import Colours, colours, picture

MODEL = {"name_or_path": "passreid-tiny"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    crops = tmp_path / "crops" / "ü"
    crops.mkdir(parents=True)
    for seed in range(7):
        Image.fromarray(picture(seed)).save(crops / f"{seed}.png")
    return crops.parent


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> Colours:
    """A model whose numbers are colours, so that only the way there is tested."""
    network = Colours()
    monkeypatch.setattr(work, "load", lambda **options: colours(network=network, batch_size=2))
    return network


@pytest.fixture
def memory() -> Iterator[Any]:
    system = fsspec.filesystem("memory")
    yield system
    system.store.clear()
    system.pseudo_dirs[:] = [""]


def rows(output: Path) -> dict[str, np.ndarray]:
    table = pq.read_table(output)
    return dict(zip(table["source"].to_pylist(), table["embedding"].to_numpy(), strict=True))


def expected(folder: Path) -> dict[str, np.ndarray]:
    paths = sorted(folder.rglob("*.png"))
    return {str(path): colours()([path])[0] for path in paths}


def assert_same(found: dict[str, np.ndarray], wanted: dict[str, np.ndarray]) -> None:
    assert found.keys() == wanted.keys()
    for name in wanted:
        np.testing.assert_allclose(found[name], wanted[name], atol=1e-5)


def failures(output: Path) -> dict[str, str]:
    lines = (output / "_failures.jsonl").read_text().splitlines()
    return {line["source"]: line["reason"] for line in map(json.loads, lines)}


def put_in_tar(folder: Path, shard: Path, mode: str = "w") -> Path:
    with tarfile.open(shard, mode) as tar:  # type: ignore[call-overload]
        for path in sorted(folder.rglob("*.png")):
            tar.add(path, path.name)
        for name, kind in (("evil.png", tarfile.SYMTYPE), ("dev.png", tarfile.CHRTYPE)):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "/etc/passwd"
            tar.addfile(info)
        tar.addfile(tarfile.TarInfo("note.txt"), io.BytesIO())
    return shard
