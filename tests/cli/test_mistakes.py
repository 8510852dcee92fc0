"""Sixty mistakes a person makes on the command line: each is told in one sentence."""

from __future__ import annotations

from pathlib import Path

import pytest

from passreid.data import ReIDDataset
from tests.cli.conftest import Cli

MISTAKES = [
    # no or unknown verbs and options
    ("search x", 2, "gallery"),
    ("train x", 2, "finetune"),
    ("enroll x", 2, "gallery"),
    ("sreve x", 2, "serve"),
    ("rnk a b", 2, "rank"),
    ("embed {query} --ouput a.npz", 2, "--output"),
    ("rank {one} {gallery} --topk 5", 2, "--top"),
    ("compare {one}", 2, "requires an argument"),
    ("rank {one}", 2, "GALLERY"),
    ("synthetic", 2, "requires an argument"),
    ("gallery search", 2, "requires an argument"),
    ("gallery enrol x {query}", 2, "Unknown command"),
    # swapped arguments
    ("rank {gallery} {one}", 2, "the query comes first"),
    ("gallery add {query} people.gallery", 2, "the gallery comes first"),
    ("compare {one} {gallery}", 1, "is a folder, not a picture"),
    # what is not there
    ("embed nothere.jpg", 1, "no such file"),
    ("rank nothere.jpg {gallery}", 1, "no such file"),
    ("rank {one} nowhere", 1, "nowhere"),
    ("embed empty", 2, "empty"),
    ("evaluate nowhere", 1, "nowhere"),
    ("evaluate empty", 1, "empty"),
    ("gallery search no.gallery {one}", 1, "there is no gallery here"),
    ("gallery list no.gallery", 1, "there is no gallery here"),
    ("embed {one} --model nope", 1, "no bundled model and no file"),
    ("models passreid-smal", 1, "Did you mean 'passreid-tiny'"),
    ("convert nope out", 1, "no bundled model and no file"),
    ("finetune nowhere --output run", 1, "nowhere"),
    ("pretrain nowhere --output run", 2, "nowhere"),
    ("adapt nowhere --output run", 2, "nowhere"),
    ("calibrate nowhere --output m", 1, "nowhere"),
    ("finetune {root} --output run --config no.toml", 2, "no.toml"),
    # wrong files
    ("embed notes.txt", 1, "notes.txt"),
    ("compare {one} notes.txt", 1, "notes.txt"),
    ("embed {one} --model notes.txt", 1, "notes.txt"),
    ("gallery add notes.txt {one}", 1, "notes.txt"),
    ("gallery list notes.txt", 1, "notes.txt"),
    ("evaluate notes.txt", 1, "notes.txt"),
    ("finetune {root} --output run --config notes.txt", 2, "notes.txt"),
    # wrong outputs
    ("embed {query} --output a.csv", 2, "must end in .npz"),
    ("embed {query} --output nowhere/a.npz", 2, "does not exist"),
    ("rank {one} {gallery} --sheet a.jpeg", 2, "must end in .png"),
    ("synthetic full", 2, "name a new folder"),
    ("convert passreid-tiny notes.txt/x", 2, "notes.txt"),
    ("calibrate {root} --output passreid-tiny", 2, "bundled"),
    ("export passreid-tiny", 2, "bundled"),
    ("embed {one} --workers 2", 2, ".parquet"),
    # wrong values
    ("rank {one} {gallery} --top 0", 2, "--top is 0"),
    ("rank {one} {gallery} --top many", 2, "--top"),
    ("rank {one} {gallery} --fpir 2", 2, "between 0 and 1"),
    ("rank {one} {gallery} --fpir 0.1 --false-match-rate 0.01", 2, "give one of them"),
    ("compare {one} {one} --prior 1", 2, "between 0 and 1"),
    ("compare {one} {one} --false-match-rate 0.123", 1, "0.123"),
    ("embed {one} --device gpu", 2, "no device 'gpu'"),
    ("embed {one} --device tpu", 2, "no device 'tpu'"),
    ("embed {one} --precision fp16", 2, "float16"),
    ("embed {one} --backend tensorrt", 2, "onnx"),
    ("embed {one} --batch-size 0", 2, "batch"),
    ("gallery add x.gallery {one} --time yesterday", 2, "not a time"),
    ("synthetic few --people 0", 2, "people"),
    ("finetune {root} --output run --epochs 0", 2, "epochs"),
    ("finetune {root} --output run --lr=-1", 2, "lr"),
    ("finetune {root} --output run --preset huge", 2, "preset"),
    ("video", 2, "No video was given"),
    ("video one.mp4 two.mp4 --camera door", 2, "give one for each"),
]


@pytest.mark.parametrize(("line", "code", "told"), MISTAKES, ids=[row[0] for row in MISTAKES])
def test_mistake_is_told_in_one_sentence(
    line: str,
    code: int,
    told: str,
    cli: Cli,
    people: ReIDDataset,
    gallery: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("x")
    (tmp_path / "notes.txt").write_text("no picture, no weights, no gallery, no recipe\n")
    one = people.query[0].path
    places = {"one": one, "query": one.parent, "gallery": gallery, "root": people.root}
    before = sorted(tmp_path.rglob("*"))
    ran = cli(*(word.format(**places) for word in line.split()))
    assert ran.code == code, ran.err
    assert told.lower() in ran.err.lower()
    error = next(row for row in ran.err.splitlines() if row.startswith("error: "))
    assert len(error) < 600
    assert ran.out == ""
    assert sorted(tmp_path.rglob("*")) == before, "nothing is half-written"
