"""The face of a loaded model: read, resize and normalise ahead of the network, then run it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sized
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from passreid.backends import F32, Backend
from passreid.card import ModelCard
from passreid.embed.boxes import BoxFormat, pixel_boxes
from passreid.embed.identity import identify
from passreid.embed.result import Embedded, Skipped
from passreid.errors import EmbeddingError, ImageError, UsageError
from passreid.images import ChannelOrder, ImageInput, describe, normalise, read_image, to_pixels
from passreid.inputs import is_one_image
from passreid.openset import Calibration

OnError = Literal["raise", "skip"]
_Pixels = NDArray[np.uint8]
_AHEAD = 2  # batches that are read while the network works on one


@dataclass(frozen=True, eq=False, repr=False)
class Embedder:
    """A model that is ready to embed; `load` makes one, and threads may share it.

    Attributes:
        network, card, source: What runs the model, what it is, and where it was loaded from.
        batch_size: Images the network sees at a time.
        flip: Average each embedding with that of the mirrored image.
        workers: Threads that read and resize.
    """

    network: Backend
    card: ModelCard
    batch_size: int = 32
    flip: bool = False
    workers: int = 2
    source: Path | None = None

    def __post_init__(self) -> None:
        if self.batch_size < 1 or self.workers < 1:
            raise UsageError("batch_size and threads must be at least 1.")

    @property
    def dim(self) -> int:
        """Width D of an embedding."""
        return self.card.architecture.dim

    @property
    def backend(self) -> str:
        """Engine: "onnx", "openvino" or "torch"."""
        return self.network.name

    @property
    def device(self) -> str:
        """Where the network runs, as torch spells it."""
        return self.network.device

    @property
    def precision(self) -> str:
        """What the network's products are computed in."""
        return self.network.precision

    @property
    def attends(self) -> bool:
        """Whether `attend` can show where the model looks."""
        return self.network.attends

    @cached_property
    def identity(self) -> str:
        """Name of the model that tells its vectors from those of any other.

        It covers what runs: the weights, the architecture, the preprocessing, and "+flip" where
        embeddings are averaged with mirrored ones. Backend, precision and the file that the weights
        came from do not count: they change cosines in the third digit at most.
        """
        return identify(self.network, self.card, flip=self.flip)

    @property
    def calibration(self) -> Calibration | None:
        """What the model's cosines mean, if it was ever calibrated."""
        return self.card.calibration

    def __repr__(self) -> str:
        height, width = self.card.architecture.image_size
        calibrated = self.calibration.data if self.calibration else "nothing"
        return (
            f"Embedder('{self.card.name}', {self.dim} numbers from {height}x{width} pixels, "
            f"{self.backend} on {self.device} in {self.precision}, batch_size={self.batch_size}, "
            f"flip={self.flip}, calibrated on {calibrated})"
        )

    def __call__(
        self,
        images: ImageInput | Iterable[ImageInput],
        *,
        channel_order: ChannelOrder | None = None,
        progress: bool = False,
    ) -> F32:
        """Embed one image or many, a row for each; `embed` can leave out unreadable ones.

        Args:
            images: One path, URL, encoded file, PIL image or uint8 array, or any mix of them.
            channel_order: Order of the channels of arrays, which do not know it.
            progress: Draw a bar on stderr.

        Returns:
            (N, D) float32, not of unit length; (1, D) for a single image.

        Raises:
            ImageError: An image cannot be read.
            EmbeddingError: The network gives NaN or infinity.
        """
        return self.embed(images, channel_order=channel_order, progress=progress).embeddings

    def embed(
        self,
        images: ImageInput | Iterable[ImageInput],
        *,
        channel_order: ChannelOrder | None = None,
        on_error: OnError = "raise",
        progress: bool = False,
    ) -> Embedded:
        """Embed images, and say which are which.

        Args:
            images, channel_order, progress: As in a call, which also tells what is raised.
            on_error: "skip" leaves unreadable images out and lists them.
        """
        many = _many(images)
        batches = self.stream(many, channel_order=channel_order, on_error=on_error)
        done = list(self._drawn(batches, many) if progress else batches)
        rows = [batch.embeddings for batch in done] or [np.empty((0, self.dim), np.float32)]
        indices = [batch.indices for batch in done] or [np.empty(0, np.int64)]
        skipped = tuple(image for batch in done for image in batch.skipped)
        return Embedded(np.concatenate(rows), np.concatenate(indices), skipped)

    def stream(
        self,
        images: ImageInput | Iterable[ImageInput],
        *,
        channel_order: ChannelOrder | None = None,
        on_error: OnError = "raise",
    ) -> Iterator[Embedded]:
        """Embed images as they come, in order and in bounded memory.

        Args:
            images, channel_order, on_error: As in `embed`; errors come when the batch's turn does.

        Yields:
            What came of each `batch_size` images, their positions counted over the whole input.
        """
        if on_error not in ("raise", "skip"):
            raise UsageError(f"on_error is '{on_error}'; use 'raise' or 'skip'.")
        return self._stream(iter(_many(images)), channel_order, on_error == "skip")

    def boxes(
        self,
        frame: ImageInput,
        xyxy: ArrayLike,
        *,
        box_format: BoxFormat = "xyxy",
        channel_order: ChannelOrder | None = None,
    ) -> F32:
        """Embed the people a detector found in a frame.

        Args:
            frame: The whole picture.
            xyxy: (N, 4) boxes; rounded to pixels, and clipped to the frame.
            box_format: "xyxy" is left, top, right, bottom in pixels; "xywh" left, top, width,
                height; "cxcywh" the centre, width, height; with an "n" at the end, each relative to
                the frame's width and height, 0 to 1 (YOLO's labels are "cxcywhn").
            channel_order: Order of the channels of `frame` if it is an array.

        Returns:
            (N, D) float32.

        Raises:
            UsageError: `xyxy` is not (N, 4) numbers, or in another unit than `box_format` says.
            ImageError: The frame cannot be read, or a box has fewer than 4 pixels on a side in it;
                names the box's row.
        """
        picture = read_image(frame, channel_order=channel_order)
        corners = pixel_boxes(xyxy, picture.size, describe(frame), box_format=box_format)
        return self(picture.crop(tuple(box)) for box in corners.tolist())

    def attend(
        self,
        images: ImageInput | Iterable[ImageInput],
        *,
        channel_order: ChannelOrder | None = None,
    ) -> F32:
        """Show how much CLS and each part token look at each patch of the image.

        The attention of the last block, mean over heads; what tokens look at besides patches is
        left out.

        Args:
            images, channel_order: As in a call, which also tells what is raised.

        Returns:
            (N, 1 + P, rows, columns) float32, CLS first; each map sums to 1.

        Raises:
            ModelNotFoundError: The model folder has no `attention.onnx`.
        """
        card = self.card
        maps = [np.empty((0, 1 + card.architecture.parts, *card.architecture.grid), np.float32)]
        remaining = iter(_many(images))
        while batch := list(islice(remaining, self.batch_size)):
            pixels = np.stack([read_crop(image, card, channel_order) for image in batch])
            maps.append(self.network.attend(normalise(pixels, card.mean, card.std)))
        return np.concatenate(maps)

    def _drawn(
        self, batches: Iterator[Embedded], images: Iterable[ImageInput]
    ) -> Iterator[Embedded]:
        from rich.console import Console
        from rich.progress import track

        total = -(-len(images) // self.batch_size) if isinstance(images, Sized) else None
        console = Console(stderr=True)
        if not console.is_terminal:  # a bar there is an empty line
            yield from batches
            return
        yield from track(batches, "Embedding", total=total, console=console, transient=True)

    def _stream(
        self, images: Iterator[ImageInput], channel_order: ChannelOrder | None, skip: bool
    ) -> Iterator[Embedded]:
        waiting: deque[list[_Reading]] = deque()
        start = 0
        pool = ThreadPoolExecutor(self.workers, thread_name_prefix="passreid-read")
        try:
            while batch := list(islice(images, self.batch_size)):
                # A lone crop is read sooner than handed over to a thread.
                begin = pool.submit if len(batch) > 1 else _at_once
                tasks = [begin(read_crop, image, self.card, channel_order) for image in batch]
                waiting.append([_Reading(*pair) for pair in zip(batch, tasks, strict=True)])
                if len(waiting) > _AHEAD:
                    yield self._run(waiting[0], start, skip)
                    start += len(waiting.popleft())
            while waiting:
                yield self._run(waiting[0], start, skip)
                start += len(waiting.popleft())
        finally:
            pool.shutdown(cancel_futures=True)

    def _run(self, batch: list[_Reading], start: int, skip: bool) -> Embedded:
        """Embed what could be read of one batch, whose first image is number `start`."""
        pixels, indices, skipped = [], [], []
        for index, (_, reading) in enumerate(batch):
            try:
                pixels.append(reading.result())
                indices.append(start + index)
            except ImageError as error:
                if not skip:
                    raise
                skipped.append(Skipped(error.source, error.reason))
        rows = self._forward(np.stack(pixels)) if pixels else np.empty((0, self.dim), np.float32)
        bad = np.flatnonzero(~np.isfinite(rows).all(axis=1))
        if bad.size:
            names = [describe(batch[indices[row] - start].image) for row in bad]
            shown = ", ".join(names[:5]) + (" and others" if len(names) > 5 else "")
            exact = self.precision == "float32"
            cure = "its weights are damaged" if exact else "load it with precision='float32'"
            raise EmbeddingError(
                f"The model '{self.card.name}' gives NaN or infinity for {shown}: {cure}."
            )
        return Embedded(rows, np.array(indices, np.int64), tuple(skipped))

    def _forward(self, batch: NDArray[np.uint8]) -> F32:
        rows = self._run_network(batch)
        if self.flip:
            mirrored = np.ascontiguousarray(batch[:, :, ::-1])
            rows = (rows + self._run_network(mirrored)) / np.float32(2)
        return rows

    def _run_network(self, batch: NDArray[np.uint8]) -> F32:
        """Normalise pixels (B, H, W, 3) if the network does not, and embed them.

        Raises:
            EmbeddingError: The network's rows are not as wide as the card says.
        """
        card = self.card
        pixels = batch if self.network.normalises else normalise(batch, card.mean, card.std)
        rows = self.network.run(pixels)
        if rows.shape != (len(batch), self.dim):
            raise EmbeddingError(
                f"The card '{card.name}' says {self.dim} dimensions, but its network returned "
                f"{rows.shape[-1]}; load the weights with the card that was saved with them."
            )
        return rows


def read_crop(
    image: ImageInput, card: ModelCard, channel_order: ChannelOrder | None = None
) -> NDArray[np.uint8]:
    """Read a picture as a model's card wants it: uint8 RGB (H, W, 3) of its input size.

    Raises:
        ImageError: It cannot be read.
    """
    picture = read_image(image, channel_order=channel_order)
    height, width = size = card.architecture.image_size
    if card.interpolation == "bicubic":
        # to_pixels is bilinear, and leaves alone what has its size already.
        picture = picture.resize((width, height), Image.Resampling.BICUBIC)
    return to_pixels(picture, size)


class _Reading(NamedTuple):
    """An image and its pixels to come."""

    image: ImageInput
    pixels: Future[_Pixels]


def _at_once(read: Callable[..., _Pixels], *arguments: Any) -> Future[_Pixels]:
    """Do what a pool would do, in this thread."""
    task: Future[_Pixels] = Future()
    try:
        task.set_result(read(*arguments))
    except ImageError as error:
        task.set_exception(error)
    return task


def _many(images: Any) -> Iterable[ImageInput]:
    """Return one image as a list; an array of four axes is a stack of images."""
    if is_one_image(images):
        return [images]
    if not isinstance(images, Iterable):
        raise UsageError(f"{describe(images)} is neither an image nor a list of images.")
    return images
