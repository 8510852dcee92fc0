"""The recipe of a fine-tuning run: every number it depends on, as released where PASS has one."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from passreid.card import HALF, PRESETS
from passreid.config import require, suggest
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
        image_size: Input (height, width); the preset's when not given.
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
    parts: int | None = None
    image_size: tuple[int, int] | None = None
    mean: tuple[float, float, float] = HALF
    std: tuple[float, float, float] = HALF
    epochs: int = 120
    warmup_epochs: int = 20
    people: int = 16
    images_per_person: int = 4
    accumulate: int = 1
    optimizer: Literal["sgd", "adamw"] = "sgd"
    lr: float = 4e-4
    momentum: float = 0.9
    weight_decay: float = 1e-4
    bias_lr: float = 2.0
    decay_one_dimensional: bool = True
    layer_decay: float = 1.0
    schedule: Literal["released", "cosine"] = "released"
    clip_grad: float = 0.0
    label_smoothing: float = 0.0
    triplet_margin: float | None = None
    triplet_weight: float = 1.0
    identity_weight: float = 1.0
    drop_path: float = 0.1
    patch_drop: float = 0.0
    flip: float = 0.5
    pad: int = 10
    erasing: float = 0.5
    zoom: float = 1.0
    jitter: float = 0.0
    ema: float = 0.0
    checkpoint_blocks: bool = False
    compile: bool = False
    tensorboard: bool = False
    precision: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    device: str = "auto"
    evaluate_every: int = 10
    save_every: int = 1
    workers: int = 2
    on_error: Literal["raise", "skip"] = "raise"
    seed: int = 1234

    def __post_init__(self) -> None:
        """Refuse values no run can be made of."""
        if self.preset not in PRESETS:
            raise ConfigError(
                f"unknown preset '{self.preset}'.{suggest(self.preset, list(PRESETS))}"
            )
        require(self, lambda v: v >= 1, "be at least 1", "epochs", "accumulate")
        pair = "be at least 2 (a triplet needs a positive and a negative)"
        require(self, lambda v: v >= 2, pair, "people", "images_per_person")
        counts = (
            "parts",
            "warmup_epochs",
            "pad",
            "evaluate_every",
            "save_every",
            "workers",
            "seed",
        )
        weights = ("momentum", "weight_decay", "bias_lr", "triplet_weight", "identity_weight")
        require(self, lambda v: v >= 0, "not be negative", "clip_grad", *counts, *weights)
        require(self, lambda v: v > 0, "be positive", "lr", "layer_decay", "image_size", "std")
        require(self, lambda v: 0 <= v <= 1, "lie between 0 and 1", "flip", "erasing")
        shares = ("label_smoothing", "ema", "drop_path", "patch_drop", "jitter")
        require(self, lambda v: 0 <= v < 1, "be at least 0 and below 1", *shares)
        require(self, lambda v: 0 < v <= 1, "lie above 0 and at most at 1", "zoom")


@dataclass(frozen=True, kw_only=True)
class FinetuneConfig(FinetuneRecipe):
    """A recipe, what to run it on and where.

    Attributes:
        data: Root of a labelled set, any layout `read_dataset` knows.
        output: Run folder.
    """

    data: Path
    output: Path
