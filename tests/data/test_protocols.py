"""Protocols: tracklets, random splits, several images as one query, changed clothes."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from passreid.data import ReIDDataset, Sample, make_synthetic, read_dataset
from passreid.data.build import Row
from passreid.data.protocols import multi_query, random_split
from passreid.errors import DatasetError
from passreid.evaluation import evaluate
from passreid.labels import Labels
from passreid.ranking import measure
from passreid.splits import evaluate_splits
from tests import small
from tests.data.trees import labels, note, touch
from tests.drawn import draw_layout


def test_a_tracklet_is_ranked_by_the_mean_of_its_frames(tmp_path: Path) -> None:
    made = draw_layout(tmp_path / "m", "mars", people=5, train_fraction=0, size=(32, 16))
    report = evaluate(small.colours(), made)
    assert len(report.query.samples) == len(made.items("query")) == 20
    assert len(made.query) == 40 and report.query.images == 40
    sides = []
    for side in (made.query, made.gallery):
        frames: dict[int, list[Path]] = {}
        for sample in side:
            frames.setdefault(sample.tracklet, []).append(sample.path)
        assert {len(paths) for paths in frames.values()} == {2}
        sides.append([small.colours()(paths).mean(axis=0) for paths in frames.values()])
    expected = measure(
        *sides,
        labels=Labels(
            [s.pid for s in made.items("query")],
            [s.pid for s in made.items("gallery")],
            query_camids=[s.camid for s in made.items("query")],
            gallery_camids=[s.camid for s in made.items("gallery")],
        ),
    )
    assert report.mAP == expected.mAP


def test_a_tracklet_goes_on_without_its_unreadable_frames(tmp_path: Path) -> None:
    made = draw_layout(tmp_path / "m", "mars", people=4, train_fraction=0, size=(32, 16))
    made.query[0].path.write_bytes(b"")
    report = evaluate(small.colours(), made, on_error="skip")
    assert len(report.query.samples) == len(made.items("query"))
    assert report.query.images == len(made.query) - 1
    assert len(report.skipped) == 1


def test_single_images_among_tracklets_stay_single(tmp_path: Path) -> None:
    made = draw_layout(tmp_path / "m", "mars", people=3, train_fraction=0, size=(32, 16))
    alone = [replace(s, tracklet=-1) if s.pid == 1 else s for s in made.gallery]
    mixed = replace(made, gallery=tuple(alone))
    frames = sum(s.pid == 1 for s in made.gallery)
    assert len(mixed.items("gallery")) == len(made.items("gallery")) + frames // 2
    assert len(evaluate(small.colours(), mixed).gallery.samples) == len(mixed.items("gallery"))


def test_the_queries_of_mars_are_those_its_lists_name(tmp_path: Path) -> None:
    savemat = pytest.importorskip("scipy.io").savemat
    names = [
        *("0002C1T0001F001.jpg", "0002C1T0001F002.jpg", "0002C1T0002F001.jpg"),
        *("0002C2T0001F001.jpg", "0000C1T0001F001.jpg", "00-1C1T0001F001.jpg"),
    ]
    root = touch(tmp_path, *(f"bbox_test/{name[:4]}/{name}" for name in names))
    chosen = read_dataset(root)
    assert {s.path.name for s in chosen.query} == {names[0], names[1]}
    assert note(chosen, "queries are not given")
    (root / "info").mkdir()
    (root / "info" / "test_name.txt").write_text("\n".join(names))
    tracks = [[1, 2, 2, 1], [3, 3, 2, 1], [4, 4, 2, 2], [5, 5, 0, 1], [6, 6, -1, 1]]
    savemat(root / "info" / "tracks_test_info.mat", {"track_test_info": np.array(tracks)})
    savemat(root / "info" / "query_IDX.mat", {"query_IDX": np.array([[2, 3]])})
    dataset = read_dataset(root)
    assert labels(dataset, "query") == [(names[2], 2, 0), (names[3], 2, 1)]
    assert [(name, pid) for name, pid, _ in labels(dataset, "gallery")] == [
        (names[4], 0),
        (names[0], 2),
        (names[1], 2),
    ]
    assert note(dataset, "1 junk images")
    savemat(root / "info" / "query_IDX.mat", {"other": np.array([[2, 3]])})
    with pytest.raises(DatasetError, match="does not hold MARS's lists"):
        read_dataset(root)


def test_random_halves_share_nobody_and_differ(tmp_path: Path) -> None:
    draw_layout(tmp_path / "v", "viper", people=9, cameras=2, size=(16, 8))
    splits = [read_dataset(tmp_path / "v", split=k) for k in range(10)]
    for dataset in splits:
        train, query, gallery = ({s.pid for s in d} for d in
                                 (dataset.train, dataset.query, dataset.gallery))  # fmt: skip
        assert len(train) == 4 and len(query) == 5 and query == gallery and not train & query
        assert {s.camid for s in dataset.query} == {0} and {s.camid for s in dataset.gallery} == {1}
        assert dataset.splits == 10 and note(dataset, "of 10 (VIPeR")
    assert len({tuple(s.pid for s in dataset.query) for dataset in splits}) > 5
    assert read_dataset(tmp_path / "v", split=3) == splits[3]


def test_people_of_one_camera_of_prid_are_distractors_or_left_out(tmp_path: Path) -> None:
    names = [f"cam_{c}/person_{p:04d}.png" for c in "ab" for p in (1, 2, 3, 4, 201, 202)]
    dataset = read_dataset(touch(tmp_path, *names))
    assert (len(dataset.query), len(dataset.gallery), len(dataset.train)) == (2, 4, 4)
    assert not {s.path.stem for s in dataset.query} & {"person_0201", "person_0202"}
    # Number 201 is somebody else in the other camera.
    assert {"b-0201", "b-0202"} & {*dataset.people.values()}


def test_distractors_of_grid_stay_in_every_gallery(tmp_path: Path) -> None:
    names = [
        f"{f}/{p:04d}_{c}_1_2_3_4_5.jpeg" for f, c in (("probe", 1), ("gallery", 2)) for p in (1, 2)
    ]
    root = touch(tmp_path, *names, "gallery/0000_3_1_2_3_4_5.jpeg", "gallery/0000_4_1_2_3_4_6.jpeg")
    for split in range(3):
        dataset = read_dataset(root, split=split)
        assert [s.pid for s in dataset.gallery if s.pid == 0] == [0, 0]
        assert len(dataset.query) == 1


def test_one_image_of_each_person_is_in_the_gallery_of_ilids(tmp_path: Path) -> None:
    names = [f"Persons/{p:04d}{i:03d}.jpg" for p in range(1, 8) for i in range(1, 5)]
    dataset = read_dataset(touch(tmp_path, *names))
    assert set(Counter(s.pid for s in dataset.gallery).values()) == {1}
    assert set(Counter(s.pid for s in dataset.query).values()) == {3}
    assert len(dataset.gallery) == 4 and len(dataset.train) == 12


def test_a_single_shot_gallery_changes_with_the_split_and_train_does_not(tmp_path: Path) -> None:
    draw_layout(tmp_path / "p", "prcc", people=6, cameras=3, per_camera=4, size=(16, 8))
    splits = [read_dataset(tmp_path / "p", split=k) for k in range(5)]
    for dataset in splits:
        assert [s.pid for s in dataset.gallery] == [4, 5, 6]
        assert dataset.train == splits[0].train and dataset.query == splits[0].query
    assert len({tuple(s.path for s in dataset.gallery) for dataset in splits}) > 1


def test_a_split_depends_on_its_number_alone() -> None:
    rows = [
        Row(Path(f"{side}{p}.jpg"), str(p), side, side) for side in ("query", "gallery")
        for p in range(20)
    ]  # fmt: skip
    assert random_split(rows, 4, halves=True) == random_split(rows[::-1], 4, halves=True)


def test_scores_of_splits_are_mean_and_spread_of_single_ones(tmp_path: Path) -> None:
    draw_layout(tmp_path / "v", "viper", people=16, cameras=2, size=(32, 16))
    splits = [read_dataset(tmp_path / "v", split=k) for k in range(4)]
    seen: list[Path] = []
    embedder = small.colours()
    embed = embedder.embed

    def watched(paths: list[Path], **options: object) -> object:
        seen.extend(paths)
        return embed(paths, **options)  # type: ignore[arg-type]

    object.__setattr__(embedder, "embed", watched)
    scores = evaluate_splits(embedder, splits)
    assert len(seen) == len(set(seen)) <= 32  # each image once
    single = [evaluate(small.colours(), dataset) for dataset in splits]
    assert [report.mAP for report in scores.reports] == [report.mAP for report in single]
    rank1 = [report.rank1 for report in single]
    assert scores.mean["rank1"] == pytest.approx(np.mean(rank1))
    assert scores.spread["rank1"] == pytest.approx(np.std(rank1, ddof=1))
    assert evaluate_splits(small.colours(), splits[:1]).spread["mAP"] == 0


def test_queries_of_one_person_and_camera_are_averaged(tmp_path: Path) -> None:
    made = make_synthetic(tmp_path / "m", people=4, per_camera=4, train_fraction=0, size=(32, 16))
    box = tmp_path / "m" / "gt_bbox"
    box.mkdir()
    shown = made.query[0].path
    copy = box / shown.name.replace("_00.jpg", "_01.jpg")
    Image.open(shown).rotate(10).save(copy)
    Image.new("RGB", (16, 32)).save(box / "0999_c1s1_000001_00.jpg")  # of nobody asked for
    dataset = read_dataset(tmp_path / "m")
    assert dataset.query == made.query and dataset.notes == made.notes
    pooled = multi_query(dataset)
    assert note(
        pooled, "17 images make 16 queries, one per person and camera; 1 of them from gt_bbox"
    )
    report = evaluate(small.colours(), pooled)
    rows = small.colours()([shown, copy])
    assert np.array_equal(report.query.rows[0], rows.mean(axis=0))
    assert len(report.query.samples) == 16


def clothes(tmp_path: Path) -> ReIDDataset:
    """Return a set whose query has one answer in the same clothes and one in others."""
    pixels = np.random.default_rng(0).integers(0, 256, (4, 32, 16, 3)).astype(np.uint8)
    samples = []
    for n, (pid, camid, clothid) in enumerate([(1, 0, 0), (1, 1, 0), (1, 2, 1), (2, 1, -1)]):
        path = tmp_path / f"{n}.png"
        Image.fromarray(pixels[n if n != 1 else 0]).save(path)
        samples.append(Sample(path, pid, camid, clothid=clothid))
    return ReIDDataset("clothes", "csv", tmp_path, query=(*samples[:1],), gallery=(*samples[1:],))


def test_clothes_changing_leaves_out_the_querys_clothes(tmp_path: Path) -> None:
    dataset = clothes(tmp_path)
    standard = evaluate(small.colours(), dataset)
    changing = evaluate(small.colours(), dataset, clothes_changing=True)
    assert standard.labels.split(0)[0].tolist() == [True, True, False]
    assert changing.labels.split(0)[0].tolist() == [False, True, False]
    assert changing.labels.split(0)[1].tolist() == [True, False, False]
    assert changing.ranking(top_k=3).hits(0)[-1][0] != 0
    assert [n for n in standard.notes if "--clothes-changing leaves them out" in n]
    assert [n for n in changing.notes if "do not count" in n]
    assert {p.gallery for p in changing.camera_pairs()} == {"2"}
    same = replace(dataset, gallery=(dataset.gallery[0], dataset.gallery[2]))
    with pytest.raises(DatasetError, match="query's clothes are left out"):
        evaluate(small.colours(), same, clothes_changing=True)


def test_unknown_clothes_leave_nothing_out(tmp_path: Path) -> None:
    dataset = clothes(tmp_path)
    unknown = replace(dataset, gallery=tuple(replace(s, clothid=-1) for s in dataset.gallery))
    labels = evaluate(small.colours(), unknown, clothes_changing=True).labels
    assert labels.split(0)[0].tolist() == [True, True, False]
