"""The views of one image: two of the whole, some of each area.

    image ─┬─ crop, colours, blur ─▶ 2 global views
           └─ bands ─ crop, colours, blur ─▶ `crops` local views of each

Flip, jitter and grayscale work pixel by pixel, so they commute with resizing except for rounding,
clipping and the contrast's mean. They run on the crop or on the resized view, whichever has fewer
pixels: a fifth of the work on 64x128 images.

PASS (Zhu et al., ECCV 2022) as released in `PASS/main_pass.py`, after DINO (Caron et al., ICCV
2021).
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter, ImageOps

from passreid.data.filelist import FileList
from passreid.pretraining.recipe import PretrainConfig, PretrainRecipe

Pixels = NDArray[np.uint8]
Band = tuple[int, int]
Size = tuple[int, int]

FLIP, JITTER, GRAYSCALE = 0.5, 0.8, 0.2
"""Probabilities, the same for every view."""
BRIGHTNESS, CONTRAST, SATURATION, HUE = 0.4, 0.4, 0.2, 0.1
GLOBAL_BLUR, LOCAL_BLUR = (1.0, 0.1), 0.5
"""Blur probabilities of the first and second global view, and of local ones."""
SOLARIZE = 0.2
"""Probability for the second global view."""
BLUR_RADIUS = (0.1, 2.0)


def bands(height: int, areas: int, area_height: float) -> list[Band]:
    """Return the rows [top, bottom) of each area, spread evenly from top to bottom.

    Three areas of half the height are the released ones: [0, 1/2), [1/4, 3/4), [1/2, 1), each
    number rounded down. One area lies in the middle; no area means the whole image.
    """
    if not areas:
        return [(0, height)]
    rows = max(int(area_height * height), 1)
    free = 1 - area_height
    shares = [i / (areas - 1) for i in range(areas)] if areas > 1 else [0.5]
    tops = [int(free * share * height) for share in shares]
    return [(top, top + rows) for top in tops]


class MultiCrop:
    """Draws the views of an image as a recipe describes them."""

    def __init__(self, recipe: PretrainRecipe) -> None:
        self.recipe = recipe
        self.size, self.local_size = recipe.architecture.image_size, recipe.local_image_size

    def sources(self, height: int) -> list[Band]:
        """Return the rows each view of an image is drawn from, in the order of the views."""
        local = bands(height, self.recipe.areas, self.recipe.area_height)
        return [(0, height)] * 2 + [band for band in local for _ in range(self.recipe.crops)]

    def __call__(self, image: Image.Image, rng: np.random.Generator) -> tuple[Pixels, Pixels]:
        """Draw the views of an RGB image.

        Returns:
            uint8 (2, H, W, 3) and (areas * crops, h, w, 3); local views area by area.
        """
        recipe, views = self.recipe, []
        for number, (top, bottom) in enumerate(self.sources(image.height)):
            size = self.size if number < 2 else self.local_size
            scale = recipe.global_scale if number < 2 else recipe.local_scale
            band = (image.width, bottom - top)
            left, up, right, low = random_box(band, scale, recipe.crop_ratio, rng)
            crop = image.crop((left, top + up, right, top + low))
            view = _resized_and_coloured(crop, size, recipe.color_strength, rng)
            blur = GLOBAL_BLUR[number] if number < 2 else LOCAL_BLUR
            if rng.random() < blur:
                view = view.filter(ImageFilter.GaussianBlur(rng.uniform(*BLUR_RADIUS)))
            if number == 1 and rng.random() < SOLARIZE * recipe.color_strength:
                view = ImageOps.solarize(view)
            views.append(np.asarray(view))
        none = np.empty((0, *self.local_size, 3), np.uint8)
        return np.stack(views[:2]), np.stack(views[2:]) if views[2:] else none


def sample_views(
    config: PretrainConfig, count: int = 6
) -> list[tuple[Image.Image, Pixels, Pixels]]:
    """Draw the views of a few images, taken evenly from the list: image, global, local views."""
    files, crop = FileList.find(config.data), MultiCrop(config)
    chosen = np.linspace(0, len(files) - 1, min(count, len(files))).astype(int).tolist()
    images = [(index, files.read(index)) for index in chosen]
    return [
        (image, *crop(image, np.random.default_rng((config.seed, index))))
        for index, image in images
    ]


def random_box(
    size: Size, scale: tuple[float, float], ratio: tuple[float, float], rng: np.random.Generator
) -> tuple[int, int, int, int]:
    """Draw the box (left, top, right, bottom) of a random resized crop, as torchvision does.

    Up to ten times, a share of the area is drawn uniformly and an aspect ratio log-uniformly; a
    crop that fits is placed at random. Otherwise the largest centred crop within the ratios is
    taken.
    """
    width, height = size
    low, high = math.log(ratio[0]), math.log(ratio[1])
    for _ in range(10):
        area = width * height * rng.uniform(*scale)
        aspect = math.exp(rng.uniform(low, high))
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            left, top = int(rng.integers(width - w + 1)), int(rng.integers(height - h + 1))
            return left, top, left + w, top + h
    w, h = width, height
    if width / height < ratio[0]:
        h = max(round(width / ratio[0]), 1)
    elif width / height > ratio[1]:
        w = max(round(height * ratio[1]), 1)
    left, top = (width - w) // 2, (height - h) // 2
    return left, top, left + w, top + h


def _resized_and_coloured(
    crop: Image.Image, size: Size, strength: float, rng: np.random.Generator
) -> Image.Image:
    height, width = size
    colour_first = crop.width * crop.height < width * height
    if colour_first:
        crop = _coloured(crop, strength, rng)
    view = crop.resize((width, height), Image.Resampling.BICUBIC)
    return view if colour_first else _coloured(view, strength, rng)


def _coloured(image: Image.Image, strength: float, rng: np.random.Generator) -> Image.Image:
    """Flip, jitter and turn grey, each at its probability."""
    if rng.random() < FLIP:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    if rng.random() < JITTER:
        reaches = [strength * most for most in (BRIGHTNESS, CONTRAST, SATURATION)]
        amounts = [rng.uniform(1 - reach, 1 + reach) for reach in reaches]
        shift = strength * rng.uniform(-HUE, HUE)
        for change in rng.permutation(4).tolist():
            last = change == 3
            image = turn_hue(image, shift) if last else adjust(image, change, amounts[change])
    if rng.random() < GRAYSCALE * strength:
        image = image.convert("L").convert("RGB")
    return image


def adjust(image: Image.Image, change: int, amount: float) -> Image.Image:
    """Blend with black (0: brightness), the mean grey (1: contrast) or its greys (2: saturation).

    At `amount` 1 the image stays; below 1 it moves towards the other, above 1 away from it.
    """
    if change == 2:
        other = image.convert("L").convert("RGB")
    else:
        grey = int(np.asarray(image.convert("L")).mean() + 0.5) if change else 0
        other = Image.new("RGB", image.size, (grey, grey, grey))
    return Image.blend(other, image, amount)


def turn_hue(image: Image.Image, shift: float) -> Image.Image:
    """Rotate the hue by a share of the colour circle, in Pillow's 256 steps."""
    hue, saturation, value = image.convert("HSV").split()
    turned = np.asarray(hue) + np.uint8(int(shift * 255) % 256)
    merged = Image.merge("HSV", (Image.fromarray(turned), saturation, value))
    return merged.convert("RGB")
