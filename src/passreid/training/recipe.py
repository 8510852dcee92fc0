"""Recipe fields that several training stages share, and what every run needs besides."""

# Annotations stay objects here: a subclass in another module could not resolve strings.
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from passreid.card import HALF, PRESETS
from passreid.config import (
    BelowOne,
    Count,
    Finite,
    NotNegative,
    Positive,
    Probability,
    Several,
    Share,
    Whole,
    check_ranges,
    suggest,
)
from passreid.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Settings of every training stage; each stage sets its own defaults.

    Attributes:
        image_size: Input height and width; by default that of the start or of the preset.
        epochs: Length of the run.
        lr: Peak learning rate.
        weight_decay: Weight decay, relative to the learning rate.
        drop_path: Stochastic depth rate of the last block.
        checkpoint_blocks: Recompute blocks in the backward pass to save memory.
        compile: Use torch.compile; pays off on GPUs, not on CPUs.
        tensorboard: Also write the metrics as TensorBoard events, to `tensorboard/`.
        precision: "auto" uses bfloat16 where the hardware supports it.
        device: auto, cpu, cuda or mps.
        save_every: Write a checkpoint every so many epochs; 0 only at the end.
        keep_every: Keep a model folder every so many epochs, in `snapshots/`; 0 keeps none.
        workers: Data-loading processes.
        seed: Seed of all random numbers.
    """

    image_size: tuple[Count, Count] | None = None
    epochs: Count = 100
    lr: Positive = 5e-4
    weight_decay: NotNegative = 1e-4
    drop_path: BelowOne = 0.1
    checkpoint_blocks: bool = False
    compile: bool = False
    tensorboard: bool = False
    precision: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    device: str = "auto"
    save_every: Whole = 1
    keep_every: Whole = 0
    workers: Whole = 2
    seed: Whole = 0

    def __post_init__(self) -> None:
        """Reject values that no run can use."""
        preset = getattr(self, "preset", None)
        if preset is not None and preset not in PRESETS:
            raise ConfigError(f"unknown preset '{preset}'.{suggest(preset, list(PRESETS))}")
        check_ranges(self)


@dataclass(frozen=True, kw_only=True)
class CropRecipe(Recipe):
    """Settings of the stages that train on batches of P people with K augmented crops each.

    Attributes:
        parts: Part tokens; by default those of the start or of the preset. If the start has none,
            they begin as copies of its CLS token.
        people: People (or clusters) P in a batch.
        images_per_person: Crops K of each.
        optimizer: Optimiser.
        momentum: Momentum of SGD.
        patch_drop: Share of patch tokens dropped from each training crop, drawn anew every time
            (Liu et al. 2023); makes steps cheaper.
        mean: Mean subtracted from each channel of pixels in [0, 1].
        std: Standard deviation each channel is divided by.
        flip: Probability of a horizontal flip.
        pad: Zero padding before the random crop, in pixels.
        erasing: Probability of random erasing.
        zoom: Smallest share of a crop that a random resized crop keeps; 1 turns it off.
        box_shift: Move and resize the crop's box by up to this share of its sides, as a detector
            might; pixels outside the crop are black.
        jitter: Largest change of brightness and contrast; 0 turns it off.
        colour: Largest change of saturation, channel gains (colour temperature) and gamma, as
            between two cameras.
        grey: Probability that a rectangle turns grey (Gong et al. 2021); a quarter as often the
            whole crop does.
        degrade: Probability that a crop is blurred or downsampled, and, drawn separately, that it
            is compressed as JPEG.
    """

    parts: Whole | None = None
    people: Several = 16
    images_per_person: Several = 4
    optimizer: Literal["sgd", "adamw"] = "sgd"
    momentum: BelowOne = 0.9
    patch_drop: BelowOne = 0.0
    mean: tuple[Finite, Finite, Finite] = HALF
    std: tuple[Positive, Positive, Positive] = HALF
    flip: Probability = 0.5
    pad: Whole = 10
    erasing: Probability = 0.5
    zoom: Share = 1.0
    box_shift: BelowOne = 0.0
    jitter: BelowOne = 0.0
    colour: BelowOne = 0.0
    grey: Probability = 0.0
    degrade: Probability = 0.0


@dataclass(frozen=True, kw_only=True)
class Places:
    """Where a run reads and writes.

    Attributes:
        data: What to train on: a folder, a list file or an address of shards, or several of them.
        output: Run folder.
    """

    data: Path | tuple[Path, ...]
    output: Path
