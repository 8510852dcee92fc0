"""The pre-training recipe."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from passreid.card import IMAGENET_MEAN, IMAGENET_STD, PRESETS, Architecture
from passreid.config import (
    Count,
    Finite,
    NotNegative,
    Positive,
    Probability,
    Several,
    Share,
    Whole,
)
from passreid.errors import ConfigError
from passreid.training.recipe import Places, Recipe


@dataclass(frozen=True, kw_only=True)
class PretrainRecipe(Recipe):
    """What a recipe file may set; the defaults are the released recipe for ViT-S.

    Four habits of the released recipe are probably unintended and can be changed: `positions`,
    `crop_ratio`, `warmup_teacher_temp` and the ImageNet `mean` and `std` (the released fine-tuning
    uses 0.5 for both).

    Attributes:
        preset: Architecture: tiny, small or base.
        init: Weights of the same architecture to start from instead of random ones.
        local_size: Height and width of local views; half the global ones by default.
        areas: Areas L, which is the number of part tokens; 0 is DINO.
        area_height: Height of an area as a share of the image's.
        crops: Local views per area; of the whole image for 0 areas.
        global_scale: Smallest and largest share of the image that a global view covers.
        local_scale: Smallest and largest share of its area that a local view covers.
        crop_ratio: Smallest and largest width over height of a crop before it is stretched to the
            view. The released one is near-square, so a crop never covers a whole person.
        color_strength: Factor on the released colour jitter and on how often views turn grey or are
            solarised; below 1, colours of clothes count for more.
        mean: Mean subtracted from each channel of pixels in [0, 1].
        std: Standard deviation each channel is divided by.
        positions: "released" resamples the position table for every view, to a grid made 0.1
            larger, even at native size; "exact" only for views of another size, to that size.
        hidden: Width of a projection head's hidden layers.
        bottleneck: Width before its last layer.
        out_dim: Prototypes K, the heads' outputs.
        head_batch_norm: Standardise the heads' hidden units over the batch. Tokens of a random
            network differ little between images; this gives something to learn from.
        norm_last_layer: Keep the rows of the last layer at unit length.
        student_temp: Temperature of the student's softmax.
        teacher_temp: Temperature of the teacher's softmax.
        warmup_teacher_temp: Initial teacher temperature; as released it is constant.
        warmup_teacher_temp_epochs: Epochs from there to `teacher_temp`.
        centering: "mean" subtracts a running mean from teacher outputs, as released; "sinkhorn"
            shares the views of a step evenly among the prototypes, for small sets and batches.
        center_momentum: Momentum of the running mean.
        momentum: Initial momentum of the teacher's average; it rises to 1 along a cosine.
        warmup_epochs: Epochs in which the learning rate rises to its peak.
        batch_size: Images per step, over all processes.
        accumulate: Parts a step is split into to save memory. The result is the same except for
            what is computed over a part: batch statistics and even shares.
        lr: Peak learning rate per 256 images in a step.
        min_lr: Final learning rate.
        weight_decay: Initial weight decay.
        weight_decay_end: Final weight decay, reached along a cosine.
        clip_grad: Largest gradient norm of each tensor; 0 turns clipping off.
        freeze_last_layer: Epochs in which the last layers are frozen.
        watch: Small labelled set to score the teacher on, in any layout `evaluate` reads.
        watch_every: Epochs between scores; 0 scores at the end only.
        save_steps: Also write a checkpoint every so many steps; 0 does not.
    """

    preset: str = "small"
    init: str | None = None
    local_size: tuple[Count, Count] | None = None
    areas: Whole = 3
    area_height: Share = 0.5
    crops: Whole = 3
    global_scale: tuple[Share, Share] = (0.4, 1.0)
    local_scale: tuple[Share, Share] = (0.1, 0.8)
    crop_ratio: tuple[Positive, Positive] = (3 / 4, 4 / 3)
    color_strength: Probability = 1.0
    mean: tuple[Finite, Finite, Finite] = IMAGENET_MEAN
    std: tuple[Positive, Positive, Positive] = IMAGENET_STD
    positions: Literal["released", "exact"] = "released"
    hidden: Count = 2048
    bottleneck: Count = 256
    out_dim: Several = 65536
    head_batch_norm: bool = False
    norm_last_layer: bool = True
    student_temp: Positive = 0.1
    teacher_temp: Positive = 0.04
    warmup_teacher_temp: Positive = 0.04
    warmup_teacher_temp_epochs: Whole = 0
    centering: Literal["mean", "sinkhorn"] = "mean"
    center_momentum: Probability = 0.9
    momentum: Probability = 0.996
    warmup_epochs: Whole = 10
    batch_size: Count = 1024
    accumulate: Count = 1
    min_lr: NotNegative = 1e-6
    weight_decay: NotNegative = 0.04
    weight_decay_end: NotNegative = 0.4
    clip_grad: NotNegative = 3.0
    freeze_last_layer: Whole = 1
    watch: Path | None = None
    watch_every: Whole = 1
    save_steps: Whole = 0

    def __post_init__(self) -> None:
        """Reject values that no run can use."""
        super().__post_init__()
        if self.areas and not self.crops:
            raise ConfigError("crops must be at least 1: an area is seen in local views only")
        if self.batch_size % self.accumulate:
            raise ConfigError(
                f"accumulate ({self.accumulate}) must divide batch_size ({self.batch_size})"
            )
        for name in ("global_scale", "local_scale", "crop_ratio"):
            low, high = getattr(self, name)
            if low > high:
                raise ConfigError(f"{name} must rise, not fall from {low} to {high}")
        try:
            replace(self.architecture, image_size=self.local_image_size)
        except ValueError as error:
            raise ConfigError(f"image_size and local_size: {error}") from None

    @property
    def architecture(self) -> Architecture:
        """The backbone: the preset with one part token per area."""
        base = PRESETS[self.preset]
        return replace(base, parts=self.areas, image_size=self.image_size or base.image_size)

    @property
    def local_image_size(self) -> tuple[int, int]:
        """Height and width of a local view."""
        height, width = self.architecture.image_size
        return self.local_size or (height // 2, width // 2)


@dataclass(frozen=True, kw_only=True)
class PretrainConfig(PretrainRecipe, Places):
    """A recipe, the unlabelled images to train on, and the run folder."""
