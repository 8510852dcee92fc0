"""A PartViT -> a model folder, or a file that other people's code reads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from passreid.card import Architecture, ModelCard
from passreid.checkpoint import layouts
from passreid.checkpoint.files import is_finite, write_tensors
from passreid.checkpoint.layouts import Layout
from passreid.checkpoint.modelscope import CONFIGURATION, WEIGHTS, configuration_text
from passreid.checkpoint.sources import NATIVE_CARD, NATIVE_WEIGHTS
from passreid.errors import CheckpointError
from passreid.model import PartViT
from passreid.storage import replacing, sha256

Format = Literal["passreid", "pass", "modelscope", "cluster-contrast", "transreid-ssl", "timm"]

_LAYOUTS: Mapping[str, Layout] = {
    "pass": layouts.PASS,
    "modelscope": layouts.PASS,
    "cluster-contrast": layouts.CLUSTER_CONTRAST,
    "transreid-ssl": layouts.TRANSREID_SSL,
    "timm": layouts.TIMM,
}


def save_folder(model: PartViT, card: ModelCard, folder: str | Path, *, half: bool = False) -> None:
    """Write `model.safetensors` and `model.json`; a reader never sees half of one.

    Args:
        model: On any device.
        card: Must describe `model`.
        folder: Made if missing; what it held under these two names is replaced.
        half: Store the backbone and classifier as float16: half the size, read back as float32.
            The neck and every BatchNorm's statistics stay as they are.

    Raises:
        CheckpointError: The card is of another architecture, or a weight is not finite.
        OutputError: A file cannot be written.
    """
    state = _state(model, card)
    if half:
        state = {name: _halve(name, tensor) for name, tensor in state.items()}
    folder = Path(folder)
    with replacing(folder / NATIVE_CARD) as text, replacing(folder / NATIVE_WEIGHTS) as weights:
        write_tensors(weights, state, {})
        described = replace(card, weights_sha256=sha256(weights))
        text.write_text(described.to_json(), encoding="utf-8")


def save_as(model: PartViT, card: ModelCard, path: str | Path, *, format: Format = "pass") -> None:
    """Write a model for other people's code; reading it back gives the same tensors, bit by bit.

    What a layout has no place for outside the tensors (normalisation, resizing, how a multi-neck
    model fuses) is lost; only "passreid" and "modelscope" carry it.

    Args:
        model: On any device.
        card: Must describe `model`.
        path: A folder for "passreid" and "modelscope", else a file: safetensors or, by any other
            suffix, PyTorch's.
        format: "pass" is the official fine-tuned layout, "timm" the backbone alone.

    Raises:
        CheckpointError: The layout cannot hold this model, or as `save_folder`.
    """
    path = Path(path)
    if format == "passreid":
        save_folder(model, card, path)
        return
    layout = _LAYOUTS[format]
    _check_holds(card.architecture, layout, format)
    tensors = _respell(_state(model, card), card.architecture, layout)
    if format == "modelscope":
        settings = configuration_text(card)
        with replacing(path / CONFIGURATION) as text, replacing(path / WEIGHTS) as weights:
            text.write_text(settings, encoding="utf-8")
            write_tensors(weights, tensors, {})
        return
    wrapper: dict[str, Any] = {}
    if layout is layouts.CLUSTER_CONTRAST and path.suffix != ".safetensors":
        wrapper = {"epoch": 0, "best_mAP": 0.0}
    with replacing(path) as weights:
        write_tensors(weights, tensors, wrapper)


def _state(model: PartViT, card: ModelCard) -> dict[str, Tensor]:
    if model.architecture != card.architecture:
        raise CheckpointError(f"The card '{card.name}' describes another architecture.")
    state = {name: t.detach().cpu().contiguous() for name, t in model.state_dict().items()}
    for name, tensor in state.items():
        if not is_finite(tensor):
            raise CheckpointError(f"'{name}' is not finite; the model is not saved.")
    return state


def _halve(name: str, tensor: Tensor) -> Tensor:
    statistics = name.startswith("neck.") or ".running_" in name
    if statistics or not tensor.is_floating_point():
        return tensor
    halved = tensor.half()
    if not is_finite(halved):
        raise CheckpointError(f"'{name}' does not fit into float16; save without half.")
    return halved


def _check_holds(a: Architecture, layout: Layout, name: str) -> None:
    """Refuse what the layout has no names for, or its readers would take for something else."""
    stems = ("none", "ics") if layout is layouts.TRANSREID_SSL else ("none",)
    problems = {
        f"stem '{a.stem}'": a.stem not in stems,
        "jigsaw branches": a.pooling == "jpm",
        f"{a.parts} part tokens instead of 3": layout.split_positions and a.parts != 3,
        "part tokens": layout is layouts.TRANSREID_SSL and a.parts > 0,
        "identity classifier (load without keep_classifier)": (
            a.num_classes > 0 and layout.neck and not layout.classifier
        ),
        f"neck, and the feature is '{a.feature}'": not layout.neck and a.feature != "before",
        f"{a.heads} heads, which readers take to be {layouts.usual_heads(a.width)}": (
            a.heads != layouts.usual_heads(a.width)
        ),
        "merging of patches (load with merge=0: the weights are the same)": a.merge > 0,
    }
    if found := [problem for problem, there in problems.items() if there]:
        raise CheckpointError(f"The {name} layout cannot hold this model: {found[0]}.")


def _respell(state: Mapping[str, Tensor], a: Architecture, layout: Layout) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    for name, tensor in state.items():
        backbone = name.startswith("vit.")
        if not backbone and not layout.neck:
            continue
        prefix = layout.prefix if backbone or layout.prefix == "module." else ""
        for bare, piece in layouts.spell(name, tensor, a, layout).items():
            # A copy of its own: pieces of one tensor share memory, which files store whole.
            tensors[prefix + bare] = piece.clone()
    return tensors
