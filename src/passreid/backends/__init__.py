"""What runs a network: one small face, an engine behind it.

    onnx.py      ONNX Runtime on the CPU, from a model folder's `model.onnx`; needs no torch
    openvino.py  OpenVINO on the CPU, from the same file, also in bfloat16; needs no torch
    pytorch.py   torch on any device, in any precision, from every kind of checkpoint

None is imported before it is asked for.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from passreid.card import ModelCard
from passreid.errors import MissingExtraError, ModelNotFoundError, UsageError

CARD, WEIGHTS, GRAPH = "model.json", "model.safetensors", "model.onnx"
ATTENTION = "attention.onnx"

F32 = NDArray[np.float32]
BackendName = Literal["auto", "onnx", "openvino", "torch"]


class Backend(Protocol):
    """A loaded network."""

    @property
    def name(self) -> str:
        """Engine: "onnx", "openvino" or "torch"."""

    @property
    def device(self) -> str:
        """Where it runs: "cpu", "cuda:0", "mps"."""

    @property
    def precision(self) -> str:
        """What products are computed in: "float32", "bfloat16" or "float16"."""

    def run(self, pixels: F32) -> F32:
        """Embed normalised pixels (B, 3, H, W), giving (B, D)."""

    def attend(self, pixels: F32) -> F32:
        """Return where CLS and parts look, (B, 1 + P, rows, columns); see `PartViT.attend`."""


def open_network(
    path: Path,
    *,
    backend: BackendName = "auto",
    device: str = "auto",
    precision: str = "float32",
    threads: int | None = None,
) -> tuple[ModelCard, Backend]:
    """Load a folder or weight file on the engine that suits it; `embed.load` tells the options.

    Raises:
        ModelNotFoundError, CheckpointError, ConfigError, MissingExtraError, UsageError: As
            `embed.load`.
    """
    if backend not in ("auto", "onnx", "openvino", "torch"):
        raise UsageError(f"Unknown backend '{backend}'; use auto, onnx, openvino or torch.")
    folder = path.parent if path.name == WEIGHTS else path
    if backend == "auto":
        written = (folder / CARD).is_file() and (folder / GRAPH).is_file()
        backend = _choose(device, precision) if written else "torch"
    if backend == "onnx":
        return _open_onnx(folder, device, precision, threads)
    if backend == "openvino":
        return _open_openvino(folder, device, precision, threads)
    return _open_torch(path, device, precision, threads)


def _choose(device: str, precision: str) -> Literal["onnx", "openvino", "torch"]:
    """The fastest installed engine for a folder with a graph, among those that can do it."""
    if device not in ("auto", "cpu"):
        return "torch"
    if precision == "float32":
        return "onnx"
    torch = importlib.util.find_spec("torch") is not None
    if precision in ("auto", "bfloat16") and importlib.util.find_spec("openvino") is not None:
        return "torch" if torch and device == "auto" and _gpu() else "openvino"
    return "onnx" if precision == "auto" and not torch else "torch"


def _gpu() -> str | None:
    from passreid.backends.pytorch import gpu

    return gpu()


def _open_onnx(
    folder: Path, device: str, precision: str, threads: int | None
) -> tuple[ModelCard, Backend]:
    if device not in ("auto", "cpu") or precision not in ("auto", "float32"):
        raise UsageError(
            f"The onnx backend runs on the CPU in float32, not on '{device}' in '{precision}'; "
            "use backend='torch'."
        )
    _need_graph(folder)
    from passreid.backends.onnx import OnnxBackend

    card = ModelCard.read(folder / CARD)
    return card, OnnxBackend(folder, card, threads=threads)


def _open_openvino(
    folder: Path, device: str, precision: str, threads: int | None
) -> tuple[ModelCard, Backend]:
    if device not in ("auto", "cpu"):
        raise UsageError(
            f"The openvino backend runs on the CPU, not on '{device}'; use backend='torch'."
        )
    _need_graph(folder)
    from passreid.backends.openvino import OpenVinoBackend

    card = ModelCard.read(folder / CARD)
    return card, OpenVinoBackend(folder, card, precision=precision, threads=threads)


def _need_graph(folder: Path) -> None:
    if not (folder / GRAPH).is_file():
        raise ModelNotFoundError(
            f"{folder}: has no {GRAPH}; write it with `passreid export {folder}`, or use "
            "backend='torch'."
        )


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


def matrix_product(
    rows: int, inner: int, columns: int, precision: str
) -> Callable[[], object] | None:
    """Return what multiplies two matrices with torch on the CPU; None where torch is missing."""
    if importlib.util.find_spec("torch") is None:
        return None
    from passreid.backends.pytorch import matrix_product as product

    return product(rows, inner, columns, precision)
