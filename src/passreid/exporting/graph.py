"""The graphs of a model folder, which share the weights that lie there."""

from __future__ import annotations

import copy
import json
import warnings
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from passreid.backends import ATTENTION, GRAPH, WEIGHTS
from passreid.backends.onnx import (
    EMBEDDINGS,
    IMAGES,
    LOOKS,
    PIXELS,
    OnnxSession,
    graph_metadata,
    read_header,
    used_tensors,
)
from passreid.card import ModelCard
from passreid.checkpoint import load_folder
from passreid.errors import CheckpointError, MissingExtraError
from passreid.model import PartViT, use_fused_attention
from passreid.storage import replacing

if TYPE_CHECKING:
    from onnx import ModelProto

# Opset 23 is the first with attention as one operator; ONNX Runtime runs it from 1.23 on.
_OPSET = 23
_BATCHES = (1, 2, 7)

WORST_COSINE = {"float32": 0.99999, "float16": 0.9999, "int8": 0.99}
"""A file whose embedding of any crop is further from torch's float32 is not kept."""
# Which of two patches as like as each other are merged is up to rounding.
_WORST_MERGED = 0.999
# Largest difference of one number, over the largest number of the batch.
_MAX_DIFFERENCE = 1e-4


def write_graph(folder: str | Path) -> Path:
    """Write `model.onnx` and `attention.onnx` into a model folder, for every engine but torch.

    The files hold graphs alone (a few hundred kB): their tensors are external data, which readers
    take out of `model.safetensors` by offset, so weights lie on disk once. float16 tensors are cast
    to float32 in the graph. Batches may have any size; the metadata says how pixels are prepared.

    Args:
        folder: A model folder.

    Returns:
        The path of `model.onnx`, which embeds; `attention.onnx` shows where the model looks.

    Raises:
        ModelNotFoundError, CheckpointError, ConfigError: As `load_folder`; also when a graph's
            outputs differ from torch's (cosine below 0.99999, or a number off by more than 1e-4 of
            the largest; where patches are merged, cosine below 0.999) on seeded batches of 1, 2 and
            7. No file is left then.
        MissingExtraError: The extra "onnx" is not installed.
    """
    folder = Path(folder)
    model, card = load_folder(folder)
    with replacing(folder / GRAPH) as embeds, replacing(folder / ATTENTION) as looks:
        _write(embeds, model.eval(), folder / WEIGHTS, card, EMBEDDINGS)
        _write(looks, Attention(model).eval(), folder / WEIGHTS, card, LOOKS)
    return folder / GRAPH


class Attention(PartViT):
    """A network that gives where it looks in place of embeddings; torch's exporter wants a module.

    Args:
        model: Whose weights it has.
    """

    def __init__(self, model: PartViT) -> None:
        super().__init__(model.architecture)
        self.load_state_dict(model.state_dict())

    def forward(self, images: Tensor) -> Tensor:
        """Return where CLS and parts look, (B, 1 + P, rows, columns)."""
        return self.attend(images)


def _write(path: Path, network: PartViT, weights: Path, card: ModelCard, output: str) -> None:
    """Trace a network, take its tensors out of the file, and compare what it gives with torch."""
    graph = trace(network, output)
    _take_tensors_from(weights, graph, card)
    for key, value in graph_metadata(card, weights).items():
        graph.metadata_props.add(key=key, value=value)
    path.write_bytes(graph.SerializeToString())
    merges = output == EMBEDDINGS and card.architecture.merge > 0
    _check(network, OnnxSession(path, weights, card, output), card, merges=merges)


def trace(
    model: PartViT, output: str, *, example: Tensor | None = None, optimise: bool = False
) -> ModelProto:
    """Trace a network; unoptimised, so that every tensor keeps its name and shape.

    Args:
        model: In evaluation mode.
        output: Name of what it gives.
        example: Two of what it takes, when not normalised pixels; uint8 is named "pixels".
        optimise: Fold constants and fuse operators.

    Raises:
        MissingExtraError: The extra "onnx" is not installed.
    """
    try:
        import onnx  # noqa: F401 - the exporter below needs both
        import onnxscript  # noqa: F401
    except ImportError:
        raise MissingExtraError("Writing an ONNX graph", "onnx") from None
    model = copy.deepcopy(model)
    fold_norms(model)
    use_fused_attention(model, True)
    if example is None:
        example = torch.zeros(2, 3, *model.architecture.image_size)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # torch's exporter warns of its own deprecations
        program = torch.onnx.export(
            model,
            (example,),
            dynamo=True,
            optimize=optimise,
            verbose=False,
            opset_version=_OPSET,
            input_names=[PIXELS if example.dtype == torch.uint8 else IMAGES],
            output_names=[output],
            dynamic_shapes=({0: torch.export.Dim("batch")},),
        )
    assert program is not None
    return program.model_proto


