"""Run other people's networks, ONNX or OpenVINO files, with a small card beside them.

    net.onnx
    net.json    {"image_size": [256, 128], "mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]}

What the card does not say is 0 for means, 1 for deviations, RGB, values from 0 to 1, bilinear
resizing, and the network's only output.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from passreid.card import Architecture, External, ModelCard
from passreid.config import build, read_json
from passreid.errors import (
    CheckpointError,
    ConfigError,
    MissingExtraError,
    ModelNotFoundError,
    UsageError,
)

F32 = NDArray[np.float32]
_PROBE = 2
"""Crops the network is tried with: one more than a batch of one tells a fixed batch size."""


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """What `NET.json` may say.

    Attributes:
        image_size: Input (height, width) in pixels.
        mean, std: Per RGB channel, in the unit of `largest`.
        channel_order: Order in which the network wants channels; mean and std stay RGB.
        largest: Value of a white pixel before normalisation: 1 or 255.
        interpolation: How crops are resized.
        output: Name of the output that is the embedding, of a network with several.
        name, licence, description, trained_on: As in a model card.
    """

    image_size: tuple[int, int]
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)
    channel_order: Literal["rgb", "bgr"] = "rgb"
    largest: float = 1.0
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"
    output: str | None = None
    name: str = ""
    licence: str = "unknown"
    description: str = ""
    trained_on: tuple[str, ...] = ()


def open_external(
    path: Path, *, device: str, precision: str, threads: int | None
) -> tuple[ModelCard, ExternalBackend]:
    """Load a network file with its card, or a folder that `passreid calibrate` made of one.

    Raises:
        ModelNotFoundError: There is no card; the message shows one.
        ConfigError: The card is not valid, or is for another input or output.
        CheckpointError: The file is not a network the engine can run.
        UsageError: Another device or precision than float32 on the CPU.
    """
    if device not in ("auto", "cpu") or precision not in ("auto", "float32"):
        raise UsageError(
            f"{path.name} runs on the CPU in float32, not on '{device}' in '{precision}'."
        )
    if path.is_dir():
        card = ModelCard.read(path / "model.json")
        assert card.external is not None
        file = path / Path(card.external.file).name
        return card, ExternalBackend(file, card, threads)
    beside = path.with_suffix(".json")
    if not beside.is_file():
        raise ModelNotFoundError(
            f"{path}: write {beside.name} beside it to say how crops go in, such as "
            '{"image_size": [256, 128], "mean": [0.485, 0.456, 0.406], '
            '"std": [0.229, 0.224, 0.225]}.'
        )
    told = build(Preprocessing, read_json(beside), where=str(beside))
    card = ModelCard(
        name=told.name or path.stem,
        architecture=Architecture(
            width=1,
            depth=1,
            heads=1,
            parts=0,
            image_size=told.image_size,
            patch_size=1,
            stride=(1, 1),
            neck="single",
        ),
        mean=told.mean,
        std=told.std,
        interpolation=told.interpolation,
        trained_on=told.trained_on,
        licence=told.licence,
        description=told.description,
        external=External(
            file=path.name,
            channel_order=told.channel_order,
            largest=told.largest,
            output=told.output,
        ),
    )
    backend = ExternalBackend(path, card, threads)
    return backend.card, backend


class ExternalBackend:
    """A network that passreid did not write, on ONNX Runtime or OpenVINO in float32.

    Args:
        path: The .onnx or .xml file.
        card: Its card, with `external` set.
        threads: Of the engine; None is its own choice.
    """

    device, precision, normalises, attends = "cpu", "float32", True, False

    def __init__(self, path: Path, card: ModelCard, threads: int | None) -> None:
        assert card.external is not None
        self._external = card.external
        if not path.is_file():
            raise ModelNotFoundError(f"{path}: no such network file.")
        run = _onnx_runtime if path.suffix == ".onnx" else _openvino
        self.name = "onnx" if path.suffix == ".onnx" else "openvino"
        order = slice(None, None, -1 if self._external.channel_order == "bgr" else 1)
        self._order = order
        scale = np.float32(self._external.largest / 255)
        std = np.array(card.std, np.float32)[order]
        self._scale = scale / std
        self._shift = np.array(card.mean, np.float32)[order] / std
        self._infer, self._one_by_one = run(path, self._external.output, threads), False
        dim = self._probe(path, card.architecture.image_size)
        self.card = card.with_width(dim)
        self.weights_digest = _digest(path, self._external)

    def _probe(self, path: Path, size: tuple[int, int]) -> int:
        """Return the width of the embedding, and find out whether batches have a fixed size."""
        blank = np.zeros((_PROBE, *size, 3), np.uint8)
        try:
            rows = self.run(blank)
        except Exception:  # noqa: BLE001 - engines raise many kinds; one crop alone may still run
            self._one_by_one = True
            try:
                rows = self.run(blank)
            except Exception as error:  # noqa: BLE001
                reason = str(error).strip().splitlines()[-1][:200]
                raise ConfigError(
                    f"{path}: does not run on crops of {size[0]}x{size[1]} pixels ({reason}); "
                    "correct image_size in its card."
                ) from None
        if rows.ndim != 2 or len(rows) != _PROBE:
            raise ConfigError(
                f"{path}: its output is {rows.shape} for {_PROBE} crops, not (crops, numbers); "
                "name the embedding with 'output' in its card."
            )
        return int(rows.shape[1])

    def run(self, pixels: NDArray[Any]) -> F32:
        """Embed uint8 RGB crops (B, H, W, 3), giving (B, D)."""
        values = pixels[..., self._order].astype(np.float32) * self._scale - self._shift
        batch = np.ascontiguousarray(values.transpose(0, 3, 1, 2))
        parts = [batch[i : i + 1] for i in range(len(batch))] if self._one_by_one else [batch]
        rows = np.concatenate([self._infer(part) for part in parts]).astype(np.float32)
        return rows.reshape(len(rows), -1) if rows.ndim == 4 else rows

    def attend(self, pixels: F32) -> F32:
        """Refuse: other networks have no part tokens."""
        raise ModelNotFoundError("This network has no part tokens, so it has no attention maps.")


def _onnx_runtime(path: Path, output: str | None, threads: int | None) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or 0
    options.log_severity_level = 3
    try:
        session = onnxruntime.InferenceSession(
            str(path), options, providers=["CPUExecutionProvider"]
        )
    except Exception as error:  # noqa: BLE001 - its own kinds are not public
        reason = str(error).strip().splitlines()[-1][:200]
        raise CheckpointError(f"{path}: ONNX Runtime cannot load it ({reason}).") from None
    names = [each.name for each in session.get_outputs()]
    [given, *others] = session.get_inputs()
    if others:
        raise ConfigError(f"{path}: has {1 + len(others)} inputs, not one for crops.")
    chosen = _choose(path, names, output)
    return lambda batch: session.run([chosen], {given.name: batch})[0]


def _openvino(path: Path, output: str | None, threads: int | None) -> Any:
    try:
        import openvino
    except ModuleNotFoundError:
        raise MissingExtraError("Running OpenVINO files", "openvino") from None
    try:
        core = openvino.Core()
        network = core.read_model(str(path))
        shape = network.input().get_partial_shape()
        shape[0] = -1
        network.reshape(shape)
        options = {"INFERENCE_NUM_THREADS": threads} if threads else {}
        compiled = core.compile_model(network, "CPU", options | {"INFERENCE_PRECISION_HINT": "f32"})
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1][:200]
        raise CheckpointError(f"{path}: OpenVINO cannot load it ({reason}).") from None
    names = [each.get_any_name() for each in compiled.outputs]
    at = names.index(_choose(path, names, output))
    return lambda batch: compiled([batch])[at]


def _choose(path: Path, names: list[str], wanted: str | None) -> str:
    if wanted is None and len(names) == 1:
        return names[0]
    if wanted in names:
        return str(wanted)
    said = f"no output '{wanted}'" if wanted else f"{len(names)} outputs"
    raise ConfigError(f"{path}: has {said}; set 'output' in its card to one of {', '.join(names)}.")


def _digest(path: Path, external: External) -> str:
    """Return the SHA-256 of what embeddings depend on: the files, and how crops go in."""
    digest = hashlib.sha256(path.read_bytes())
    digest.update(f"{external.channel_order} {external.largest:g} {external.output}".encode())
    weights = path.with_suffix(".bin")
    if path.suffix == ".xml" and weights.is_file():
        digest.update(weights.read_bytes())
    return digest.hexdigest()
