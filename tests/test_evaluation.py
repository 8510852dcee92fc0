"""evaluate and calibrate: the figures of a set, and everything a reader must know about them."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from passreid.calibration import fit_calibration
from passreid.centring import CameraMeans
from passreid.data import ReIDDataset, Sample
from passreid.errors import CalibrationError, DatasetError, ImageError, UsageError
from passreid.evaluation import calibrate, evaluate
from passreid.labels import Labels
from passreid.ranking import measure
from passreid.report import Report
from tests import small

KEYS = [
    "mAP",
    "mINP",
    "rank1",
    "rank5",
    "rank10",
    "num_query",
    "num_gallery",
    "images_per_second",
]


def drawn(folder: Path, name: str, pid: int, camid: int) -> Sample:
    """Write a crop: the person's picture in another light for each camera and name."""
    light = np.random.default_rng(abs(hash((pid, camid, len(name)))) % 2**32).integers(-60, 60, 3)
    pixels = np.clip(small.picture(pid).astype(np.int64) + light, 0, 255).astype(np.uint8)
    path = folder / f"{name}.png"
    Image.fromarray(pixels).save(path)
    return Sample(path, pid, camid)


@pytest.fixture
def dataset(tmp_path: Path) -> ReIDDataset:
    """Six people by three cameras, two distractors, and a query whose person is nowhere else."""
    query = [drawn(tmp_path, f"q{p}", p, 0) for p in range(1, 7)]
    gallery = [drawn(tmp_path, f"g{p}_{c}", p, c) for p in range(1, 6) for c in range(3)]
    gallery += [drawn(tmp_path, f"nobody{c}", 0, c) for c in range(2)]
    train = [drawn(tmp_path, f"t{p}_{c}", p, c) for p in range(3) for c in range(2)]
    return ReIDDataset(
        "toy", "folder", tmp_path, tuple(train), tuple(query), tuple(gallery), notes=("Drawn.",)
    )


def by_hand(dataset: ReIDDataset, *, camera_filter: bool = True) -> Any:
    embedder = small.colours()
    sides = dataset.query, dataset.gallery
    labels = Labels(
        *([s.pid for s in side] for side in sides),
        query_camids=[s.camid for s in dataset.query],
        gallery_camids=[s.camid for s in dataset.gallery],
        camera_filter=camera_filter,
    )
    rows = [embedder([s.path for s in side]) for side in sides]
    return rows, measure(*rows, labels=labels)


def test_the_figures_are_those_of_measure(dataset: ReIDDataset) -> None:
    report = evaluate(small.colours(), dataset)
    rows, metrics = by_hand(dataset)
    np.testing.assert_array_equal(report.query.rows, rows[0])
    np.testing.assert_array_equal(report.gallery.rows, rows[1])
    assert (report.mAP, report.mINP) == (metrics.mAP, metrics.mINP)
    assert report.rank1 == metrics.rank(1)
    np.testing.assert_array_equal(report.metrics.cmc, metrics.cmc)
    assert 0 < report.mAP < 1
    assert len(report.metrics.cmc) == 50
    for rerank in (False, True):
        assert len(evaluate(small.colours(), dataset, rerank=rerank, max_rank=3).metrics.cmc) == 3
    assert "mAP" in repr(report)


def test_the_camera_filter_can_be_lifted(dataset: ReIDDataset) -> None:
    report = evaluate(small.colours(), dataset, camera_filter=False)
    assert report.mAP == by_hand(dataset, camera_filter=False)[1].mAP
    assert report.mAP != evaluate(small.colours(), dataset).mAP
    assert any("not comparable with papers" in note for note in report.notes)


def test_a_report_knows_how_it_was_made(dataset: ReIDDataset) -> None:
    names: dict[str, Any] = {"people": {1: "Ada"}, "cameras": {0: "gate"}}
    report = evaluate(small.colours(flip=True), replace(dataset, **names))
    assert (report.people, report.cameras, report.flip) == (*names.values(), True)
    assert not evaluate(small.colours(), dataset).flip


def test_unknown_cameras_are_noted_where_cameras_count(dataset: ReIDDataset) -> None:
    unknown = replace(dataset, query=tuple(replace(s, camid=-1) for s in dataset.query))
    assert any("Some cameras are unknown" in n for n in evaluate(small.colours(), unknown).notes)
    report = evaluate(small.colours(), unknown, camera_filter=False)
    assert not any("Some cameras are unknown" in note for note in report.notes)


