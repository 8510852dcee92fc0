"""The recipe of an adaptation: every number it depends on, as released where PASS has one."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from passreid.config import (
    BelowOne,
    Count,
    NotNegative,
    Positive,
    Probability,
    Several,
    Share,
    Whole,
    check_ranges,
)
from passreid.training.recipe import AugmentationRecipe


@dataclass(frozen=True, kw_only=True)
class AdaptRecipe(AugmentationRecipe):
    """What may stand in a recipe file; defaults are the released recipe for Market-1501.

    Attributes:
        init: Weights to start from (anything `passreid models` names, a folder or a file): a
            pre-trained backbone, or a model of another place.
        parts: Part tokens; those of `init` when not given. Where it has none, they start as copies
            of its CLS.
        image_size: Input (height, width); that of `init` when not given.
        neck: "single" normalises the fused feature, "multi" each token on its own.
        fusion: "cat" puts CLS and the mean of the parts side by side, "mean" averages them.
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
    parts: Whole | None = None
    image_size: tuple[Count, Count] | None = None
    neck: Literal["multi", "single"] = "single"
    fusion: Literal["cat", "mean"] = "cat"
    epochs: Count = 50
    iterations: Whole = 200
    people: Several = 32
    images_per_person: Several = 8
    k1: Count = 30
    k2: Count = 6
    eps: Share = 0.6
    min_samples: Count = 4
    temperature: Positive = 0.05
    memory_momentum: Probability = 0.2
    optimizer: Literal["sgd", "adamw"] = "sgd"
    lr: Positive = 3.5e-4
    momentum: BelowOne = 0.9
    weight_decay: NotNegative = 5e-4
    step_epochs: Count = 20
    step_factor: Positive = 0.1
    drop_path: BelowOne = 0.3
    patch_drop: BelowOne = 0.0
    checkpoint_blocks: bool = False
    tensorboard: bool = False
    precision: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    device: str = "auto"
    watch: Path | None = None
    watch_every: Whole = 1
    save_every: Whole = 1
    workers: Whole = 2
    seed: Whole = 1

    def __post_init__(self) -> None:
        """Refuse values no run can be made of."""
        check_ranges(self)


@dataclass(frozen=True, kw_only=True)
class AdaptConfig(AdaptRecipe):
    """A recipe, what to run it on and where.

    Attributes:
        data: A folder tree of crops or tar shards, a text file with one path a line, or a URL of
            shards that `passreid data pack` made; or several of them.
        output: Run folder.
    """

    data: Path | tuple[Path, ...]
    output: Path
