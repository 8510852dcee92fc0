"""ModelScope's calls for the PASS model: change the import line of a script, keep the rest.

    from passreid.compat.modelscope import OutputKeys, Tasks, pipeline

    model_id = "damo/cv_passvitb_image-reid-person_market"
    image_reid_person = pipeline(Tasks.image_reid_person, model=model_id)
    image_reid_person("crop.jpg")[OutputKeys.IMG_EMBEDDING]    # float32 (1, 1536), not normalised

The `modelscope` package is not needed, and no file of a model folder is ever run.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from passreid.backends import gpu
from passreid.config import suggest
from passreid.embed import Embedder, load
from passreid.errors import UsageError
from passreid.images import ImageInput, describe

log = logging.getLogger("passreid")

DEFAULT_MODEL = "damo/cv_passvitb_image-reid-person_market"

_OPTIONS = {"backend", "precision", "batch_size", "flip", "threads", "offline"}

Output = dict[str, NDArray[np.float32]]


class Tasks:
    """Names of tasks; passreid does this one."""

    image_reid_person = "image-reid-person"


class OutputKeys:
    """Keys of an output."""

    IMG_EMBEDDING = "img_embedding"


class ReIDPipeline:
    """What `pipeline` returns: images in, `{"img_embedding": float32 (1, D)}` out.

    As with the original, arrays are BGR (OpenCV's order), EXIF orientation is applied to files and
    not to PIL images, and embeddings are not of unit length.

    Attributes:
        embedder: What does the work, for everything the original cannot do.
    """

    def __init__(self, embedder: Embedder) -> None:
        self.embedder = embedder

    @overload
    def __call__(
        self, input: ImageInput | Mapping[str, ImageInput], *, batch_size: int | None = None
    ) -> Output: ...
    @overload
    def __call__(
        self,
        input: list[Any] | tuple[Any, ...],
        *,
        batch_size: int | None = None,
    ) -> list[Output]: ...
    def __call__(self, input: Any, *, batch_size: int | None = None) -> Output | list[Output]:
        """Embed one image or a list of them.

        Args:
            input: A path, URL, PIL image or BGR array; ``{"image": …}``; or a list of these.
            batch_size: Images the network sees at a time, for a list.

        Returns:
            One output; for a list a list of outputs, each of its own (1, D).

        Raises:
            ImageError: An image cannot be read.
            UsageError: A mapping without "image".
        """
        many = isinstance(input, (list, tuple))
        images = [_image(item) for item in (input if many else [input])]
        embedder = replace(self.embedder, batch_size=batch_size) if batch_size else self.embedder
        rows = embedder(images, channel_order="bgr")
        outputs = [{OutputKeys.IMG_EMBEDDING: row[None].copy()} for row in rows]
        return outputs if many else outputs[0]


def pipeline(
    task: str = Tasks.image_reid_person,
    model: str | Path | Embedder | None = None,
    *,
    device: str = "gpu",
    model_revision: str | None = None,
    **options: Any,
) -> ReIDPipeline:
    """Build the pipeline of a task.

    Args:
        task: "image-reid-person".
        model: A ModelScope id or a folder of one, or whatever else `passreid.load` takes; None is
            ModelScope's default for the task, which is fetched once.
        device: As `passreid.load`, or "gpu", "gpu:1"; as with the original, one that wants CUDA
            runs without it where there is none.
        model_revision: Branch or tag of a hub's model; a file or folder has none.
        options: Passed on to `passreid.load`.

    Raises:
        UsageError: Another task, or an option that `passreid.load` does not know.
        PassreidError: The model cannot be loaded.
    """
    if task != Tasks.image_reid_person:
        raise UsageError(f"Unknown task '{task}'; passreid does '{Tasks.image_reid_person}'.")
    if isinstance(model, Embedder):
        return ReIDPipeline(model)
    if unknown := options.keys() - _OPTIONS:
        hints = "".join(f" '{key}'.{suggest(key, sorted(_OPTIONS))}" for key in sorted(unknown))
        raise UsageError(f"pipeline has no option{hints}")
    name = model or DEFAULT_MODEL
    if model_revision is not None and not Path(name).expanduser().exists():
        name = f"{name}@{model_revision}"
    where = device.lower().replace("gpu", "cuda")
    if where.startswith("cuda") and gpu() != "cuda":
        log.info("There is no CUDA here; the pipeline runs on what there is.")
        where = "auto"
    return ReIDPipeline(load(name, device=where, **options))


def _image(item: Any) -> ImageInput:
    if not isinstance(item, Mapping):
        image: ImageInput = item
        return image
    if set(item) != {"image"}:
        raise UsageError(f"{describe(item)}: a dict input is {{'image': …}} and nothing else.")
    return _image(item["image"])
