"""What runs a network: one small face, an engine behind it.

    onnx.py      ONNX Runtime on the CPU, from a model folder's `model.onnx`; needs no torch
    pytorch.py   torch on any device, in any precision, from every kind of checkpoint

Neither is imported before it is asked for.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from passreid.card import ModelCard
from passreid.errors import MissingExtraError, ModelNotFoundError, UsageError

CARD, WEIGHTS, GRAPH = "model.json", "model.safetensors", "model.onnx"

F32 = NDArray[np.float32]


class Backend(Protocol):
    """A loaded network."""

    @property
    def name(self) -> str:
        """Engine: "onnx" or "torch"."""

    @property
    def device(self) -> str:
        """Where it runs: "cpu", "cuda:0", "mps"."""

    @property
    def precision(self) -> str:
        """What products are computed in: "float32", "bfloat16" or "float16"."""

    def run(self, pixels: F32) -> F32:
        """Embed normalised pixels (B, 3, H, W), giving (B, D)."""


def open_network(
    path: Path,
    *,
    backend: Literal["auto", "onnx", "torch"] = "auto",
    device: str = "auto",
    precision: str = "float32",
    threads: int | None = None,
) -> tuple[ModelCard, Backend]:
    """Load a folder or weight file on the engine that suits it; `embed.load` tells the options.

    Raises:
        ModelNotFoundError, CheckpointError, ConfigError, MissingExtraError, UsageError: As
            `embed.load`.
    """
    if backend not in ("auto", "onnx", "torch"):
        raise UsageError(f"Unknown backend '{backend}'; use auto, onnx or torch.")
    folder = path.parent if path.name == WEIGHTS else path
    if backend == "auto":
        written = (folder / CARD).is_file() and (folder / GRAPH).is_file()
        backend = "onnx" if written and _suits_onnx(device, precision) else "torch"
    if backend == "onnx":
        return _open_onnx(folder, device, precision, threads)
    return _open_torch(path, device, precision, threads)


def _suits_onnx(device: str, precision: str) -> bool:
    """Whether ONNX Runtime does what is asked for, and torch could not do it faster."""
    if precision == "auto" and importlib.util.find_spec("torch"):
        return False
    return device in ("auto", "cpu") and precision in ("auto", "float32")


def _open_onnx(
    folder: Path, device: str, precision: str, threads: int | None
) -> tuple[ModelCard, Backend]:
    if device not in ("auto", "cpu") or precision not in ("auto", "float32"):
        raise UsageError(
            f"The onnx backend runs on the CPU in float32, not on '{device}' in '{precision}'; "
            "use backend='torch'."
        )
    if not (folder / GRAPH).is_file():
        raise ModelNotFoundError(
            f"{folder}: has no {GRAPH}; write it with `passreid export {folder}`, or use "
            "backend='torch'."
        )
    from passreid.backends.onnx import OnnxBackend

    card = ModelCard.read(folder / CARD)
    return card, OnnxBackend(folder, card, threads=threads)


def _open_torch(
    path: Path, device: str, precision: str, threads: int | None
) -> tuple[ModelCard, Backend]:
    try:
        from passreid.backends.pytorch import TorchBackend
        from passreid.checkpoint import load_checkpoint
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in ("torch", "timm", "torchvision"):
            raise
        raise MissingExtraError(f"Loading {path} without an ONNX graph", "torch") from None
    model, card, _ = load_checkpoint(path)
    return card, TorchBackend(model, device=device, precision=precision, threads=threads)
