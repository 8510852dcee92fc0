"""Training crops and their augmentation, each with a seed of its own.

As released in `PASS_transreid/datasets`; random erasing by Zhong et al., AAAI 2020. MixStyle (Zhou
et al., ICLR 2021) acts on feature maps.
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
from torch import Tensor, nn
from torch.utils.data import Dataset
from torchvision.transforms import InterpolationMode, v2

from passreid.data.filelist import FileList
from passreid.model import PartViT
from passreid.training.process import seed_all
from passreid.training.recipe import CropRecipe


def build_augmentation(recipe: CropRecipe, image_size: tuple[int, int]) -> v2.Compose:
    """Build the augmentation of a recipe: PIL RGB -> float (3, H, W)."""
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
    """Move and resize the box of a crop by up to `share` of its sides; outside is black."""
    width, height = image.size
    dx, dy, wider, taller = torch.empty(4).uniform_(-share, share).tolist()
    left, top = width * (dx - wider / 2), height * (dy - taller / 2)
    box = (left, top, left + width * (1 + wider), top + height * (1 + taller))
    return image.transform(image.size, Image.Transform.EXTENT, box, Image.Resampling.BILINEAR)


def degrade(image: Image.Image, *, probability: float) -> Image.Image:
    """Blur or downsample an RGB crop, then compress it as JPEG, each with the probability."""
    loses, compressed, kind, strength = torch.rand(4).tolist()
    if loses < probability:
        if kind < 0.5:
            image = image.filter(ImageFilter.GaussianBlur(0.3 + 0.9 * strength))
        else:
            share = 0.35 + 0.65 * strength
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
    """Turn a random rectangle of (3, H, W) grey, or, a quarter as often, the whole image.

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


def mix_styles(model: PartViT, probability: float) -> None:
    """Apply MixStyle after the first stages of a "lite0" stem, with a probability, in training."""

    def mix(stage: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        if not stage.training or float(torch.rand(())) >= probability:
            return output
        return exchange_statistics(output)

    stem = model.vit.get_submodule("patch_embed.stem")
    for stage in list(stem.children())[2:5]:
        stage.register_forward_hook(mix)


def exchange_statistics(maps: Tensor, alpha: float = 0.1) -> Tensor:
    """Mix channel means and deviations of (B, C, H, W) with those of another map of the batch.

    Gradients do not pass through the statistics. Each map keeps a share drawn from Beta(alpha,
    alpha); 0.1 is the published value.
    """
    wide = maps.float()
    with torch.no_grad():
        variance, mean = torch.var_mean(wide, dim=(2, 3), keepdim=True)
        deviation = (variance + 1e-6).sqrt()
        own = torch.distributions.Beta(alpha, alpha).sample((len(maps), 1, 1, 1)).to(wide)
        other = torch.randperm(len(maps), device=maps.device)
        scale = (own * deviation + (1 - own) * deviation[other]) / deviation
        shift = own * mean + (1 - own) * mean[other] - mean * scale
    return (wide * scale + shift).to(maps.dtype)


class CropDataset(Dataset[tuple[Tensor, int]]):
    """Labelled crops; an item is requested as (index, seed of its augmentation).

    Args:
        files: Crops.
        labels: Identity of each, 0 … people - 1.
        set_of: Index of the data set each comes from; None is one set.
        transform: PIL RGB -> float (3, H, W).
        seed: Seed of the run.
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

    def fingerprint(self) -> str:
        """Return a hash of the crops and labels, in this order."""
        return hashlib.sha256(self.files.text + repr(list(self.labels)).encode()).hexdigest()

    def __getitem__(self, item: tuple[int, int]) -> tuple[Tensor, int]:
        """Return one augmented crop (3, H, W) and its label."""
        index, place = item
        image = self.files.read(index)
        with torch.random.fork_rng(devices=[]):
            seed_all(self.seed, place)
            return self.transform(image), self.labels[index]
