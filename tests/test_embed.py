"""Embedder: which rows come out, in which order, at what cost in memory, and what it refuses."""

from __future__ import annotations

import io
import itertools
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from passreid.embed import Embedder, Skipped, read_crop
from passreid.errors import EmbeddingError, ImageError, UsageError
from passreid.images import normalise, read_image, to_pixels
from tests import small


def encoded(picture: npt.NDArray[np.uint8]) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(picture).save(stream, "PNG")
    return stream.getvalue()


def by_hand(picture: Any, embedder: Embedder) -> npt.NDArray[np.float32]:
    """The row of one picture, without threads and batches."""
    image = read_image(picture, channel_order="rgb")
    card = embedder.card
    batch = to_pixels(image, card.architecture.image_size)[None]
    return np.asarray(small.Colours().run(normalise(batch, card.mean, card.std))[0])


def test_every_kind_of_input_gives_the_same_row(tmp_path: Path) -> None:
    picture = small.picture(1)
    path = tmp_path / "a.png"
    path.write_bytes(encoded(picture))
    embedder = small.colours()
    expected = by_hand(picture, embedder)[None]
    image = Image.fromarray(picture)
    for one in (path, str(path), encoded(picture), image):
        np.testing.assert_array_equal(embedder(one), expected)
    np.testing.assert_array_equal(embedder(picture, channel_order="rgb"), expected)
    np.testing.assert_array_equal(embedder(picture[..., ::-1], channel_order="bgr"), expected)
    mixed = embedder([path, encoded(picture), image, picture], channel_order="rgb")
    assert mixed.dtype == np.float32
    np.testing.assert_array_equal(mixed, np.repeat(expected, 4, axis=0))


def test_rows_keep_the_order_of_a_generator_whatever_reading_takes() -> None:
    # Large pictures among small ones finish late in the pool.
    pictures = [small.picture(n, *((900, 700) if n % 3 == 0 else (30, 20))) for n in range(23)]
    embedder = small.colours(batch_size=4, workers=4)
    rows = embedder((p for p in pictures), channel_order="rgb")
    np.testing.assert_array_equal(rows, [by_hand(p, embedder) for p in pictures])
    assert embedder.network.batches == [4, 4, 4, 4, 4, 3]  # type: ignore[attr-defined]


def test_a_stack_of_images_is_many_and_nothing_is_none() -> None:
    embedder = small.colours()
    assert embedder(np.stack([small.picture(0)] * 3), channel_order="rgb").shape == (3, 4)
    assert embedder([]).shape == (0, 4)
    assert len(embedder.embed(iter([]))) == 0


@pytest.mark.parametrize("junk", [None, 7, object()])
def test_what_is_no_image_is_refused(junk: Any) -> None:
    with pytest.raises(UsageError, match="neither an image nor a list"):
        small.colours()(junk)
    with pytest.raises(ImageError, match="PIL image"):
        small.colours()([junk])


def test_the_first_unreadable_image_is_named(tmp_path: Path) -> None:
    good = encoded(small.picture(0))
    with pytest.raises(ImageError, match=r"gone\.jpg: there is no such file"):
        small.colours()([good, tmp_path / "gone.jpg", b"junk"])
    with pytest.raises(ImageError, match="channel_order"):
        small.colours()([small.picture(0)])


def test_skipping_says_what_and_which(tmp_path: Path) -> None:
    pictures: list[Any] = [encoded(small.picture(n)) for n in range(7)]
    pictures[2], pictures[3] = tmp_path / "gone.jpg", b"junk"
    embedder = small.colours(batch_size=2)
    done = embedder.embed(pictures, on_error="skip")
    assert done.indices.tolist() == [0, 1, 4, 5, 6]
    expected = [by_hand(pictures[n], embedder) for n in done.indices]
    np.testing.assert_array_equal(done.embeddings, expected)
    assert [image.name for image in done.skipped] == [str(tmp_path / "gone.jpg"), "<4 bytes>"]
    assert isinstance(done.skipped[0], Skipped)
    assert done.skipped[0].reason == "there is no such file"
    with pytest.raises(UsageError, match="on_error"):
        embedder.embed(pictures, on_error="ignore")  # type: ignore[arg-type]


def test_all_skipped_is_an_answer_too() -> None:
    done = small.colours().embed([b"a", b"b"], on_error="skip")
    assert done.embeddings.shape == (0, 4)
    assert len(done.skipped) == 2


def test_streaming_reads_three_batches_ahead_at_most() -> None:
    taken = 0

    def endless() -> Iterator[bytes]:
        nonlocal taken
        while True:
            taken += 1
            yield encoded(small.picture(0))

    stream = small.colours(batch_size=4).stream(endless())
    for batch in range(5):
        done = next(stream)
        assert done.indices.tolist() == list(range(4 * batch, 4 * batch + 4))
        assert taken == 4 * (batch + 3)


