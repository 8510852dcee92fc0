"""A look at the views before a run of days is started on them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from passreid.data.filelist import FileList
from passreid.pretraining.config import PretrainConfig
from passreid.pretraining.crops import MultiCrop

Pixels = NDArray[np.uint8]


def sample_views(
    config: PretrainConfig, count: int = 6
) -> list[tuple[Image.Image, Pixels, Pixels]]:
    """Make the views of a few images, taken evenly from the whole list.

    Returns:
        Image, global views uint8 (2, H, W, 3) and local views uint8 (V, h, w, 3) of each.

    Raises:
        UsageError, DatasetError: As `pretrain`.
        ImageError: One of these images cannot be read.
    """
    files, crop = FileList.find(config.data), MultiCrop.of(config)
    chosen = np.linspace(0, len(files) - 1, min(count, len(files))).astype(int)
    rows = []
    for index in chosen.tolist():
        image = files.read(index)
        rows.append((image, *crop(image, np.random.default_rng((config.seed, index)))))
    return rows
