"""The recipe of a fine-tuning run: every number it depends on, as released where PASS has one."""

from __future__ import annotations

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
class FinetuneRecipe:
    """What may stand in a recipe file; defaults are the released recipe for Market-1501.

    Attributes:
        kind: Layout of the data set, one `read_dataset` knows.
        init: Weights to start from (anything `passreid models` names, a folder or a file).
        preset: Architecture when `init` is not given: tiny, small or base.
        parts: Part tokens; those of `init` or of the preset when not given. Where `init` has none,
            they start as copies of its CLS.
        image_size: Input (height, width); that of `init` or of the preset when not given.
        mean: Subtracted from each channel of pixels in [0, 1].
        std: What each channel is divided by then.
        epochs: Length of the run.
        warmup_epochs: In which the rate rises to its peak.
        people: P of a batch of P * K crops.
        images_per_person: K.
        accumulate: Batches whose gradients are added before a step.
        optimizer: Which one moves the weights.
        lr: Learning rate at its peak.
        momentum: Of SGD.
        weight_decay: How much weights shrink a step, relative to the rate.
        bias_lr: Factor on `lr` for biases.
        decay_one_dimensional: Also decay biases and norms (the released recipe does).
        layer_decay: Factor on `lr` per block counted from the top; 1 is none.
        schedule: "released" steps once an epoch and its cosine is not re-based after warm-up;
            "cosine" steps every batch from 0 to the peak to 0.002 of it.
        clip_grad: Largest global gradient norm; 0 is none.
        label_smoothing: Of the identity loss.
        triplet_margin: None is the soft margin.
        triplet_weight: Of the triplet loss in the sum of the losses.
        identity_weight: Of the identity loss.
        drop_path: Stochastic depth.
        patch_drop: Share of the patch tokens that a training crop does without, drawn anew each
            time (Liu et al. 2023): cheaper steps, and no patch to lean on.
        flip: Probability that a crop is mirrored.
        pad: Zero padding before the random cut, in pixels.
        erasing: Probability that a rectangle is erased.
        zoom: Smallest share of a crop that a random cut keeps, stretched to the input; 1 is none.
        jitter: Brightness and contrast change, each up to this share; 0 is none.
        ema: Decay of the averaged weights that are evaluated and exported; 0 is none.
        checkpoint_blocks: Recompute blocks in the backward pass to save memory.
        compile: Let torch.compile translate the network; pays on GPUs, not on CPUs.
        tensorboard: Also write the metrics as TensorBoard events, to `tensorboard/`.
        precision: "auto" is bfloat16 where the hardware has it.
        device: auto, cpu, cuda or mps.
        evaluate_every: In epochs; 0 evaluates at the end only.
        save_every: In epochs; 0 saves at the end only.
        workers: Data-loading processes.
        on_error: What to do with crops that cannot be read.
        seed: Of everything random.
    """

    kind: str = "auto"
    init: str | None = None
    preset: str = "small"
    parts: Whole | None = None
    image_size: tuple[Count, Count] | None = None
    mean: tuple[Finite, Finite, Finite] = HALF
    std: tuple[Positive, Positive, Positive] = HALF
    epochs: Count = 120
    warmup_epochs: Whole = 20
    people: Several = 16
    images_per_person: Several = 4
    accumulate: Count = 1
    optimizer: Literal["sgd", "adamw"] = "sgd"
    lr: Positive = 4e-4
    momentum: BelowOne = 0.9
    weight_decay: NotNegative = 1e-4
    bias_lr: NotNegative = 2.0
    decay_one_dimensional: bool = True
    layer_decay: Positive = 1.0
    schedule: Literal["released", "cosine"] = "released"
    clip_grad: NotNegative = 0.0
    label_smoothing: BelowOne = 0.0
    triplet_margin: NotNegative | None = None
    triplet_weight: NotNegative = 1.0
    identity_weight: NotNegative = 1.0
    drop_path: BelowOne = 0.1
    patch_drop: BelowOne = 0.0
    flip: Probability = 0.5
    pad: Whole = 10
    erasing: Probability = 0.5
    zoom: Share = 1.0
    jitter: BelowOne = 0.0
    ema: BelowOne = 0.0
    checkpoint_blocks: bool = False
    compile: bool = False
    tensorboard: bool = False
    precision: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    device: str = "auto"
    evaluate_every: Whole = 10
    save_every: Whole = 1
    workers: Whole = 2
    on_error: Literal["raise", "skip"] = "raise"
    seed: Whole = 1234

    def __post_init__(self) -> None:
        """Refuse values no run can be made of."""
        if self.preset not in PRESETS:
            raise ConfigError(
                f"unknown preset '{self.preset}'.{suggest(self.preset, list(PRESETS))}"
            )
        check_ranges(self)


@dataclass(frozen=True, kw_only=True)
class FinetuneConfig(FinetuneRecipe):
    """A recipe, what to run it on and where.

    Attributes:
        data: Root of a labelled set, any layout `read_dataset` knows.
        output: Run folder.
    """

    data: Path
    output: Path