def test_a_stream_that_is_left_ends_its_threads() -> None:
    stream = small.colours().stream(itertools.repeat(encoded(small.picture(0))))
    next(stream)
    stream.close()  # type: ignore[attr-defined]
    assert not [t for t in threading.enumerate() if t.name.startswith("passreid-read")]


def test_an_error_of_the_callers_generator_is_his_own() -> None:
    def broken() -> Iterator[bytes]:
        yield encoded(small.picture(0))
        raise KeyError("his")

    with pytest.raises(KeyError, match="his"):
        small.colours()(broken())


def test_flip_is_the_mean_with_the_mirror() -> None:
    picture = small.picture(4)
    plain, flipped = small.colours(), small.colours(flip=True)
    both = plain([picture, picture[:, ::-1]], channel_order="rgb")
    np.testing.assert_allclose(
        flipped(picture, channel_order="rgb")[0], both.mean(0), rtol=0, atol=1e-6
    )
    assert abs(both[0, 3] - both[1, 3]) > 0.01


class Broken(small.Colours):
    """Gives infinity for dark pictures."""

    def run(self, pixels: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        rows = super().run(pixels)
        rows[rows[:, 0] < -0.9] = np.inf
        return rows


@pytest.mark.parametrize("on_error", ["raise", "skip"])
def test_what_is_not_finite_is_never_handed_out(tmp_path: Path, on_error: Any) -> None:
    dark = tmp_path / "dark.png"
    Image.new("RGB", (8, 8)).save(dark)
    embedder = small.colours(network=Broken())
    with pytest.raises(EmbeddingError, match=r"NaN or infinity for .*dark\.png: its weights"):
        embedder.embed([encoded(small.picture(0)), dark], on_error=on_error)
    if on_error == "skip":  # rows are counted without the unreadable, names are not
        with pytest.raises(EmbeddingError, match=r"infinity for \S*dark\.png: its weights"):
            embedder.embed([b"junk", encoded(small.picture(0)), dark], on_error=on_error)
    half = Broken()
    half.precision = "float16"
    with pytest.raises(EmbeddingError, match="precision='float32'"):
        small.colours(network=half)(dark)


def test_boxes_are_crops() -> None:
    frame = small.picture(3, 200, 300)
    embedder = small.colours(batch_size=2)
    boxes = [(10, 20, 60, 150), (99.6, 0.4, 200.4, 199.5), (-20, -5, 40, 500)]
    rows = embedder.boxes(frame, boxes, channel_order="rgb")
    crops = [frame[20:150, 10:60], frame[0:200, 100:200], frame[:, :40]]
    np.testing.assert_array_equal(rows, embedder(crops, channel_order="rgb"))
    np.testing.assert_array_equal(embedder.boxes(Image.fromarray(frame), np.array(boxes)), rows)
    nobody: list[Any] = [[], np.empty((0, 4))]
    for boxes_of_none in nobody:
        assert embedder.boxes(frame, boxes_of_none, channel_order="rgb").shape == (0, 4)


@pytest.mark.parametrize(
    ("box", "reason"),
    [
        ((50, 50, 50, 90), "no pixel in a frame of 300 x 200; if it is left, top, width"),
        ((50, 50, 40, 90), "no pixel in a frame of 300 x 200; if it is left, top, width"),
        ((300, 0, 400, 90), "no pixel in a frame of 300 x 200$"),
        ((0, 0, np.nan, 9), "no pixel in a frame of 300 x 200$"),
        ((10, 10, 13, 90), r"\(10, 10, 13, 90\) has 3 x 80 pixels.*at least 4 on each side"),
        ((10, 197, 90, 400), "has 80 x 3 pixels in a frame of 300 x 200; a crop needs at least 4"),
    ],
)
def test_a_box_without_a_person_is_named_by_its_row(box: tuple[float, ...], reason: str) -> None:
    frame = Image.fromarray(small.picture(3, 200, 300))
    with pytest.raises(ImageError, match=rf"box 1 of <PIL image.*{reason}"):
        small.colours().boxes(frame, [(0, 0, 9, 9), box])


def test_boxes_of_another_shape_are_refused() -> None:
    frame = Image.fromarray(small.picture(3))
    refused: list[Any] = [[1, 2, 3, 4], [[1, 2, 3]], [[1, 2, 3, 4], [1, 2]], [["a", 2, 3, 4]]]
    for boxes in refused:
        with pytest.raises(UsageError, match=r"\(N, 4\)"):
            small.colours().boxes(frame, boxes)


@pytest.mark.parametrize(
    ("box_format", "boxes"),
    [
        ("xywh", [[30, 40, 60, 100], [0, 20, 30, 120]]),
        ("cxcywh", [[60, 90, 60, 100], [15, 80, 30, 120]]),
        ("xyxyn", [[0.1, 0.2, 0.3, 0.7], [0, 0.1, 0.1, 0.7]]),
        ("xywhn", [[0.1, 0.2, 0.2, 0.5], [0, 0.1, 0.1, 0.6]]),
        ("cxcywhn", [[0.2, 0.45, 0.2, 0.5], [0.05, 0.4, 0.1, 0.6]]),
    ],
)
def test_boxes_are_understood_in_every_format(box_format: Any, boxes: Any) -> None:
    frame = Image.fromarray(small.picture(3, 200, 300))
    expected = small.colours().boxes(frame, [[30, 40, 90, 140], [0, 20, 30, 140]])
    found = small.colours().boxes(frame, np.array(boxes), box_format=box_format)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(
    ("box_format", "boxes", "reason"),
    [
        ("xyxy", [[0.1, 0.2, 0.6, 0.95], [0.4, 0.1, 0.9, 0.8]], "say box_format='xyxyn'"),
        ("xyxy", [[-0.02, 0.0, 0.5, 1.03]], "say box_format='xyxyn'"),
        ("xywh", [[0.1, 0.2, 0.3, 0.4]], "say box_format='xywhn'"),
        ("xyxyn", [[10, 20, 60, 150]], "look like pixels.*say box_format='xyxy'"),
        ("cxcywhn", [[0.5, 0.5, 0.2, 0.4], [60, 90, 60, 100]], "say box_format='cxcywh'"),
        ("corners", [[10, 20, 60, 150]], "use one of xyxy, xywh, cxcywh, xyxyn"),
    ],
)
def test_boxes_in_another_unit_are_refused(box_format: Any, boxes: Any, reason: str) -> None:
    frame = Image.fromarray(small.picture(3, 200, 300))
    with pytest.raises(UsageError, match=reason):
        small.colours().boxes(frame, boxes, box_format=box_format)


def test_the_card_chooses_the_filter() -> None:
    picture = small.picture(2, 300, 200)
    card = replace(small.colours().card, interpolation="bicubic")
    row = small.colours(card=card)(picture, channel_order="rgb")[0]
    height, width = small.SIZE
    resized = Image.fromarray(picture).resize((width, height), Image.Resampling.BICUBIC)
    np.testing.assert_array_equal(row, by_hand(np.asarray(resized), small.colours()))
    assert not np.array_equal(row, by_hand(picture, small.colours()))


def test_progress_stays_off_stdout(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pictures = [encoded(small.picture(0))] * 5
    rows = small.colours(batch_size=2)(pictures, progress=True)
    assert len(rows) == 5
    assert len(small.colours()(iter(pictures), progress=True)) == 5
    assert capsys.readouterr() == ("", ""), "where nobody watches, a bar is empty lines"
    monkeypatch.setenv("FORCE_COLOR", "1")  # as if stderr were a terminal
    small.colours()(pictures, progress=True)
    written = capsys.readouterr()
    assert written.out == ""
    assert "Embedding" in written.err


def test_an_embedder_tells_what_it_is() -> None:
    embedder = small.colours(batch_size=5, flip=True)
    assert (embedder.dim, embedder.backend, embedder.device) == (4, "colours", "cpu")
    assert repr(embedder) == (
        "Embedder('colours', 4 numbers from 64x32 pixels, colours on cpu in float32, "
        "batch_size=5, flip=True, calibrated on nothing)"
    )
    for wrong in ({"batch_size": 0}, {"workers": 0}):
        with pytest.raises(UsageError, match="at least 1"):
            small.colours(**wrong)


def test_resized_crops_embed_as_their_files(tmp_path: Path) -> None:
    embedder = small.colours(batch_size=2, flip=True)
    paths = [tmp_path / f"{n}.png" for n in range(5)]
    for n, path in enumerate(paths):
        path.write_bytes(encoded(small.picture(n)))
    crops = np.stack([read_crop(path, embedder.card) for path in paths])
    np.testing.assert_array_equal(embedder.embed_pixels(crops), embedder(paths))
    assert embedder.embed_pixels(crops[:0]).shape == (0, 4)
    refused: list[Any] = [crops[:, 1:], crops[0], crops.astype(np.float32)]
    for wrong in refused:
        with pytest.raises(UsageError, match=r"Crops must be uint8 \(N, 64, 32, 3\), not <array"):
            embedder.embed_pixels(wrong)
    crops[3] = 0
    with pytest.raises(EmbeddingError, match="NaN or infinity for crop 3: its weights"):
        small.colours(network=Broken(), batch_size=2).embed_pixels(crops)
