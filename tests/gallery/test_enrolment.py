"""Pictures into a gallery: each once, the unreadable named, the model checked."""

from __future__ import annotations

import io
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import passreid
from passreid import images
from passreid.card import ModelCard
from passreid.data import make_synthetic
from passreid.errors import GalleryError, ImageError
from passreid.evaluation import evaluate
from passreid.gallery import NewImage, Where, enrol, enrolment, identity, open_gallery
from passreid.labels import Labels
from passreid.ranking import measure_distances
from tests import small

pytest.importorskip("faiss")


def test_a_gallery_is_made_of_pictures(tmp_path: Path) -> None:
    people = make_synthetic(tmp_path / "people", people=3, cameras=2, per_camera=2)
    embedder = passreid.load()
    damaged = tmp_path / "damaged.jpg"
    damaged.write_bytes(b"no picture")
    images = [NewImage(image=s.path, camera=f"c{s.camid}", person=str(s.pid)) for s in people.query]
    twice = [*images, NewImage(image=damaged), NewImage(image=tmp_path / "none.jpg"), images[0]]
    with open_gallery(
        tmp_path / "g", model=identity(embedder), dim=embedder.dim, create=True
    ) as gallery:
        done = enrol(gallery, embedder, twice)
        assert (done.added, done.known, len(done.skipped)) == (len(images), 1, 2)
        assert {Path(image.name).name for image in done.skipped} == {"damaged.jpg", "none.jpg"}
        assert enrol(gallery, embedder, images).known == len(images)
        found = gallery.search(embedder(people.query[0].path)[0], top_k=1)[0]
        assert found.score == pytest.approx(1, abs=1e-3)
        assert found.entry.source == str(people.query[0].path)
        assert gallery.count(Where(cameras=(f"c{people.query[0].camid}",)))
        (whole,) = gallery.get([found.entry.id])
        assert whole.thumbnail is not None
        with Image.open(io.BytesIO(whole.thumbnail)) as picture:
            assert picture.height <= 192
        with pytest.raises(ImageError, match="damaged"):
            enrol(gallery, embedder, [NewImage(image=damaged)], on_error="raise")


