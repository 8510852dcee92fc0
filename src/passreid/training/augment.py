"""Training crops: the released augmentation, one seed a crop.

Of `PASS_transreid/datasets`; random erasing by Zhong et al., AAAI 2020.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from PIL import Image, ImageFilter
from timm.data.random_erasing import RandomErasing
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.transforms import InterpolationMode, v2

from passreid.data.filelist import FileList
from passreid.training.process import seed_all
from passreid.training.recipe import AugmentationRecipe


def build_augmentation(recipe: AugmentationRecipe, image_size: tuple[int, int]) -> v2.Compose:
    """Resize (bicubic), mirror, change, pad and crop, normalise, erase: PIL -> float (3, H, W)."""
    bicubic = InterpolationMode.BICUBIC
    steps: list[Any] = []
    if recipe.box_shift:
        steps.append(partial(shift_box, share=recipe.box_shift))
    if recipe.zoom < 1:
        shape = image_size[1] / image_size[0]
        scale, ratio = (recipe.zoom, 1.0), (0.8 * shape, 1.25 * shape)
        steps.append(v2.RandomResizedCrop(image_size, scale, ratio, interpolation=bicubic))
    else:
        steps.append(v2.Resize(image_size, interpolation=bicubic))
    if recipe.degrade:
        steps.append(partial(degrade, probability=recipe.degrade))
    steps += [v2.PILToTensor(), v2.RandomHorizontalFlip(recipe.flip)]
    if recipe.jitter:
        steps.append(v2.ColorJitter(recipe.jitter, recipe.jitter))
    if recipe.pad:
        steps += [v2.Pad(recipe.pad), v2.RandomCrop(image_size)]
    steps.append(v2.ToDtype(torch.float32, scale=True))
    if recipe.colour:
        steps.append(partial(change_colours, share=recipe.colour))
    if recipe.grey:
        steps.append(partial(lose_colour, probability=recipe.grey))
    steps.append(v2.Normalize(recipe.mean, recipe.std))
    if recipe.erasing:
        steps.append(RandomErasing(recipe.erasing, mode="pixel", max_count=1, device="cpu"))
    return v2.Compose(steps)


def shift_box(image: Image.Image, *, share: float) -> Image.Image:
    """Move and resize the box of a crop, each side by up to `share`; outside is black.

    Args:
        image: RGB of any size; the result has the same.
        share: Largest shift of the box over its side, and largest change of its side.
    """
    width, height = image.size
    dx, dy, wider, taller = torch.empty(4).uniform_(-share, share).tolist()
    left, top = width * (dx - wider / 2), height * (dy - taller / 2)
    box = (left, top, left + width * (1 + wider), top + height * (1 + taller))
    return image.transform(image.size, Image.Transform.EXTENT, box, Image.Resampling.BILINEAR)


def degrade(image: Image.Image, *, probability: float) -> Image.Image:
    """Blur a crop or shrink and stretch it, then compress it, each with a probability.

    Args:
        image: RGB; the result has the same size.
        probability: Of losing detail, and as much of being compressed as JPEG.
    """
    loses, compressed, kind, how = torch.rand(4).tolist()
    if loses < probability:
        if kind < 0.5:
            image = image.filter(ImageFilter.GaussianBlur(0.3 + 0.9 * how))
        else:
            share = 0.35 + 0.65 * how
            width, height = image.size
            small = image.resize((max(1, int(width * share)), max(1, int(height * share))))
            image = small.resize(image.size, Image.Resampling.BILINEAR)
    if compressed < probability:
        stream = io.BytesIO()
        image.save(stream, "JPEG", quality=int(torch.randint(25, 90, ())))
        image = Image.open(stream).convert("RGB")
    return image


def change_colours(image: Tensor, *, share: float) -> Tensor:
    """Change gamma, channel gains and saturation of (3, H, W) in [0, 1], as cameras differ."""
    gamma, saturation, *gains = torch.empty(5).uniform_(-share, share)
    image = image.clamp(min=1e-4) ** gamma.mul(2).exp()
    image = image * (1 + torch.stack(gains))[:, None, None]
    grey = image.mean(dim=0, keepdim=True)
    changed: Tensor = grey + (image - grey) * (1 + saturation)
    return changed.clamp(0, 1)


def lose_colour(image: Tensor, *, probability: float) -> Tensor:
    """Make a random rectangle of (3, H, W) grey, or, a quarter as often, all of it.

    Gong et al. 2021, *A person re-identification data augmentation method with adversarial defense
    effect*: local grayscale patch replacement.
    """
    chance = float(torch.rand(()))
    if chance >= 1.25 * probability:
        return image
    height, width = image.shape[-2:]
    sides = [height, width]
    if chance < probability:
        sides = [int(side * torch.empty(()).uniform_(0.1, 0.75)) for side in sides]
    top = int(torch.randint(0, height - sides[0] + 1, ()))
    left = int(torch.randint(0, width - sides[1] + 1, ()))
    place = (slice(None), slice(top, top + sides[0]), slice(left, left + sides[1]))
    image = image.clone()
    image[place] = v2.functional.rgb_to_grayscale(image[place], num_output_channels=3)
    return image


class CropDataset(Dataset[tuple[Tensor, int]]):
    """Labelled crops; an item is asked for as (index, seed of its augmentation).

    Args:
        files: Crops.
        labels: Identity of each, 0 … people - 1.
        set_of: For each, the index of the data set it comes from; None is one set.
        transform: PIL RGB -> float (3, H, W).
        seed: Of the run.
    """

    def __init__(
        self,
        files: FileList,
        labels: Sequence[int],
        *,
        set_of: Sequence[int] | None = None,
        transform: v2.Compose,
        seed: int,
    ) -> None:
        self.files, self.labels, self.set_of = files, labels, set_of
        self.transform, self.seed = transform, seed

    def __len__(self) -> int:
        """Return how many crops there are."""
        return len(self.files)

    def fingerprint(self) -> str:
        """Return what tells these crops and labels, in this order, from any others."""
        return hashlib.sha256(self.files.text + repr(list(self.labels)).encode()).hexdigest()

    def __getitem__(self, item: tuple[int, int]) -> tuple[Tensor, int]:
        """Return one augmented crop (3, H, W) and its label.

        Raises:
            ImageError: The crop cannot be read.
        """
        index, place = item
        image = self.files.read(index)
        with torch.random.fork_rng(devices=[]):
            seed_all(self.seed, place)
            return self.transform(image), self.labels[index]
