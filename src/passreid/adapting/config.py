"""The recipe of an adaptation: every number it depends on, as released where PASS has one."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from passreid.card import HALF
from passreid.config import require


@dataclass(frozen=True, kw_only=True)
class AdaptRecipe:
    """What may stand in a recipe file; defaults are the released recipe for Market-1501.

    Attributes:
        init: Weights to start from (anything `passreid models` names, a folder or a file): a
            pre-trained backbone, or a model of another place.
        parts: Part tokens; those of `init` when not given. Where it has none, they start as copies
            of its CLS.
        image_size: Input (height, width); that of `init` when not given.
        neck: "single" normalises the fused feature, "multi" each token on its own.
        fusion: "cat" puts CLS and the mean of the parts side by side, "mean" averages them.
        mean: Subtracted from each channel of pixels in [0, 1].
        std: What each channel is divided by then.
        epochs: How often the crops are clustered anew.
        iterations: Batches an epoch; 0 is once through the clustered crops.
        people: Clusters of a batch; fewer where there are fewer.
        images_per_person: Crops of each of them.
        k1: Neighbours that two crops are held to share, in the Jaccard distance.
        k2: Neighbours whose encodings are averaged for it.
        eps: Largest Jaccard distance of neighbours in DBSCAN.
        min_samples: Neighbours, itself included, that make a crop the core of a cluster.
        temperature: Of the softmax over clusters.
        memory_momentum: Share of a cluster's old centre that an update keeps.
        optimizer: Which one moves the weights.
        lr: Learning rate at first.
        momentum: Of SGD.
        weight_decay: How much weights shrink a step, relative to the rate.
        step_epochs: Epochs after which the rate is multiplied by `step_factor`, again and again.
        step_factor: Of the rate.
        drop_path: Stochastic depth.
        patch_drop: Share of the patch tokens that a training crop does without.
        flip: Probability that a crop is mirrored.
        pad: Zero padding before the random cut, in pixels.
        erasing: Probability that a rectangle is erased.
        zoom: Smallest share of a crop that a random cut keeps, stretched to the input; 1 is none.
        jitter: Brightness and contrast change, each up to this share; 0 is none.
        checkpoint_blocks: Recompute blocks in the backward pass to save memory.
        tensorboard: Also write the metrics as TensorBoard events, to `tensorboard/`.
        precision: "auto" is bfloat16 where the hardware has it.
        device: auto, cpu, cuda or mps.
        watch: A small labelled set (any layout `evaluate` knows) the model is scored on.
        watch_every: In epochs; 0 scores at the end only.
        save_every: Checkpoints every so many epochs; 0 saves at the end only.
        workers: Data-loading processes.
        seed: Of everything random.
    """

    init: str = "passreid-tiny"
    parts: int | None = None
    image_size: tuple[int, int] | None = None
    neck: Literal["multi", "single"] = "single"
    fusion: Literal["cat", "mean"] = "cat"
    mean: tuple[float, float, float] = HALF
    std: tuple[float, float, float] = HALF
    epochs: int = 50
    iterations: int = 200
    people: int = 32
    images_per_person: int = 8
    k1: int = 30
    k2: int = 6
    eps: float = 0.6
    min_samples: int = 4
    temperature: float = 0.05
    memory_momentum: float = 0.2
    optimizer: Literal["sgd", "adamw"] = "sgd"
    lr: float = 3.5e-4
    momentum: float = 0.9
    weight_decay: float = 5e-4
    step_epochs: int = 20
    step_factor: float = 0.1
    drop_path: float = 0.3
    patch_drop: float = 0.0
    flip: float = 0.5
    pad: int = 10
    erasing: float = 0.5
    zoom: float = 1.0
    jitter: float = 0.0
    checkpoint_blocks: bool = False
    tensorboard: bool = False
    precision: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    device: str = "auto"
    watch: Path | None = None
    watch_every: int = 1
    save_every: int = 1
    workers: int = 2
    seed: int = 1

    def __post_init__(self) -> None:
        """Refuse values no run can be made of."""
        counts = ("epochs", "k1", "k2", "min_samples", "step_epochs")
        require(self, lambda v: v >= 1, "be at least 1", *counts)
        require(self, lambda v: v >= 2, "be at least 2", "people", "images_per_person")
        whole = ("parts", "iterations", "pad", "workers", "save_every", "watch_every", "seed")
        require(self, lambda v: v >= 0, "not be negative", *whole, "momentum", "weight_decay")
        positive = ("lr", "temperature", "step_factor", "image_size", "std")
        require(self, lambda v: v > 0, "be positive", *positive)
        shares = ("flip", "erasing", "memory_momentum")
        require(self, lambda v: 0 <= v <= 1, "lie between 0 and 1", *shares)
        require(
            self,
            lambda v: 0 <= v < 1,
            "be at least 0 and below 1",
            "drop_path",
            "patch_drop",
            "jitter",
        )
        require(self, lambda v: 0 < v <= 1, "lie above 0 and at most at 1", "zoom", "eps")


@dataclass(frozen=True, kw_only=True)
class AdaptConfig(AdaptRecipe):
    """A recipe, what to run it on and where.

    Attributes:
        data: A folder tree of crops or tar shards, a text file with one path a line, or a URL of
            shards that `passreid data pack` made.
        output: Run folder.
    """

    data: Path
    output: Path