def fold_norms(model: nn.Module) -> None:
    """Let each convolution do the batch norm behind it, with weights worked out in the graph.

    Engines work them out once, when they read a graph. Left to themselves, not all find what
    can be folded: ONNX Runtime ran a network of depthwise convolutions at half the speed.

    Args:
        model: In evaluation mode; its forward methods are changed in place, its tensors are not.
    """
    modules: list[Any] = list(model.modules())
    for conv, norm in pairwise(modules):
        pair = isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d)
        if pair and conv.bias is None and norm.num_features == conv.out_channels:
            conv.forward = partial(_folded, conv, norm)
            norm.forward = getattr(norm, "act", nn.Identity()).forward  # timm's norms activate, too


def _folded(conv: nn.Conv2d, norm: nn.BatchNorm2d, x: Tensor) -> Tensor:
    assert norm.running_var is not None and norm.running_mean is not None
    scale = norm.weight / (norm.running_var + norm.eps).sqrt()
    weight = conv.weight * scale[:, None, None, None]
    folded: Tensor = conv._conv_forward(x, weight, norm.bias - norm.running_mean * scale)
    return folded


def _take_tensors_from(weights: Path, model: ModelProto, card: ModelCard) -> None:
    """Turn the graph's tensors into external data of a safetensors file.

    Raises:
        CheckpointError: The graph's tensors are not the ones its readers will hand over, or are
            stored in another type than float32 and float16.
    """
    from onnx import TensorProto, helper

    kinds = {"F32": TensorProto.FLOAT, "F16": TensorProto.FLOAT16}
    stored, start = _stored(weights)
    graph = model.graph
    used = {name: stored[name] for name in used_tensors(card, stored, graph.output[0].name)}
    if {tensor.name for tensor in graph.initializer} != used.keys():
        raise CheckpointError(f"{weights}: holds other tensors than the network traced from it.")
    if strange := {entry["dtype"] for entry in used.values()} - kinds.keys():
        raise CheckpointError(f"{weights}: tensors of type {', '.join(strange)} are not supported.")
    del graph.initializer[:], graph.value_info[:]
    halves = {name for name, entry in used.items() if entry["dtype"] == "F16"}
    for name, entry in used.items():
        begin, end = entry["data_offsets"]
        tensor = graph.initializer.add(name=name, data_type=kinds[entry["dtype"]])
        tensor.dims.extend(entry["shape"])
        tensor.data_location = TensorProto.EXTERNAL
        where = {"location": weights.name, "offset": start + begin, "length": end - begin}
        for key, value in where.items():
            tensor.external_data.add(key=key, value=str(value))
    for node in graph.node:
        del node.metadata_props[:]  # Python stack traces: nine tenths of the file
        node.input[:] = [f"{name}:float32" if name in halves else name for name in node.input]
    casts = [
        helper.make_node("Cast", [name], [f"{name}:float32"], to=TensorProto.FLOAT)
        for name in sorted(halves)
    ]
    rest = list(graph.node)
    del graph.node[:]
    graph.node.extend(casts + rest)


def _stored(weights: Path) -> tuple[dict[str, Any], int]:
    """The entries of a safetensors header, and where its data begins."""
    header = read_header(weights)
    entries = json.loads(header)
    entries.pop("__metadata__", None)
    return entries, 8 + len(header)


def _check(model: PartViT, graph: OnnxSession, card: ModelCard, *, merges: bool) -> None:
    generator = np.random.default_rng(0)
    for size in _BATCHES:
        shape = (size, 3, *card.architecture.image_size)
        pixels = generator.uniform(-1, 1, shape).astype(np.float32)
        with torch.inference_mode():
            expected = model(torch.from_numpy(pixels)).numpy()
        if far := too_far(expected, graph.run(pixels), "float32", merges=merges):
            raise CheckpointError(
                f"The graph of '{card.name}' does not compute what torch does (batch of {size}: "
                f"{far}), so it was not kept."
            )


def too_far(
    expected: NDArray[Any], found: NDArray[Any], precision: str, *, merges: bool
) -> str | None:
    """Hold what a file gives against what torch gives in float32.

    Args:
        expected, found: Rows of torch and of the file.
        precision: Of the file.
        merges: Whether the network merges patches.

    Returns:
        How far they are apart, where that is beyond the bound; else None.
    """
    cosine, difference = agreement(expected, found)
    bound = WORST_COSINE[precision]
    if merges:
        bound = min(bound, _WORST_MERGED)
    exactly = merges or precision != "float32" or difference <= _MAX_DIFFERENCE
    if cosine >= bound and exactly:
        return None
    return f"worst cosine {cosine:.6f}, bound {bound}; largest difference {difference:.1e}"


def agreement(expected: NDArray[Any], found: NDArray[Any]) -> tuple[float, float]:
    """Return two batches' smallest cosine, and largest difference over the largest number."""
    if expected.shape != found.shape:
        return 0.0, np.inf
    a, b = (rows.reshape(len(rows), -1).astype(np.float64) for rows in (expected, found))
    lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return float(((a * b).sum(1) / lengths).min()), float(np.abs(a - b).max() / np.abs(a).max())
