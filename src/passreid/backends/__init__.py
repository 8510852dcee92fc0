"""What runs a network: one small face, an engine behind it.

    onnx.py      ONNX Runtime on the CPU, from a model folder's `model.onnx`; needs no torch
    openvino.py  OpenVINO on the CPU, from the same file, also in bfloat16; needs no torch
                 both also run `model.PRECISION.onnx` or `.xml`, which hold their own weights
    pytorch.py   torch on any device, in any precision, from every kind of checkpoint

None is imported before it is asked for.
"""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from passreid.card import Architecture, ModelCard
from passreid.errors import MissingExtraError, ModelNotFoundError, UsageError
from passreid.hub import MODELS

CARD, WEIGHTS, GRAPH = "model.json", "model.safetensors", "model.onnx"
ATTENTION = "attention.onnx"

F32 = NDArray[np.float32]
BackendName = Literal["auto", "onnx", "openvino", "torch"]
Precision = Literal["float32", "bfloat16", "float16", "int8", "auto"]
_SUFFIXES = {"onnx": "onnx", "openvino": "xml"}
_WITH_WEIGHTS = ("float16", "int8")


class Backend(Protocol):
    """A loaded network.

    A backend may also have `weights_digest`, a text that tells its weights from any others
    (`digest_tensors`); for one without it, `Embedder.identity` hashes what it makes of an image.
    """

    @property
    def name(self) -> str:
        """Engine: "onnx", "openvino" or "torch"."""

    @property
    def device(self) -> str:
        """Where it runs: "cpu", "cuda:0", "mps"."""

    @property
    def precision(self) -> str:
        """What products are computed in, or the file's weights are: "float32" ... "int8"."""

    @property
    def normalises(self) -> bool:
        """Whether `run` takes pixels as they are read, uint8 RGB (B, H, W, 3)."""

    @property
    def attends(self) -> bool:
        """Whether `attend` has what it needs."""

    def run(self, pixels: NDArray[Any]) -> F32:
        """Embed normalised pixels (B, 3, H, W), or what `normalises` says, giving (B, D)."""

    def attend(self, pixels: F32) -> F32:
        """Return where CLS and parts look, (B, 1 + P, rows, columns); see `PartViT.attend`."""


def embedding_tensors(a: Architecture, names: Iterable[str]) -> list[str]:
    """List the tensors of a model folder that its embedding depends on, in their order."""
    idle = ("classifier.", "neck.") if a.feature == "before" else ("classifier.",)
    return [n for n in names if not (n.startswith(idle) or n.endswith("num_batches_tracked"))]


def digest_tensors(a: Architecture, tensors: Mapping[str, NDArray[Any]]) -> str:
    """Return the SHA-256 of the weights a model's embedding depends on, as hex.

    Args:
        a: The network; its feature decides whether the neck counts.
        tensors: By the names of a model folder; compared as float32.
    """
    digest = hashlib.sha256()
    for name in sorted(embedding_tensors(a, tensors)):
        values = np.ascontiguousarray(tensors[name], np.float32)
        digest.update(f"{name} {values.shape} ".encode())
        digest.update(values.data)
    return digest.hexdigest()


def variant(precision: str, engine: str) -> str:
    """Return the name of the file that holds a model in a precision, for "onnx" or "openvino"."""
    return f"model.{precision}.{_SUFFIXES[engine]}"


def own_files(backend: BackendName, precision: str) -> list[str]:
    """List the files of which one is needed to run a precision that `model.onnx` has not."""
    engines = _SUFFIXES if backend == "auto" else {backend} & _SUFFIXES.keys()
    names = [variant(precision, engine) for engine in engines if precision in _WITH_WEIGHTS]
    return [*names, *(f"{name[:-3]}bin" for name in names if name.endswith(".xml"))]


def exported(folder: Path) -> list[Path]:
    """List what `passreid export` wrote into a model folder: graphs, files of other precisions."""
    names = [GRAPH, ATTENTION]
    for precision in ("float32", "float16", "int8"):
        names += [f"model.{precision}.{suffix}" for suffix in ("onnx", "xml", "bin")]
    return [folder / name for name in names if (folder / name).is_file()]


def export_command(folder: Path, name: str) -> str:
    """Return the command that writes one of those files."""
    command = f"passreid export {folder}"
    if name in (GRAPH, ATTENTION):
        return command
    _, precision, suffix = name.split(".")
    command += f" --format {'onnx' if suffix == 'onnx' else 'openvino'} --precision {precision}"
    if name == variant("float32", "onnx"):
        command += " --normalise"  # else it would be the graph
    return f"{command} --calibrate CROPS" if precision == "int8" else command


