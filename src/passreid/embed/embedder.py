"""Read, resize and batch images ahead of a network, and run it."""

from __future__ import annotations

import hashlib
import json
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, fields, replace
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from passreid.backends import F32, Backend
from passreid.card import ModelCard
from passreid.embed.boxes import BoxFormat, cut_boxes
from passreid.errors import EmbeddingError, ImageError, UsageError
from passreid.images import ChannelOrder, ImageInput, describe, normalise, read_image, to_pixels
from passreid.inputs import is_one_image
from passreid.openset import Calibration

OnError = Literal["raise", "skip"]
U8 = NDArray[np.uint8]
_AHEAD = 2  # batches read while the network works on one


class Skipped(NamedTuple):
    """An image that was left out, and why."""

    name: str
    reason: str


@dataclass(frozen=True, eq=False)
class Embedded:
    """Embeddings and the images they belong to.

    Attributes:
        embeddings: (N, D) float32 as the network gives them, not of unit length.
        indices: (N,) int64, rising: the position of each row's image in the input.
        skipped: Images without a row, in order.
    """

    embeddings: F32
    indices: NDArray[np.int64]
    skipped: tuple[Skipped, ...] = ()

    def __len__(self) -> int:
        return len(self.embeddings)


@dataclass(frozen=True, eq=False, repr=False)
class Embedder:
    """A loaded model; threads may share it.

    Attributes:
        network: Runs the model.
        card: Describes it.
        batch_size: Crops per run of the network.
        flip: Average each embedding with that of the mirrored image.
        workers: Threads that read and resize.
        source: The folder or file it was loaded from.
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
        """Name of the backend: "onnx", "openvino" or "torch"."""
        return self.network.name

    @property
    def device(self) -> str:
        """Where the network runs, as torch spells it."""
        return self.network.device

    @property
    def precision(self) -> str:
        """Number format of the network's matrix products."""
        return self.network.precision

    @property
    def attends(self) -> bool:
        """Whether `attend` is available."""
        return self.network.attends

    @property
    def calibration(self) -> Calibration | None:
        """What the model's cosines mean, if it has been calibrated."""
        return self.card.calibration

    @cached_property
    def identity(self) -> str:
        """``name@weights.settings[+flip]``: models of equal identity give comparable embeddings.

        `weights` and `settings` are digests of the weights and of architecture and preprocessing.
        Backend and precision do not count: they change cosines in the third digit at most.
        """
        card = self.card
        weights = getattr(self.network, "weights_digest", None)
        if not weights:  # a backend of someone else's: hash its answer to a fixed image
            size = (1, *card.architecture.image_size, 3)
            noise = np.random.default_rng(0).integers(0, 256, size, dtype=np.uint8)
            weights = hashlib.sha256(self._run_network(noise).tobytes()).hexdigest()
        a = replace(card.architecture, num_classes=0)  # the classifier embeds nothing
        # Fields at their default are left out, so that adding one keeps all older identities.
        changed = {f.name: getattr(a, f.name) for f in fields(a) if getattr(a, f.name) != f.default}
        text = json.dumps([changed, card.mean, card.std, card.interpolation], sort_keys=True)
        settings = hashlib.sha256(text.encode()).hexdigest()
        return f"{card.name}@{weights[:16]}.{settings[:8]}{'+flip' * self.flip}"

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
        """Embed one image or many, one row each; use `embed` to skip unreadable images.

        Args:
            images: One path, URL, encoded file, PIL image or uint8 array, or any mix of them.
            channel_order: "rgb" or "bgr", for arrays.
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
        """Embed images and report which rows are whose.

        Args:
            images, channel_order, progress: As in a call, which raises the same errors.
            on_error: "skip" leaves unreadable images out and lists them.
        """
        many = _as_iterable(images)
        batches = self.stream(many, channel_order=channel_order, on_error=on_error)
        done = list(self._with_bar(batches, many) if progress else batches)
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
            images, channel_order, on_error: As in `embed`; errors are raised at their batch.

        Yields:
            One `Embedded` per `batch_size` images; indices count over the whole input.
        """
        if on_error not in ("raise", "skip"):
            raise UsageError(f"on_error is '{on_error}'; use 'raise' or 'skip'.")
        return self._stream(iter(_as_iterable(images)), channel_order, on_error == "skip")

    def embed_pixels(self, crops: U8) -> F32:
        """Embed crops that are already decoded and resized: uint8 RGB (N, H, W, 3) to (N, D).

        Raises:
            UsageError: Another shape or type than `read_crop` gives for this model's card.
            EmbeddingError: The network gives NaN or infinity.
        """
        shape = (*self.card.architecture.image_size, 3)
        if crops.dtype != np.uint8 or crops.shape[1:] != shape:
            wanted = ", ".join(map(str, shape))
            raise UsageError(f"Crops must be uint8 (N, {wanted}), not {describe(crops)}.")
        starts = range(0, len(crops), self.batch_size)
        rows = [self._run(crops[n : n + self.batch_size], n) for n in starts]
        return np.concatenate(rows) if rows else np.empty((0, self.dim), np.float32)

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
            xyxy: (N, 4) boxes; rounded to pixels and clipped to the frame.
            box_format: "xyxy" is left, top, right, bottom in pixels; "xywh" left, top, width,
                height; "cxcywh" the centre, width, height; with an "n" at the end, each relative to
                the frame's width and height, 0 to 1 (YOLO's labels are "cxcywhn").
            channel_order: "rgb" or "bgr", if `frame` is an array.

        Returns:
            (N, D) float32.

        Raises:
            UsageError: `xyxy` is not (N, 4) numbers, or not in the unit of `box_format`.
            ImageError: The frame cannot be read, or a box has fewer than 4 pixels on a side in it;
                the message names the box's row.
        """
        picture = read_image(frame, channel_order=channel_order)
        return self(cut_boxes(picture, xyxy, describe(frame), box_format=box_format))

    def attend(
        self,
        images: ImageInput | Iterable[ImageInput],
        *,
        channel_order: ChannelOrder | None = None,
    ) -> F32:
        """Compute how much CLS and each part token attend to each patch in the last block.

        Attention is averaged over heads and renormalised over the patches.

        Args:
            images, channel_order: As in a call, which raises the same errors.

        Returns:
            (N, 1 + P, rows, columns) float32, CLS first; each map sums to 1.

        Raises:
            ModelNotFoundError: The model folder has no `attention.onnx`.
        """
        card = self.card
        maps = [np.empty((0, 1 + card.architecture.parts, *card.architecture.grid), np.float32)]
        remaining = iter(_as_iterable(images))
        while batch := list(islice(remaining, self.batch_size)):
            pixels = np.stack([read_crop(image, card, channel_order) for image in batch])
            maps.append(self.network.attend(normalise(pixels, card.mean, card.std)))
        return np.concatenate(maps)

    def _with_bar(
        self, batches: Iterator[Embedded], images: Iterable[ImageInput]
    ) -> Iterator[Embedded]:
        from rich.console import Console
        from rich.progress import track

        total = -(-len(images) // self.batch_size) if isinstance(images, Sized) else None
        console = Console(stderr=True)
        if not console.is_terminal:  # a bar would print empty lines
            yield from batches
            return
        yield from track(batches, "Embedding", total=total, console=console, transient=True)

    def _stream(
        self, images: Iterator[ImageInput], channel_order: ChannelOrder | None, skip: bool
    ) -> Iterator[Embedded]:
        waiting: deque[tuple[list[ImageInput], list[Future[U8]]]] = deque()
        start = 0
        pool = ThreadPoolExecutor(self.workers, thread_name_prefix="passreid-read")
        try:
            while True:
                if batch := list(islice(images, self.batch_size)):
                    # A single crop is read sooner than handed to a thread.
                    begin = pool.submit if len(batch) > 1 else _call_now
                    tasks = [begin(read_crop, image, self.card, channel_order) for image in batch]
                    waiting.append((batch, tasks))
                if not waiting:
                    return
                if not batch or len(waiting) > _AHEAD:
                    names, reads = waiting[0]
                    yield self._finish(names, reads, start, skip)
                    start += len(names)
                    waiting.popleft()
        finally:
            pool.shutdown(cancel_futures=True)

    def _finish(
        self, images: Sequence[ImageInput], reads: list[Future[U8]], start: int, skip: bool
    ) -> Embedded:
        """Embed what could be read of a batch whose first image is number `start`."""
        pixels, readable, skipped = [], [], []
        for index, read in enumerate(reads):
            try:
                pixels.append(read.result())
                readable.append(index)
            except ImageError as error:
                if not skip:
                    raise
                skipped.append(Skipped(error.source, error.reason))
        rows = np.empty((0, self.dim), np.float32)
        if pixels:
            rows = self._run(np.stack(pixels), names=[images[index] for index in readable])
        return Embedded(rows, np.array(readable, np.int64) + start, tuple(skipped))

    def _run(self, batch: U8, first: int = 0, *, names: Sequence[ImageInput] = ()) -> F32:
        """Embed one batch; errors name its crops by `names`, or count them from `first`."""
        rows = self._run_network(batch)
        if self.flip:
            mirrored = np.ascontiguousarray(batch[:, :, ::-1])
            rows = (rows + self._run_network(mirrored)) / np.float32(2)
        bad = np.flatnonzero(~np.isfinite(rows).all(axis=1))
        if bad.size:
            shown = [describe(names[row]) if names else f"crop {first + row}" for row in bad[:5]]
            others = " and others" if len(bad) > 5 else ""
            exact = self.precision == "float32"
            remedy = "its weights are damaged" if exact else "load it with precision='float32'"
            raise EmbeddingError(
                f"The model '{self.card.name}' gives NaN or infinity for {', '.join(shown)}{others}"
                f": {remedy}."
            )
        return rows

    def _run_network(self, batch: U8) -> F32:
        card = self.card
        pixels = batch if self.network.normalises else normalise(batch, card.mean, card.std)
        rows = self.network.run(pixels)
        if rows.shape != (len(batch), self.dim):
            raise EmbeddingError(
                f"The card '{card.name}' says {self.dim} dimensions, but its network returned "
                f"{rows.shape[-1]}; load the weights with the card that was saved with them."
            )
        return rows


def read_crop(image: ImageInput, card: ModelCard, channel_order: ChannelOrder | None = None) -> U8:
    """Read an image at the size and with the filter a card asks for: uint8 RGB (H, W, 3).

    Raises:
        ImageError: It cannot be read.
    """
    return resize_crop(read_image(image, channel_order=channel_order), card)


def resize_crop(picture: Image.Image, card: ModelCard) -> U8:
    """Resize an RGB picture from `read_image` as a card asks for: uint8 RGB (H, W, 3)."""
    return to_pixels(picture, card.architecture.image_size, card.interpolation)


def _call_now(function: Callable[..., U8], *arguments: Any) -> Future[U8]:
    """Do at once what a pool would do later."""
    task: Future[U8] = Future()
    try:
        task.set_result(function(*arguments))
    except ImageError as error:
        task.set_exception(error)
    return task


def _as_iterable(images: Any) -> Iterable[ImageInput]:
    """Put a single image into a list; an array of four axes is a stack of images."""
    if is_one_image(images):
        return [images]
    if not isinstance(images, Iterable):
        raise UsageError(f"{describe(images)} is neither an image nor a list of images.")
    return images
