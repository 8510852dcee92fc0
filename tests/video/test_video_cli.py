"""`passreid video`, run: clips to tracklets, a gallery, files, and again after a kill."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import passreid
from passreid import Embedder
from passreid.video import Frame
from passreid.video.enrol import Clip, enrol_clip, memory_for, watch
from passreid.video.output import HEAD, blur_head
from passreid.video.tracking import describe
from tests.video.scene import Drawn, Walk, detector, frames, write_clip


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory, drawn: Drawn) -> Any:
    """Two clips of two people each, one of whom is in both, and their boxes as MOT text."""
    root = tmp_path_factory.mktemp("clips")
    clips = {
        "door": [Walk(1, drawn[13], 0, 39, 0, 100), Walk(2, drawn[16], 0, 39, 240, 180, top=90)],
        "hall": [Walk(1, drawn[13], 0, 39, 240, 160), Walk(3, drawn[20], 0, 39, 0, 60, top=90)],
    }
    for name, walks in clips.items():
        shown = frames(walks, 40)
        write_clip(root / f"{name}.mp4", shown)
        detect = detector(walks)
        lines = [
            f"{frame.number + 1},-1,{b[0]},{b[1]},{b[2] - b[0]},{b[3] - b[1]},0.9\n"
            for frame in shown
            for b in detect(frame).boxes
        ]
        (root / f"{name}.txt").write_text("".join(lines))
    return root


def run(*arguments: Any, folder: Path) -> Any:
    done = subprocess.run(
        [sys.executable, "-m", "passreid", "video", *map(str, arguments)],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "Traceback" not in done.stderr
    return done


def test_a_clip_is_enrolled_with_camera_time_and_source(scene: Path, tmp_path: Path) -> None:
    pytest.importorskip("faiss")
    clip = scene / "door.mp4"
    done = run(
        clip, "--detector", scene / "door.txt", "--gallery", "p.gallery", "--json",
        "--start", "2026-11-30T10:00Z", "--mot", "out.txt", "--annotate", "out.mp4",
        folder=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    told = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(told) == 2
    with passreid.open_gallery(tmp_path / "p.gallery") as gallery:
        entries = gallery.page(limit=10).entries
        assert {entry.id for entry in entries} == {each["entry"] for each in told}
        for entry in entries:
            assert entry.camera == "door"
            assert entry.time is not None and entry.time >= 1796032800
            assert entry.source.startswith("door.mp4@")
            assert entry.payload["end"] > entry.payload["start"]
            assert len(entry.payload["boxes"]) == len(entry.payload["frames"])
    assert (tmp_path / "out.mp4").stat().st_size > 1000
    first = (tmp_path / "out.txt").read_text().splitlines()[0].split(",")
    assert len(first) == 10
    again = run(clip, "--detector", scene / "door.txt", "--gallery", "p.gallery", folder=tmp_path)
    assert again.returncode == 0
    with passreid.open_gallery(tmp_path / "p.gallery") as gallery:
        assert gallery.count() == 2


def test_a_person_in_two_clips_is_linked_and_named(scene: Path, tmp_path: Path) -> None:
    pytest.importorskip("faiss")
    (tmp_path / "boxes").mkdir()
    for name in ("door", "hall"):
        done = run(
            scene / f"{name}.mp4", "--detector", scene / f"{name}.txt", "--json", folder=tmp_path
        )
        assert len(done.stdout.splitlines()) == 2
    done = run(scene / "door.mp4", "--detector", scene / "door.txt", "--link", folder=tmp_path)
    assert "2 tracklets show 2 people" in done.stdout


def test_tracklets_are_written_as_parquet_and_drawn_with_their_people(
    scene: Path, tmp_path: Path
) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    done = run(
        scene / "door.mp4", "--detector", scene / "door.txt", "--link", "--blur-heads",
        "--parquet", "t.parquet", "--sheet", "t.png", "--mot", "t.txt",
        folder=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    rows = parquet.read_table(tmp_path / "t.parquet").to_pylist()
    assert {row["person"] for row in rows} == {"person 1", "person 2"}
    assert all(row["camera"] == "door" and row["clip"] == "door.mp4" for row in rows)
    assert len(rows[0]["boxes"]) == len(rows[0]["frames"])
    assert len(rows[0]["embedding"]) == 384
    with Image.open(tmp_path / "t.png") as sheet:
        assert sheet.height > 2 * 128
    assert {line.split(",")[1] for line in (tmp_path / "t.txt").read_text().splitlines()} == {
        "1",
        "2",
    }


def test_a_killed_run_gives_the_same_tracklets_without_detecting_again(
    scene: Path, tmp_path: Path, drawn: Drawn, embedder: Embedder
) -> None:
    walks = [Walk(1, drawn[13], 0, 39, 0, 100), Walk(2, drawn[16], 0, 39, 240, 180, top=90)]
    calls = []
    inner = detector(walks)

    def counting(frame: Frame) -> Any:
        calls.append(frame.number)
        return inner(frame)

    clip = Clip(source=str(scene / "door.mp4"), camera="door")
    whole = [describe(each) for each in watch(clip, embedder, counting)]
    memory = memory_for(tmp_path, clip, "counting")
    assert memory is not None
    calls.clear()

    class Kill(Exception):  # noqa: N818 - stands for a signal
        pass

    def dying(frame: Frame) -> Any:
        if frame.number == 20:
            raise Kill
        return counting(frame)

    with pytest.raises(Kill):
        list(watch(clip, embedder, dying, memory=memory))
    with memory.open("ab") as file:
        file.write(b"[20, [[1, 2")  # the line a kill cut off
    calls.clear()
    again = [describe(each) for each in watch(clip, embedder, counting, memory=memory)]
    assert again == whole
    assert calls == list(range(20, 40))
    assert not memory.exists()


def test_the_same_tracklet_enrolled_twice_is_one_entry(
    scene: Path, tmp_path: Path, drawn: Drawn, embedder: Embedder
) -> None:
    pytest.importorskip("faiss")
    walks = [Walk(1, drawn[13], 0, 39, 0, 100)]
    clip = Clip(source=str(scene / "door.mp4"), camera="door", start=1796032800.0)
    [found] = list(watch(clip, embedder, detector(walks)))
    gallery = passreid.open_gallery(
        tmp_path / "g", model=embedder.identity, dim=embedder.dim, create=True
    )
    first, second = enrol_clip(gallery, clip, found), enrol_clip(gallery, clip, found)
    assert first.id == second.id
    assert gallery.count() == 1
    gallery.close()


def test_blurring_changes_the_head_alone(drawn: Drawn) -> None:
    crop = drawn[13][0]
    blurred = blur_head(crop)
    head = round(HEAD * len(crop))
    assert (blurred[head:] == crop[head:]).all()
    assert (blurred[:head] != crop[:head]).any()


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ([], "No video was given"),
        (["missing.mp4", "--detector", "missing.xml"], "no such detector"),
        (["a.mp4", "b.mp4", "--camera", "door"], "give one for each"),
        (["a.mp4", "b.mp4", "--mot", "out.txt"], "clip by clip"),
        (["a.mp4", "--start", "yesterday"], "not a time"),
        (["a.mp4", "--every", "0", "--detector", "boxes.txt"], "every is 0"),
    ],
)
def test_mistakes_are_told_in_one_sentence(
    arguments: list[str], told: str, tmp_path: Path, drawn: Drawn
) -> None:
    (tmp_path / "boxes.txt").write_text("1,-1,0,0,20,40,1\n")
    (tmp_path / "a.mp4").write_bytes(b"")
    done = run(*arguments, folder=tmp_path)
    assert done.returncode in (1, 2)
    assert told in done.stderr, done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