def open_network(
    path: Path,
    *,
    backend: BackendName = "auto",
    device: str = "auto",
    precision: str = "float32",
    threads: int | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> tuple[ModelCard, Backend]:
    """Load a folder or weight file on the engine that suits it; `embed.load` tells the options.

    Raises:
        ModelNotFoundError, CheckpointError, ConfigError, MissingExtraError, UsageError: As
            `embed.load`.
    """
    if backend not in ("auto", "onnx", "openvino", "torch"):
        raise UsageError(f"Unknown backend '{backend}'; use auto, onnx, openvino or torch.")
    if _is_external(path):
        from passreid.backends.external import open_external

        if overrides or backend == "torch":
            raise UsageError(f"{path}: its card says how it runs; leave out other options.")
        return open_external(path, device=device, precision=precision, threads=threads)
    if overrides:
        if backend not in ("auto", "torch"):
            raise UsageError(
                f"The {backend} backend runs a model as it was exported; leave out "
                f"{', '.join(overrides)}, or use backend='torch'."
            )
        backend = "torch"
    folder = path.parent if path.name == WEIGHTS else path
    if backend == "auto" and precision == "int8":
        backend = _quantised(folder)
    if backend == "auto":
        written = (folder / CARD).is_file() and (folder / GRAPH).is_file()
        backend = _choose(device, precision) if written else "torch"
    if backend == "onnx":
        return _open_onnx(folder, device, precision, threads)
    if backend == "openvino":
        return _open_openvino(folder, device, precision, threads)
    return _open_torch(path, device, precision, threads, overrides or {})


def _is_external(path: Path) -> bool:
    """Whether a path is a network file of another project, or a folder made of one."""
    if path.is_file():
        graph = path.suffix in (".onnx", ".xml")
        return graph and not (path.with_name(CARD).is_file() and path.name in (GRAPH, ATTENTION))
    if not (path / CARD).is_file() or (path / WEIGHTS).is_file():
        return False
    return ModelCard.read(path / CARD).external is not None


def _choose(device: str, precision: str) -> Literal["onnx", "openvino", "torch"]:
    """The fastest installed engine for a folder with a graph, among those that can do it."""
    if device not in ("auto", "cpu"):
        return "torch"
    if precision == "float32":
        return "onnx"
    torch = torch_runs()
    if precision in ("auto", "bfloat16") and importlib.util.find_spec("openvino") is not None:
        return "torch" if device == "auto" and gpu() else "openvino"
    if torch:
        return "torch"
    # Where it cannot run either, the error that follows names what is smaller to install.
    lean: dict[str, Literal["onnx", "openvino"]]
    lean = {"auto": "onnx", "float16": "onnx", "bfloat16": "openvino"}
    return lean.get(precision, "torch")


def _quantised(folder: Path) -> Literal["onnx", "openvino"]:
    """The engine for which a folder holds an int8 file; OpenVINO is the faster one."""
    installed = importlib.util.find_spec("openvino") is not None
    engines: tuple[Literal["onnx", "openvino"], ...] = ("onnx", "openvino")
    for engine in engines[::-1] if installed else engines:
        if (folder / variant("int8", engine)).is_file():
            return engine
    return "onnx"


def torch_runs() -> bool:
    """Whether the torch backend has what it imports; many have torch for other things, alone."""
    return all(importlib.util.find_spec(name) is not None for name in ("torch", "timm"))


def gpu() -> str | None:
    """Return the accelerator that torch can use here, "cuda" or "mps"; None without either."""
    if not torch_runs():
        return None
    from passreid.backends.pytorch import gpu as first

    return first()


def _open_onnx(
    folder: Path, device: str, precision: str, threads: int | None
) -> tuple[ModelCard, Backend]:
    known = ("auto", "float32", "float16", "int8")
    if device not in ("auto", "cpu") or precision not in known:
        raise UsageError(
            f"The onnx backend runs on the CPU in float32, float16 or int8, not on '{device}' in "
            f"'{precision}'; use backend='torch'."
        )
    precision = "float32" if precision == "auto" else precision
    own = _find_variant(folder, precision, "onnx")
    from passreid.backends.onnx import OnnxBackend

    card = ModelCard.read(folder / CARD)
    return card, OnnxBackend(folder, card, own=own, threads=threads)


def _open_openvino(
    folder: Path, device: str, precision: str, threads: int | None
) -> tuple[ModelCard, Backend]:
    if device not in ("auto", "cpu"):
        raise UsageError(
            f"The openvino backend runs on the CPU, not on '{device}'; use backend='torch'."
        )
    own = _find_variant(folder, precision, "openvino")
    from passreid.backends.openvino import OpenVinoBackend

    card = ModelCard.read(folder / CARD)
    backend = OpenVinoBackend(folder, card, precision=precision, own=own, threads=threads)
    return card, backend


def _find_variant(folder: Path, precision: str, engine: str) -> str | None:
    """Return the precision if a file was written for just that; None leaves `model.onnx`."""
    name = variant(precision, engine)
    if (folder / name).is_file():
        return precision
    if precision in _WITH_WEIGHTS:
        if folder.parent == MODELS:
            raise ModelNotFoundError(
                f"The bundled {folder.name} has no {name}: `passreid convert {folder.name} FOLDER` "
                f"makes a copy, `{export_command(Path('FOLDER'), name)}` writes it there."
            )
        command = export_command(folder, name)
        raise ModelNotFoundError(f"{folder}: has no {name}; write it with `{command}`.")
    if not (folder / GRAPH).is_file():
        raise ModelNotFoundError(
            f"{folder}: has no {GRAPH}; write it with `{export_command(folder, GRAPH)}`, or use "
            "backend='torch'."
        )
    return None


def _open_torch(
    path: Path, device: str, precision: str, threads: int | None, overrides: Mapping[str, Any]
) -> tuple[ModelCard, Backend]:
    try:
        from passreid.backends.pytorch import TorchBackend
        from passreid.checkpoint import load_checkpoint
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in ("torch", "timm", "torchvision"):
            raise
        written = ((path if path.is_dir() else path.parent) / GRAPH).is_file()
        feature = f"Loading {path} without an ONNX graph"
        if written:
            feature = f"The torch backend (device {device}, precision {precision})"
        raise MissingExtraError(feature, "torch") from None
    model, card, _ = load_checkpoint(path, **overrides)
    return card, TorchBackend(model, device=device, precision=precision, threads=threads)


def matrix_product(
    rows: int, inner: int, columns: int, precision: str
) -> Callable[[], object] | None:
    """Return what multiplies two matrices with torch on the CPU; None where it does not run."""
    if not torch_runs():
        return None
    from passreid.backends.pytorch import matrix_product as product

    return product(rows, inner, columns, precision)
