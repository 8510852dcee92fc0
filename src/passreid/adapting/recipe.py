"""The recipe of an adaptation."""

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
)
from passreid.training.recipe import CropRecipe, Places


@dataclass(frozen=True, kw_only=True)
class AdaptRecipe(CropRecipe):
    """What a recipe file may set; the defaults are the released recipe for Market-1501.

    Attributes:
        init: Weights to start from, a pre-trained backbone or a model of another place: a model
            that `passreid models` lists, a folder or a file.
        neck: "single" normalises the fused feature, "multi" each token on its own.
        fusion: "cat" concatenates CLS and the mean of the parts, "mean" averages them.
        epochs: Length of the run; each epoch clusters the crops again.
        iterations: Batches per epoch; 0 is one pass through the clustered crops.
        k1: Neighbours considered for k-reciprocity, in the Jaccard distance.
        k2: Neighbours whose encodings are averaged for it.
        eps: Largest Jaccard distance between neighbours in DBSCAN.
        min_samples: Neighbours, itself included, that make a crop the core of a cluster.
        temperature: Temperature of the softmax over clusters.
        memory_momentum: Share of a cluster's old centre that an update keeps.
        step_epochs: Epochs between two multiplications of the learning rate by `step_factor`.
        step_factor: Factor on the learning rate.
        watch: Small labelled set to score on, in any layout `evaluate` reads.
        watch_every: Epochs between scores; 0 scores at the end only.
    """

    init: str = "passreid-tiny"
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
    lr: Positive = 3.5e-4
    weight_decay: NotNegative = 5e-4
    step_epochs: Count = 20
    step_factor: Positive = 0.1
    drop_path: BelowOne = 0.3
    watch: Path | None = None
    watch_every: Whole = 1
    seed: Whole = 1


@dataclass(frozen=True, kw_only=True)
class AdaptConfig(AdaptRecipe, Places):
    """A recipe, the unlabelled crops to train on, and the run folder."""