def test_json_holds_the_fixed_keys_first(dataset: ReIDDataset) -> None:
    report = evaluate(small.colours(), dataset)
    values = json.loads(json.dumps(report.to_json(), allow_nan=False))
    assert list(values)[: len(KEYS)] == KEYS
    assert (values["num_query"], values["num_gallery"]) == (6, 17)
    assert values["images_per_second"] > 0
    assert values["rank1"] <= values["rank5"] <= values["rank10"] <= 1
    assert (values["num_invalid_query"], values["num_skipped"]) == (1, 0)
    assert values["equal_error_rate"] == report.calibration.equal_error_rate
    assert list(values["true_accept_rates"]) == [
        f"{p.false_accept_rate:g}" for p in report.calibration.points
    ]
    assert values["data"] == "toy"


def test_figures_of_known_hits_and_times(dataset: ReIDDataset) -> None:
    report = evaluate(small.colours(), dataset)
    first_hit = np.array([1, 5, 6, 10, 11, 0])
    report = replace(
        report,
        metrics=replace(report.metrics, first_hit=first_hit),
        query=replace(report.query, seconds=1.0),
        gallery=replace(report.gallery, seconds=3.0),
    )
    values = report.to_json()
    assert [values[key] for key in ("rank1", "rank5", "rank10")] == [0.2, 0.4, 0.8]
    assert values["images_per_second"] == 23 / 4
    still = {side: replace(getattr(report, side), seconds=0.0) for side in ("query", "gallery")}
    assert np.isfinite(replace(report, **still).images_per_second)


def test_queries_that_do_not_count_are_named(dataset: ReIDDataset) -> None:
    report = evaluate(small.colours(), dataset)
    assert report.invalid == (str(dataset.query[5].path),)
    left_out = "1 queries do not count, as no other camera saw their person: q6.png."
    assert report.notes == ("Drawn.", left_out)
    report = evaluate(small.colours(), dataset, camera_filter=False)
    assert report.notes[-1] == left_out.replace("no other camera saw", "the gallery does not show")
    for lost, shown in ((3, "3 .*: q1.png, q2.png, q3.png."), (4, "4 .*: q1.*, q3.png, ….")):
        gallery = tuple(s for s in dataset.gallery if s.pid > lost)
        query = tuple(s for s in dataset.query if s.pid < 6)
        report = evaluate(small.colours(), replace(dataset, query=query, gallery=gallery))
        assert re.fullmatch(shown, report.notes[-1])


def test_unreadable_images_stop_or_are_left_out(dataset: ReIDDataset) -> None:
    dataset.gallery[4].path.write_bytes(b"junk")
    dataset.query[0].path.unlink()
    with pytest.raises(ImageError, match=r"q1\.png"):
        evaluate(small.colours(), dataset)
    report = evaluate(small.colours(), dataset, on_error="skip")
    assert [Path(image.name).name for image in report.skipped] == ["q1.png", "g2_1.png"]
    assert len(report.query.samples) == 5
    assert dataset.gallery[4] not in report.gallery.samples
    assert report.gallery.pids.tolist() == [s.pid for s in report.gallery.samples]
    assert any("2 images cannot be read" in note for note in report.notes)
    kept = replace(
        dataset,
        query=dataset.query[1:],
        gallery=tuple(s for s in dataset.gallery if s != dataset.gallery[4]),
    )
    assert report.mAP == evaluate(small.colours(), kept).mAP


def test_sets_that_cannot_be_evaluated(dataset: ReIDDataset) -> None:
    with pytest.raises(DatasetError, match="no query and gallery"):
        evaluate(small.colours(), replace(dataset, query=(), gallery=()))
    for sample in dataset.gallery:
        sample.path.write_bytes(b"")
    with pytest.raises(DatasetError, match="not one gallery image can be read"):
        evaluate(small.colours(), dataset, on_error="skip")
    with pytest.raises(ImageError, match=r"g1_0\.png"):
        calibrate(small.colours(), dataset)
    with pytest.raises(CalibrationError, match="no pair of one person"):
        calibrate(small.colours(), dataset, on_error="skip")
    for sample in dataset.query:
        sample.path.write_bytes(b"")
    with pytest.raises(CalibrationError, match="toy has no readable image"):
        calibrate(small.colours(), dataset, on_error="skip")
    with pytest.raises(DatasetError, match="not one query image can be read"):
        evaluate(small.colours(), dataset, on_error="skip")


def test_people_nobody_can_find_are_called_by_their_names(dataset: ReIDDataset) -> None:
    lost = replace(dataset, query=dataset.query[5:], people={6: "anna"})
    with pytest.raises(DatasetError, match=r"None of the 1 people of the queries \(pids anna\)"):
        evaluate(small.colours(), lost)


