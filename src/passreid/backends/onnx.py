"""ONNX Runtime on the CPU: the graph of `model.onnx`, the weights of `model.safetensors`.

A model folder keeps its weights on disk once: `model.onnx` holds only the graph, whose tensors are
external data in `model.safetensors`. They are handed over by name, which also works in download
caches, where both files are links into another folder.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file

from passreid.backends import (
    ATTENTION,
    F32,
    GRAPH,
    WEIGHTS,
    digest_tensors,
    embedding_tensors,
    export_command,
    variant,
)
from passreid.backends.graphfile import check_external_data
from passreid.card import ModelCard
from passreid.config import plain
from passreid.errors import CheckpointError, ModelNotFoundError
from passreid.storage import sha256

IMAGES, PIXELS = "images", "pixels"
EMBEDDINGS, LOOKS = "embeddings", "attention"
_INPUT = "images: RGB / 255, minus mean, over std; float32 (batch, 3, height, width)"
_INPUT_PIXELS = "pixels: RGB, 0 to 255; uint8 (batch, height, width, 3)"
_ERRORS_ONLY = 3


class FolderBackend:
    """What backends over a model folder share: its weights' digest and its attention graph.

    Args:
        folder: A model folder.
        card: Its card.
        threads: Threads of one run; None is one for each physical core.
    """

    def __init__(self, folder: Path, card: ModelCard, threads: int | None) -> None:
        self._folder, self._card, self._threads = folder, card, threads

    @cached_property
    def weights_digest(self) -> str:
        """Digest of the folder's weights; files of other precisions were made from them.

        Raises:
            CheckpointError: They cannot be read.
        """
        return digest_tensors(self._card.architecture, _read(self._folder / WEIGHTS))

    @property
    def attends(self) -> bool:
        """Whether the folder has an `attention.onnx`."""
        return (self._folder / ATTENTION).is_file()

    def attend(self, pixels: F32) -> F32:
        """Return where CLS and parts look, (B, 1 + P, rows, columns).

        Raises:
            ModelNotFoundError: The folder has no `attention.onnx`.
            CheckpointError: As `OnnxBackend`.
        """
        return self._attention.run(pixels)

    @cached_property
    def _attention(self) -> OnnxSession:
        if not self.attends:
            raise ModelNotFoundError(
                f"{self._folder}: has no {ATTENTION}, which shows where the model looks; write it "
                f"with `passreid export {self._folder}`, or use backend='torch'."
            )
        graph, weights = self._folder / ATTENTION, self._folder / WEIGHTS
        return OnnxSession(graph, weights, self._card, LOOKS, threads=self._threads)


class OnnxBackend(FolderBackend):
    """Sessions of ONNX Runtime: one that embeds and, once asked for, one that shows attention.

    Args:
        folder: A model folder with `model.onnx`.
        card: Its card, which the graph must have been written for.
        own: Precision of a file with weights of its own, to run in place of `model.onnx`.
        threads: Threads of one run; None is one for each physical core.
        graph: The file, when it is not (yet) in its place.

    Raises:
        CheckpointError: A file is damaged, or the graph was written for other weights or another
            card.
    """

    name = "onnx"
    device = "cpu"

    def __init__(
        self,
        folder: Path,
        card: ModelCard,
        *,
        own: str | None = None,
        threads: int | None = None,
        graph: Path | None = None,
    ) -> None:
        super().__init__(folder, card, threads)
        graph = graph or folder / (variant(own, "onnx") if own else GRAPH)
        self._session = OnnxSession(
            graph, folder / WEIGHTS, card, EMBEDDINGS, own=own, threads=threads
        )
        self.precision = own or "float32"
        self.normalises = self._session.takes == PIXELS

    def run(self, pixels: NDArray[Any]) -> F32:
        """Embed normalised pixels (B, 3, H, W), or what `normalises` says, giving (B, D)."""
        return self._session.run(pixels)


class OnnxSession:
    """One graph of a model folder, with the folder's weights; threads may share it.

    Args:
        graph: The file.
        weights: Of the model folder.
        card: Of the model folder.
        output: What of the graph's outputs is wanted.
        own: Precision of the weights, where the graph has its own.
        threads: Threads of one run; None is one for each physical core.

    Raises:
        CheckpointError: As `OnnxBackend`.
    """

    def __init__(
        self,
        graph: Path,
        weights: Path,
        card: ModelCard,
        output: str,
        *,
        own: str | None = None,
        threads: int | None = None,
    ) -> None:
        stored = {} if own else _read(weights)
        tensors = {name: stored[name] for name in used_tensors(card, stored, output)}
        try:
            content = graph.read_bytes()
            check_external_data(graph, content, None if own else weights.name)
            self._session = _session(content, tensors, threads)
        except OSError as error:
            raise CheckpointError(f"{graph}: cannot be read ({error}).") from None
        except _RUNTIME_ERRORS as error:
            raise CheckpointError(stale(graph, str(error).splitlines()[0])) from None
        written = self._session.get_modelmeta().custom_metadata_map
        outputs = [given.name for given in self._session.get_outputs()]
        self.takes = self._session.get_inputs()[0].name
        expected = graph_metadata(card, weights, own=own, pixels=self.takes == PIXELS)
        if written != expected or output not in outputs:
            raise CheckpointError(stale(graph, "it was written for others"))
        card.check_weights(weights)
        self._output = output
        # Keeps the arrays alive: the session reads them in place.
        self._tensors = tensors

    def run(self, pixels: NDArray[Any]) -> F32:
        """Return what the graph makes of normalised pixels, or of what else it takes."""
        return np.asarray(self._session.run([self._output], {self.takes: pixels})[0], np.float32)


_RUNTIME_ERRORS: tuple[type[Exception], ...] = tuple(
    error
    for error in vars(onnxruntime.capi.onnxruntime_pybind11_state).values()
    if isinstance(error, type) and issubclass(error, Exception)
)


def graph_metadata(
    card: ModelCard, weights: Path, *, own: str | None = None, pixels: bool = False
) -> dict[str, str]:
    """Return what a graph says of itself: its pixels, its network, its weights.

    Graphs of equal metadata compute the same, but for the weights' values where those are not in
    the graph.

    Args:
        card, weights: Of the model folder.
        own: Precision of the weights in the graph; None where it reads the folder's.
        pixels: Whether the graph takes pixels as they are read, and normalises by itself.
    """
    architecture = plain(card.architecture)
    if card.architecture.pooling == "cls":  # graphs from before it was a choice do not say it
        del architecture["pooling"]
    says = {
        "input": _INPUT_PIXELS if pixels else _INPUT,
        "height_width": json.dumps(card.architecture.image_size),
        "mean": json.dumps(card.mean),
        "std": json.dumps(card.std),
        "interpolation": card.interpolation,
        "architecture": json.dumps(architecture, sort_keys=True),
        "tensors_sha256": hashlib.sha256(read_header(weights)).hexdigest(),
    }
    return says | ({"weights": own, "weights_of": sha256(weights)[:16]} if own else {})


def used_tensors(card: ModelCard, names: Iterable[str], output: str) -> list[str]:
    """Return which of a model folder's tensors a graph reads; the rest serve training."""
    used = embedding_tensors(card.architecture, names)
    if output != LOOKS:
        return used
    last = f"vit.blocks.{card.architecture.depth - 1}."
    behind = tuple(f"{last}{part}." for part in ("attn.proj", "norm2", "mlp"))
    return [name for name in used if not name.startswith(("neck.", "jpm.", "vit.norm.", *behind))]


def read_header(weights: Path) -> bytes:
    """Return the JSON header of a safetensors file: names, types, shapes and offsets."""
    with weights.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        return file.read(min(length, 2**27))


def _read(weights: Path) -> dict[str, NDArray[Any]]:
    try:
        return load_file(weights)
    except OSError as error:
        raise CheckpointError(f"{weights.parent}: cannot be read ({error}).") from None
    except SafetensorError as error:
        raise CheckpointError(f"{weights}: not a valid safetensors file ({error}).") from None


def _session(
    graph: bytes, tensors: dict[str, Any], threads: int | None
) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = _ERRORS_ONLY
    options.intra_op_num_threads = threads or 0
    # Waiting threads would spin, on the cores that read the next batch.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    values = [onnxruntime.OrtValue.ortvalue_from_numpy(tensor) for tensor in tensors.values()]
    options.add_external_initializers(list(tensors), values)
    return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])


def stale(graph: Path, reason: str) -> str:
    """Say that a graph does not fit what lies beside it, and what to do."""
    command = export_command(graph.parent, graph.name)
    return (
        f"{graph}: does not belong to the weights and card beside it ({reason}). Write it anew "
        f"with `{command}`, or load the model with backend='torch'."
    )
