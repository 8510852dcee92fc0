"""The recipe of a pre-training run: every number it depends on, as released where PASS has one."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from passreid.card import IMAGENET_MEAN, IMAGENET_STD, PRESETS, Architecture
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
class PretrainRecipe:
    """What may stand in a recipe file; defaults are the released recipe for ViT-S.

    Four of the released recipe's habits are likely unintended and have a switch here:
    `positions`, `crop_ratio`, `warmup_teacher_temp` and the ImageNet `mean` and `std` (the released
    fine-tuning uses 0.5 for both).

    Attributes:
        preset: Architecture: tiny, small or base.
        init: Weights to start from in place of random ones; the same architecture.
        image_size: Global views (height, width); the preset's when not given.
        local_size: Local views; half the global ones when not given.
        areas: Areas L, which is the number of part tokens; 0 is DINO.
        area_height: Height of an area over that of the image.
        crops: Local views per area; of the whole image for 0 areas.
        global_scale: Share of the image a global view covers, least and most.
        local_scale: Share of its area a local view covers, least and most.
        crop_ratio: Width over height of a crop, least and most, before it is stretched to the
            view. The released one is near-square, so a crop never covers a whole person.
        color_strength: Factor on the released colour changes (jitter, and how often views turn grey
            or are solarised); below 1, colours of clothes count for more.
        mean: Subtracted from each channel of pixels in [0, 1].
        std: What each channel is divided by then.
        positions: "released" resamples the position table for every view, with the grid made 0.1
            larger, even at native size; "exact" only for views of another size, to that size.
        hidden: Width of a projection head's hidden layers.
        bottleneck: Width before its last layer.
        out_dim: Prototypes K, its outputs.
        head_batch_norm: Standardise the heads' hidden units over the batch. Tokens of a random
            network differ by a hundredth between images; this makes something to learn from of it.
        norm_last_layer: Keep the last layer's rows at unit length.
        student_temp: Temperature of the student's softmax.
        teacher_temp: Temperature of the teacher's.
        warmup_teacher_temp: The teacher's at first; as released it is constant.
        warmup_teacher_temp_epochs: How long it takes from there to `teacher_temp`.
        centering: "mean" subtracts a running mean from teacher outputs, as released; "sinkhorn"
            shares the views of a step evenly among the prototypes, for small sets and batches.
        center_momentum: Of the running mean.
        momentum: Of the teacher's average at first; it rises to 1 along a cosine.
        epochs: Length of the run.
        warmup_epochs: In which the rate rises to its peak.
        batch_size: Images per step, over all processes.
        accumulate: Parts a step is done in to save memory; the result is the same but for what is
            taken over the views of a part: batch statistics, and even shares.
        lr: Peak rate per 256 images a step.
        min_lr: Rate at the end.
        weight_decay: At first.
        weight_decay_end: At the end, along a cosine.
        clip_grad: Largest norm of any one tensor's gradient; 0 is none.
        freeze_last_layer: Epochs in which the last layers stand still.
        drop_path: Stochastic depth of the student.
        checkpoint_blocks: Recompute blocks in the backward pass to save memory.
        compile: Let torch.compile translate the network; pays on GPUs, not on CPUs.
        tensorboard: Also write the metrics as TensorBoard events, to `tensorboard/`.
        precision: "auto" is bfloat16 where the hardware has it.
        device: auto, cpu, cuda or mps.
        watch: A small labelled set (any layout `evaluate` knows) the teacher is scored on.
        watch_every: In epochs; 0 scores at the end only.
        save_every: Checkpoints every so many epochs; 0 is never.
        save_steps: Checkpoints every so many steps; 0 is never.
        workers: Data-loading processes.
        seed: Of everything random.
    """

    preset: str = "small"
    init: str | None = None
    image_size: tuple[Count, Count] | None = None
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
    epochs: Count = 100
    warmup_epochs: Whole = 10
    batch_size: Count = 1024
    accumulate: Count = 1
    lr: Positive = 5e-4
    min_lr: NotNegative = 1e-6
    weight_decay: NotNegative = 0.04
    weight_decay_end: NotNegative = 0.4
    clip_grad: NotNegative = 3.0
    freeze_last_layer: Whole = 1
    drop_path: BelowOne = 0.1
    checkpoint_blocks: bool = False
    compile: bool = False
    tensorboard: bool = False
    precision: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    device: str = "auto"
    watch: Path | None = None
    watch_every: Whole = 1
    save_every: Whole = 1
    save_steps: Whole = 0
    workers: Whole = 2
    seed: Whole = 0

    def __post_init__(self) -> None:
        """Refuse values no run can be made of."""
        if self.preset not in PRESETS:
            raise ConfigError(
                f"unknown preset '{self.preset}'.{suggest(self.preset, list(PRESETS))}"
            )
        check_ranges(self)
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
    def local_views(self) -> int:
        """Local views of an image."""
        return max(self.areas, 1) * self.crops

    @property
    def local_image_size(self) -> tuple[int, int]:
        """Height and width of a local view."""
        height, width = self.architecture.image_size
        return self.local_size or (height // 2, width // 2)


@dataclass(frozen=True, kw_only=True)
class PretrainConfig(PretrainRecipe):
    """A recipe, what to run it on and where.

    Attributes:
        data: A folder tree of images or tar shards, or a text file with one path a line, relative
            to its folder; also a URL of shards that `passreid data pack` made; or several of them.
        output: Run folder.
    """

    data: Path | tuple[Path, ...]
    output: Path