def test_reranking_changes_the_order(dataset: ReIDDataset) -> None:
    from passreid.ranking import measure_distances
    from passreid.reranking import rerank

    report = evaluate(small.colours(), dataset, rerank=True)
    distances = rerank(report.query.rows, report.gallery.rows)
    assert report.mAP == measure_distances(distances, labels=report.labels).mAP
    assert any("k-reciprocal" in note for note in report.notes)
    found = report.ranking(top_k=17)
    counted = [i for i, _ in found.hits(0)]
    assert len(counted) == 16
    assert all(report.gallery.samples[i].camid != 0 or report.gallery.pids[i] != 1 for i in counted)


def test_pairs_of_cameras_have_the_order_of_the_report(dataset: ReIDDataset) -> None:
    report = evaluate(small.colours(), dataset)
    same = report.query.pids[:, None] == report.gallery.pids
    last = replace(report, distances=same.astype(np.float32))
    assert {pair.rank1 for pair in last.camera_pairs()} == {0.0}
    assert {pair.rank1 for pair in report.camera_pairs()} != {0.0}


def test_bars_are_drawn_where_they_are_asked_for(
    dataset: ReIDDataset,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")  # as if stderr were a terminal
    evaluate(small.colours(), dataset)
    assert not capsys.readouterr().err
    evaluate(small.colours(), dataset, progress=True)
    assert capsys.readouterr().err


def test_open_set_search_leaves_each_person_out_once(dataset: ReIDDataset) -> None:
    report = evaluate(small.colours(), dataset)
    found = report.identification
    assert found is not None
    assert (found.searches, found.people) == (5, 5)
    scores = report.query.rows @ report.gallery.rows.T
    scores /= np.linalg.norm(report.query.rows, axis=1)[:, None]
    scores /= np.linalg.norm(report.gallery.rows, axis=1)
    same = report.query.pids[:, None] == report.gallery.pids
    strangers = np.where(same, -1, scores).max(axis=1)[:5]
    assert found.fpir[0] == 1 and found.cosines[0] == pytest.approx(strangers.min(), abs=1e-6)
    assert evaluate(small.colours(), dataset, rerank=True).identification is None


def test_a_gallery_of_one_person_has_no_search_for_an_absent_one(dataset: ReIDDataset) -> None:
    gallery = tuple(s for s in dataset.gallery if s.pid == 1)
    alone = evaluate(small.colours(), replace(dataset, query=dataset.query[:1], gallery=gallery))
    assert alone.identification is None
    values = json.loads(json.dumps(alone.to_json(), allow_nan=False))
    assert values["tpir"] == {"0.01": None, "0.05": None, "0.1": None}
    assert values["det"]["identification"] is None


def test_the_ranking_is_there_for_sheets(dataset: ReIDDataset) -> None:
    report = evaluate(small.colours(), dataset)
    ranking = report.ranking(top_k=4)
    assert ranking.indices.shape == (6, 4)
    rank1 = [report.gallery.pids[ranking.indices[q, 0]] == report.query.pids[q] for q in range(5)]
    assert np.mean(rank1) == report.rank1
    assert len(report.ranking(top_k=17).hits(0)) == 16  # without the one by its own camera


def test_the_table_shows_figures_and_what_was_measured(dataset: ReIDDataset) -> None:
    report = replace(evaluate(small.colours(), dataset), model="colours [v2]")
    console = Console(width=100, record=True, file=open_null())
    console.print(report.table())
    text = console.export_text()
    assert "colours [v2] on toy" in text
    assert f"{report.mAP:.2%}" in text
    assert "Rank-10" in text
    assert "equal error rate" in text


def open_null() -> Any:
    import io

    return io.StringIO()


def test_the_pairs_of_a_report_are_those_of_calibrate(dataset: ReIDDataset) -> None:
    report = evaluate(small.colours(), dataset)
    fitted = calibrate(small.colours(), dataset)
    assert fitted == report.calibration
    samples = (*dataset.query, *dataset.gallery)
    expected = fit_calibration(
        small.colours()([s.path for s in samples]),
        [s.pid for s in samples],
        camids=[s.camid for s in samples],
        data="toy (23 crops of 6 people)",
    )
    assert fitted == expected
    assert calibrate(small.colours(flip=True), dataset).flip is True


def test_people_of_several_sets_are_never_one(dataset: ReIDDataset, tmp_path: Path) -> None:
    folder = tmp_path / "other"
    folder.mkdir()
    copies = [drawn(folder, s.path.stem, s.pid, s.camid) for s in dataset.gallery]
    other = replace(dataset, root=folder, query=tuple(copies[:6]), gallery=tuple(copies[6:]))
    first, second = (calibrate(small.colours(), each) for each in (dataset, other))
    both = calibrate(small.colours(), [dataset, other])
    assert both.same_pairs == first.same_pairs + second.same_pairs
    assert both.different_pairs == first.different_pairs + second.different_pairs
    assert both.data == f"{first.data} and {second.data}"
    with pytest.raises(UsageError, match="one set at a time"):
        calibrate(small.colours(), [dataset, other], centre_on=CameraMeans(4))


def test_a_file_listed_twice_is_no_pair(dataset: ReIDDataset) -> None:
    unknown = [replace(s, camid=-1) for s in (*dataset.gallery, *dataset.query)]
    twice = replace(dataset, query=tuple(unknown[-6:]), gallery=tuple(unknown))
    # Six people of one query each, five of them with three gallery pictures.
    assert calibrate(small.colours(), twice).same_pairs == 5 * 6


def test_pid_0_is_a_person_where_it_is_asked_for(dataset: ReIDDataset) -> None:
    shifted = [replace(s, pid=s.pid - 1) for s in (*dataset.query, *dataset.gallery) if s.pid]
    counted = replace(dataset, query=tuple(shifted[:6]), gallery=tuple(shifted[6:]))
    without = replace(dataset, gallery=dataset.gallery[:-2])
    a, b = calibrate(small.colours(), counted), calibrate(small.colours(), without)
    assert (a.same_pairs, a.slope) == (b.same_pairs, b.slope)


def test_training_images_calibrate_where_there_is_nothing_else(dataset: ReIDDataset) -> None:
    fitted = calibrate(small.colours(), replace(dataset, query=(), gallery=()))
    assert fitted.data == "toy (6 crops of 3 people)"
    assert fitted.same_pairs == 3


def test_too_few_pairs_leave_the_ranking_figures(dataset: ReIDDataset) -> None:
    report = evaluate(small.colours(), dataset)
    one = replace(
        report,
        query=replace(report.query, samples=tuple(replace(s, pid=0) for s in report.query.samples)),
        gallery=replace(
            report.gallery, samples=tuple(replace(s, pid=0) for s in report.gallery.samples)
        ),
    )
    assert isinstance(one, Report)
    with pytest.raises(CalibrationError):
        _ = one.calibration
    values = one.to_json()
    assert values["equal_error_rate"] is None
    assert values["true_accept_rates"] == {}
    assert values["mAP"] == report.mAP


def test_copies_are_named_by_what_they_spoil(dataset: ReIDDataset, tmp_path: Path) -> None:
    def copied(sample: Sample, name: str, **labels: int) -> Sample:
        path = tmp_path / name
        path.write_bytes(sample.path.read_bytes())
        return replace(sample, path=path, **labels)

    query, gallery = dataset.query, dataset.gallery
    spoiled = replace(
        dataset,
        query=(*query, copied(gallery[0], "leak.png", camid=7)),
        gallery=(
            *gallery,
            copied(gallery[1], "again.png", camid=8),
            copied(gallery[2], "wrong.png", pid=99),
        ),
    )
    notes = evaluate(small.colours(), spoiled).notes
    assert [line for line in notes if "leak.png" in line and "copied from the gallery" in line]
    assert [line for line in notes if "again.png" in line and "more than once" in line]
    assert [line for line in notes if "wrong.png" in line and "different people" in line]


def test_a_calibration_counts_copies_once_and_contradictions_not_at_all(
    dataset: ReIDDataset, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first = dataset.gallery[0]
    for name in ("twin.png", "wrong.png"):
        (tmp_path / name).write_bytes(first.path.read_bytes())
    twin = replace(first, path=tmp_path / "twin.png", camid=9)
    wrong = replace(first, path=tmp_path / "wrong.png", pid=99)
    plain = calibrate(small.colours(), dataset)
    copies = calibrate(small.colours(), replace(dataset, gallery=(*dataset.gallery, twin)))
    assert copies.same_pairs == plain.same_pairs
    assert copies.different_pairs == plain.different_pairs
    assert "1 copies left out" in copies.data and "twin.png" in caplog.text
    spoiled = calibrate(small.colours(), replace(dataset, gallery=(*dataset.gallery, wrong)))
    assert spoiled.different_pairs < plain.different_pairs
    assert "wrong.png" in caplog.text
