"""Camera means: running, shrunk, saved; and what subtracting them does."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from passreid.centring import CameraMeans
from passreid.errors import EmbeddingError, UsageError


def crops(count: int = 60, seed: int = 0) -> tuple[npt.NDArray[np.float32], list[str]]:
    """Embeddings with an offset for each camera."""
    rng = np.random.default_rng(seed)
    cameras = rng.choice(["gate", "door", "hall"], count).tolist()
    offset = {"gate": 1.0, "door": -1.0, "hall": 0.0}
    shift = np.array([offset[c] for c in cameras])[:, None]
    rows = rng.normal(size=(count, 8)) + shift * np.eye(8)[0]
    return rows.astype(np.float32), cameras


def slow_mean(
    rows: npt.NDArray[np.float32], cameras: list[str], camera: str, k: float
) -> npt.NDArray[np.float64]:
    """The formula, from the rows themselves."""
    unit = [row / np.linalg.norm(row) for row in rows.astype(np.float64)]
    own = [row for row, name in zip(unit, cameras, strict=True) if name == camera]
    overall = np.mean(unit, axis=0)
    if not own:
        return np.asarray(overall)
    return np.asarray((len(own) * np.mean(own, axis=0) + k * overall) / (len(own) + k))


@pytest.mark.parametrize("camera", ["gate", "door", "roof"])
def test_means_are_shrunk_towards_the_mean_of_all(camera: str) -> None:
    rows, cameras = crops()
    means = CameraMeans(8, shrinkage=7)
    for start in range(0, 60, 13):  # as crops come
        means.add(rows[start : start + 13], cameras[start : start + 13])
    np.testing.assert_allclose(means.mean(camera), slow_mean(rows, cameras, camera, 7), atol=1e-6)


def test_removed_crops_leave_no_trace() -> None:
    rows, cameras = crops()
    means, kept = CameraMeans(8), CameraMeans(8)
    means.add(rows, cameras)
    means.remove(rows[:25], cameras[:25])
    kept.add(rows[25:], cameras[25:])
    assert means.counts == kept.counts
    for camera in ("gate", "door", "hall"):
        np.testing.assert_allclose(means.mean(camera), kept.mean(camera), atol=1e-7)
    means.remove(rows[25:], cameras[25:])
    assert means.counts == {}
    with pytest.raises(UsageError, match="Camera gate has fewer crops"):
        means.remove(rows[:1], ["gate"])


def test_centred_rows_have_unit_length_and_no_camera_offset() -> None:
    rows, cameras = crops(3000)
    means = CameraMeans(8)
    means.add(rows, cameras)
    centred = means.centre(rows, cameras)
    np.testing.assert_allclose(np.linalg.norm(centred, axis=1), 1, atol=1e-6)
    for camera in ("gate", "door"):
        chosen = np.array(cameras) == camera
        unit = rows[chosen] / np.linalg.norm(rows[chosen], axis=1, keepdims=True)
        assert np.linalg.norm(centred[chosen].mean(axis=0)) < 0.2 * np.linalg.norm(
            unit.mean(axis=0)
        )


def test_an_unknown_camera_is_in_no_mean_and_gets_the_mean_of_all() -> None:
    rows, cameras = crops()
    means = CameraMeans(8)
    means.add(rows, cameras)
    before = means.mean(None)
    means.add(rows[:3], [None, None, None])
    np.testing.assert_array_equal(means.mean(None), before)
    np.testing.assert_allclose(before, slow_mean(rows, cameras, "roof", 0), atol=1e-6)
    assert np.array_equal(CameraMeans(8).mean("gate"), np.zeros(8))


def test_means_survive_the_file(tmp_path: Path) -> None:
    rows, cameras = crops()
    means = CameraMeans(8, shrinkage=3)
    means.add(rows, cameras)
    means.save(tmp_path / "cameras.npz")
    read = CameraMeans.load(tmp_path / "cameras.npz")
    np.testing.assert_array_equal(read.centre(rows, cameras), means.centre(rows, cameras))
    assert read.counts == means.counts


@pytest.mark.parametrize("damage", ["missing", "text", "other", "nan"])
def test_other_files_are_refused(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "cameras.npz"
    if damage == "text":
        path.write_text("no archive")
    elif damage == "other":
        np.savez(path, paths=["a"], embeddings=np.ones((1, 8)))
    elif damage == "nan":
        np.savez(path, cameras=["a"], counts=[3], sums=np.full((1, 8), np.nan), shrinkage=1.0)
    with pytest.raises(UsageError, match=r"cameras\.npz: holds no camera means"):
        CameraMeans.load(path)


def test_embeddings_that_do_not_fit_are_refused() -> None:
    means = CameraMeans(8)
    with pytest.raises(EmbeddingError, match="means of 8 numbers cannot take 2 embeddings of 3"):
        means.add(np.ones((2, 3)), ["a", "b"])
    with pytest.raises(EmbeddingError, match="by 1 cameras"):
        means.centre(np.ones((2, 8)), ["a"])
