"""Write a PartViT: a model folder, a file for other people's code, the average of several runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from passreid.card import Architecture, ModelCard
from passreid.checkpoint import layouts
from passreid.checkpoint.files import is_finite, write_tensors
from passreid.checkpoint.load import load_folder
from passreid.checkpoint.sources import NATIVE_CARD, NATIVE_WEIGHTS
from passreid.errors import CheckpointError, UsageError
from passreid.model import PartViT
from passreid.storage import replacing, sha256


def save_folder(model: PartViT, card: ModelCard, folder: str | Path, *, half: bool = False) -> None:
    """Write `model.safetensors` and `model.json`, each atomically.

    Args:
        model: On any device.
        card: Must describe `model`.
        folder: Created if missing; the two files are replaced.
        half: Store the backbone and classifier as float16: half the size, read back as float32.
            The neck and every BatchNorm's statistics stay float32.

    Raises:
        CheckpointError: The card describes another architecture, or a weight is not finite.
        OutputError: A file cannot be written.
    """
    state = _checked_state(model, card)
    if half:
        state = {name: _halve(name, tensor) for name, tensor in state.items()}
    folder = Path(folder)
    with replacing(folder / NATIVE_CARD) as text, replacing(folder / NATIVE_WEIGHTS) as weights:
        write_tensors(weights, state)
        described = replace(card, weights_sha256=sha256(weights))
        text.write_text(described.to_json(), encoding="utf-8")


def save_as(
    model: PartViT, card: ModelCard, path: str | Path, *, format: Literal["pass", "timm"] = "pass"
) -> None:
    """Write a weight file for other people's code, bit-identical when read back.

    "pass" is the official fine-tuned layout, "timm" the backbone alone. Neither stores
    normalisation, resizing, or how a multi-neck model fuses. A path that ends in `.safetensors`
    gets that format, any other PyTorch's.

    Raises:
        CheckpointError: The layout cannot hold this model, or a weight is not finite.
        OutputError: The file cannot be written.
    """
    path, layout = Path(path), layouts.PASS if format == "pass" else layouts.TIMM
    _check_representable(card.architecture, format)
    tensors: dict[str, Tensor] = {}
    for name, tensor in _checked_state(model, card).items():
        if not name.startswith("vit.") and not layout.neck:
            continue
        prefix = "base." if name.startswith("vit.") and format == "pass" else ""
        for bare, piece in layouts.spell(name, tensor, card.architecture, layout).items():
            # A copy: pieces of one tensor share storage, which files store whole.
            tensors[prefix + bare] = piece.clone()
    with replacing(path) as weights:
        write_tensors(weights, tensors)


def average(folders: Sequence[str | Path]) -> tuple[PartViT, ModelCard]:
    """Average the weights of runs from one start ("Model soups", Wortsman et al. 2022).

    Returns:
        The model in evaluation mode, and the first folder's card without scores and calibration.

    Raises:
        UsageError: Fewer than two folders.
        CheckpointError: Two of them differ in architecture or preprocessing.
    """
    if len(folders) < 2:
        raise UsageError("Averaging takes two model folders or more.")
    loaded = [load_folder(folder) for folder in folders]
    model, card = loaded[0]
    for folder, (_, other) in zip(folders, loaded, strict=True):
        for name in ("architecture", "mean", "std", "interpolation"):
            if getattr(other, name) != getattr(card, name):
                raise CheckpointError(
                    f"{folder} and {folders[0]} cannot be averaged: their {name} differs."
                )
    states = [each.state_dict() for each, _ in loaded]
    for name, first in states[0].items():  # in float64: a float32 sum rounds at every term
        first.copy_(torch.stack([state[name].double() for state in states]).mean(dim=0))
    sources = "; ".join(dict.fromkeys(other.training_data for _, other in loaded))
    return model, replace(
        card,
        calibration=None,
        scores={},
        training_data=f"average of {len(folders)} runs: {sources}",
        trained_on=tuple(dict.fromkeys(name for _, other in loaded for name in other.trained_on)),
    )


def _checked_state(model: PartViT, card: ModelCard) -> dict[str, Tensor]:
    if model.architecture != card.architecture:
        raise CheckpointError(f"The card '{card.name}' describes another architecture.")
    state = {name: t.detach().cpu().contiguous() for name, t in model.state_dict().items()}
    for name, tensor in state.items():
        if not is_finite(tensor):
            raise CheckpointError(f"'{name}' is not finite; the model is not saved.")
    return state


def _halve(name: str, tensor: Tensor) -> Tensor:
    if name.startswith("neck.") or ".running_" in name or not tensor.is_floating_point():
        return tensor
    halved = tensor.half()
    if not is_finite(halved):
        raise CheckpointError(f"'{name}' does not fit into float16; save without half.")
    return halved


def _check_representable(a: Architecture, format: str) -> None:
    """Refuse models that the layout has no names for, or that its readers would misread."""
    usual = layouts.usual_heads(a.width)
    problems = {
        f"stem '{a.stem}'": a.stem != "none",
        "jigsaw branches": a.pooling == "jpm",
        f"{a.parts} part tokens instead of 3": format == "pass" and a.parts != 3,
        f"neck, and the feature is '{a.feature}'": format == "timm" and a.feature != "before",
        f"{a.heads} heads, which readers take to be {usual}": a.heads != usual,
        "token merging (load with merge=0: the weights are the same)": a.merge > 0,
    }
    if found := [problem for problem, is_there in problems.items() if is_there]:
        raise CheckpointError(f"The {format} layout cannot hold this model: {found[0]}.")