def test_a_picture_is_read_once_and_named_as_it_was_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What lies there a moment later may be another picture than the one whose hash was taken."""
    embedder = passreid.load(small.folder(tmp_path / "model"))
    path, short = tmp_path / "a.png", tmp_path / "short.png"
    Image.fromarray(small.picture(1)).save(path)
    short.write_bytes(path.read_bytes()[:-30])
    real, reads = images._read_file, []

    def read(where: Path, *more: Any) -> bytes:
        reads.append(where.name)
        return real(where, *more)

    monkeypatch.setattr(images, "_read_file", read)
    with open_gallery(
        tmp_path / "g", model=identity(embedder), dim=embedder.dim, create=True
    ) as gallery:
        new = [NewImage(image=each) for each in (path, short, path.read_bytes())]
        done = enrol(gallery, embedder, new)
        assert (done.added, done.known) == (1, 1)
        assert [each.name for each in done.skipped] == [str(short)]
        with pytest.raises(ImageError, match=r"short\.png: is a PNG file that is damaged"):
            enrol(gallery, embedder, new[1:2], on_error="raise")
    assert sorted(reads) == ["a.png", "short.png", "short.png"]


def test_all_that_is_known_of_a_picture_is_kept(tmp_path: Path) -> None:
    embedder = passreid.load(small.folder(tmp_path / "model"))
    known: dict[str, Any] = {"source": "gate", "camera": "c", "time": 7.0, "person": "p"}
    known |= {"tracklet": "t", "payload": {"n": 1}}
    picture = Image.fromarray(small.picture(1, 700, 200))
    with open_gallery(
        tmp_path / "g", model=identity(embedder), dim=embedder.dim, create=True
    ) as gallery:
        enrol(gallery, embedder, [NewImage(image=picture, **known)])
        (entry,) = gallery.get([gallery.page().entries[0].id])
    assert {name: getattr(entry, name) for name in known} == known
    assert picture.size == (200, 700)
    assert entry.thumbnail is not None
    with Image.open(io.BytesIO(entry.thumbnail)) as thumbnail:
        assert thumbnail.size == (73, 256)


def test_frames_as_opencv_gives_them_are_enrolled_in_their_own_colours(tmp_path: Path) -> None:
    embedder = passreid.load(small.folder(tmp_path / "model"))
    red = np.full((64, 32, 3), (0, 0, 200), np.uint8)
    with open_gallery(
        tmp_path / "g", model=identity(embedder), dim=embedder.dim, create=True
    ) as gallery:
        (unsaid,) = enrol(gallery, embedder, [NewImage(image=red)]).skipped
        assert "channel_order" in unsaid.reason
        assert enrol(gallery, embedder, [NewImage(image=red)], channel_order="bgr").added == 1
        (entry,) = gallery.page(whole=True).entries
    assert entry.thumbnail is not None
    with Image.open(io.BytesIO(entry.thumbnail)) as thumbnail:
        np.testing.assert_allclose(np.asarray(thumbnail)[0, 0], (200, 0, 0), atol=3)


def test_what_is_known_is_not_embedded_again(tmp_path: Path) -> None:
    network = small.Colours()
    embedder = small.colours(network=network, batch_size=32)
    many = [NewImage(image=Image.fromarray(small.picture(n, 8, 8))) for n in range(128)]
    with open_gallery(
        tmp_path / "g", model=identity(embedder), dim=embedder.dim, create=True
    ) as gallery:
        assert enrol(gallery, embedder, many).added == 128
        assert enrol(gallery, embedder, many).known == 128
    assert sum(network.batches) == 128


def test_thumbnails_are_drawn_beside_and_left_out_where_nobody_wants_them(tmp_path: Path) -> None:
    embedder = passreid.load(small.folder(tmp_path / "model"))
    file = tmp_path / "large.png"
    Image.fromarray(small.picture(1, 700, 200)).save(file)
    kept = []
    for thumbnails in (True, False):
        with open_gallery(
            tmp_path / str(thumbnails), model=identity(embedder), dim=embedder.dim, create=True
        ) as gallery:
            enrol(gallery, embedder, [NewImage(image=file)], thumbnails=thumbnails)
            kept += gallery.get([gallery.page().entries[0].id])
    drawn, plain = kept
    assert drawn.thumbnail is not None and plain.thumbnail is None
    np.testing.assert_array_equal(drawn.embedding, plain.embedding)


def test_another_model_is_refused(tmp_path: Path) -> None:
    folders = [small.folder(tmp_path / str(seed), seed=seed) for seed in (0, 1)]
    one, other = (passreid.load(folder) for folder in folders)
    assert identity(one) != identity(other)
    assert identity(one) == identity(passreid.load(folders[0], precision="bfloat16"))
    assert identity(passreid.load(folders[0], flip=True)) == f"{identity(one)}+flip"
    with (
        open_gallery(tmp_path / "g", model=identity(one), dim=one.dim, create=True) as gallery,
        pytest.raises(GalleryError, match="This gallery is of"),
    ):
        enrol(gallery, other, [])


@pytest.mark.parametrize(
    "change",
    [
        *({"mean": (0.4, 0.5, 0.5)}, {"std": (0.4, 0.5, 0.5)}, {"interpolation": "bicubic"}),
        *({"merge": 6}, {"feature": "after"}, {"neck": "single"}, {"image_size": (96, 32)}),
        *({"fusion": "mean"}, {"stride": (8, 8)}),
    ],
)
def test_identity_follows_everything_an_embedding_depends_on(
    tmp_path: Path, change: dict[str, Any]
) -> None:
    """The same weights under another card give other embeddings."""
    folder = small.folder(tmp_path / "m")
    card = ModelCard.read(folder / "model.json")
    own = {name for name in change if hasattr(card, name)}
    changed = (
        replace(card, **change)
        if own
        else replace(card, architecture=replace(card.architecture, **change))
    )
    embedder = passreid.load(folder)
    assert identity(replace(embedder, card=changed)) != identity(embedder)
    described = replace(card, description="other words", licence="MIT")
    assert identity(replace(embedder, card=described)) == identity(embedder)


def test_a_bulk_run_names_the_model_as_a_gallery_does(tmp_path: Path) -> None:
    from passreid.bulk.run import identify

    folder = small.folder(tmp_path / "m")
    for flip in (False, True):
        wanted = identity(passreid.load(folder, flip=flip))
        assert identify({"name_or_path": folder, "flip": flip}) == wanted
    weights = folder / "model.safetensors"
    assert identify({"name_or_path": weights}) == identity(passreid.load(weights))


def test_labels_of_known_pictures_that_differ_are_counted(tmp_path: Path) -> None:
    embedder = small.colours()
    picture = Image.fromarray(small.picture(1))
    with open_gallery(
        tmp_path / "g", model=identity(embedder), dim=embedder.dim, create=True
    ) as gallery:
        enrol(gallery, embedder, [NewImage(image=picture, camera="gate", time=5.0)])
        for known, differing in (
            ({}, 0),
            ({"camera": " gate"}, 0),
            ({"camera": "gate", "time": 5.0}, 0),
            ({"camera": "door"}, 1),
            ({"person": "Ann"}, 1),
            ({"payload": {"n": 1}}, 1),
        ):
            done = enrol(gallery, embedder, [NewImage(image=picture, **known)])
            assert (done.known, done.differing) == (1, differing)
        assert gallery.page().entries[0].camera == "gate"


def test_pictures_are_decoded_while_the_network_works(tmp_path: Path) -> None:
    """Else enrolling takes as long as decoding and embedding one after the other."""
    decoded: list[int] = []
    ahead: list[int] = []

    class Slow(small.Colours):
        def run(self, pixels: Any) -> Any:
            before = len(decoded)
            until = time.monotonic() + 10
            while len(decoded) == before < 24 and time.monotonic() < until:
                time.sleep(0.01)
            ahead.append(len(decoded) - before)
            return super().run(pixels)

    def read(content: Any, **_: Any) -> Any:
        time.sleep(0.05)
        decoded.append(1)
        return content

    embedder = small.colours(network=Slow(), batch_size=4)
    new = [NewImage(image=Image.fromarray(small.picture(n))) for n in range(24)]
    with (
        pytest.MonkeyPatch.context() as patched,
        open_gallery(
            tmp_path / "g", model=identity(embedder), dim=embedder.dim, create=True
        ) as gallery,
    ):
        patched.setattr(enrolment, "read_image", read)
        assert enrol(gallery, embedder, new).added == 24
    assert max(ahead) > 0


def test_people_are_found_as_evaluate_finds_them(tmp_path: Path, market: Path) -> None:
    """The mAP through a gallery, whose vectors are float16, is that of an evaluation."""
    people, embedder = passreid.read_dataset(market), passreid.load()
    with open_gallery(
        tmp_path / "g", model=identity(embedder), dim=embedder.dim, create=True
    ) as gallery:
        order = {str(sample.path): n for n, sample in enumerate(people.gallery)}
        enrol(gallery, embedder, [NewImage(image=s.path) for s in people.gallery], thumbnails=False)
        distances = np.full((len(people.query), len(people.gallery)), 2.0, np.float32)
        for row, query in enumerate(embedder([s.path for s in people.query])):
            for hit in gallery.search(query, top_k=len(people.gallery)):
                distances[row, order[hit.entry.source]] = 1 - hit.score
    labels = Labels(
        [s.pid for s in people.query],
        [s.pid for s in people.gallery],
        query_camids=[s.camid for s in people.query],
        gallery_camids=[s.camid for s in people.gallery],
    )
    through = measure_distances(distances, labels=labels)
    assert through.mAP == pytest.approx(evaluate(embedder, people).mAP, abs=1e-3)
