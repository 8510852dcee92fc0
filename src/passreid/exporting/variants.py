"""Files of a model folder that hold their own weights: smaller, faster or easier to feed.

`model.PRECISION.onnx` is for ONNX Runtime, `model.PRECISION.xml` with its `.bin` for OpenVINO. int8
is static quantisation: the ranges of activations are measured on real crops, weights are rounded
per channel, attention and normalisation stay in float32 (ONNX) or are NNCF's choice (OpenVINO).
"""

from __future__ import annotations

import contextlib
import logging
import shutil
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from passreid.backends import WEIGHTS, Backend, variant
from passreid.backends.onnx import EMBEDDINGS, OnnxBackend, graph_metadata
from passreid.backends.openvino import OpenVinoBackend
from passreid.backends.pytorch import TorchBackend
from passreid.card import ModelCard
from passreid.checkpoint import load_folder
from passreid.embed import read_crop
from passreid.errors import CheckpointError, MissingExtraError, UsageError
from passreid.exporting.graph import too_far, trace
from passreid.images import normalise as normalised
from passreid.model import PartViT
from passreid.storage import replacing

if TYPE_CHECKING:
    from onnx import ModelProto

Format = Literal["onnx", "openvino"]
Precision = Literal["float32", "float16", "int8"]

_CROPS = 128
_BATCH = 8
# Smaller tensors (biases, norms) stay as they are: nothing is gained.
_WORTH_HALVING = 1024


def write_variant(
    folder: str | Path,
    *,
    format: Format = "onnx",
    precision: Precision = "int8",
    normalise: bool = False,
    crops: Sequence[Path] = (),
) -> Path:
    """Write a file that `load` finds by its precision, for one engine.

    Args:
        folder: A model folder.
        format: Whose file.
        precision: "float16" halves the weights' size and computes in float32, "int8" quantises.
        normalise: The file takes pixels as they are read, uint8 RGB (batch, height, width, 3).
        crops: Pictures of people as the model will see them, none of which it is judged on later;
            up to 128, spread over the list, are used. int8 needs them; without, noise is compared.

    Returns:
        The path of the file; OpenVINO's has a `.bin` beside it.

    Raises:
        ModelNotFoundError, CheckpointError, ConfigError: As `load_folder`; also when the embedding
            of a crop has a cosine with torch's below `graph.WORST_COSINE`. No file is left then.
        ImageError: A crop cannot be read.
        UsageError: int8 without crops.
        MissingExtraError: The extra "onnx", "openvino" or "int8" is not installed.
    """
    if precision == "int8" and not crops:
        raise UsageError("int8 is calibrated on pictures of people: name a folder (--calibrate).")
    folder = Path(folder)
    model, card = load_folder(folder)
    model.eval()
    pixels = _pixels(card, crops)
    name = variant(precision, format)
    with tempfile.TemporaryDirectory(prefix="passreid-export-") as scratch:
        made = Path(scratch) / name
        graph = _trace(model, card, normalise)
        metadata = graph_metadata(card, folder / WEIGHTS, own=precision, pixels=normalise)
        for key, value in metadata.items():
            graph.metadata_props.add(key=key, value=value)
        exact = _batches(normalised(pixels, card.mean, card.std))
        fed = _batches(pixels) if normalise else exact
        if format == "openvino":
            _write_openvino(graph, made, precision, fed)
            opened: Backend = OpenVinoBackend(folder, card, own=precision, graph=made)
        else:
            _write_onnx(graph, made, precision, fed)
            opened = OnnxBackend(folder, card, own=precision, graph=made)
        _check(opened, fed, TorchBackend(model, device="cpu"), exact, card)
        _keep(folder, sorted(Path(scratch).glob(f"{made.stem}.*")))
    return folder / name


class FromPixels(PartViT):
    """A network that normalises by itself.

    Args:
        model: Whose weights it has.
        card: Says how pixels are normalised.
    """

    def __init__(self, model: PartViT, card: ModelCard) -> None:
        super().__init__(model.architecture)
        self.load_state_dict(model.state_dict())
        self.mean, self.std = (torch.tensor(v).view(3, 1, 1) for v in (card.mean, card.std))

    def forward(self, images: Tensor) -> Tensor:
        """Embed uint8 RGB (B, H, W, 3)."""
        planes = images.permute(0, 3, 1, 2).float() / 255
        return super().forward((planes - self.mean) / self.std)


def _trace(model: PartViT, card: ModelCard, normalise: bool) -> ModelProto:
    if not normalise:
        return trace(model, EMBEDDINGS, optimise=True)
    example = torch.zeros(2, *card.architecture.image_size, 3, dtype=torch.uint8)
    return trace(FromPixels(model, card).eval(), EMBEDDINGS, example=example, optimise=True)


def _pixels(card: ModelCard, crops: Sequence[Path]) -> NDArray[np.uint8]:
    """Read crops spread over the list, (N, H, W, 3); seeded noise where there are none."""
    if not crops:
        shape = (_BATCH, *card.architecture.image_size, 3)
        return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    spread = np.linspace(0, len(crops) - 1, min(len(crops), _CROPS)).round().astype(int)
    return np.stack([read_crop(crops[row], card) for row in spread])


def _batches(crops: NDArray[Any]) -> list[NDArray[Any]]:
    return [crops[n : n + _BATCH] for n in range(0, len(crops), _BATCH)]


def _write_onnx(
    graph: ModelProto, made: Path, precision: Precision, batches: list[NDArray[Any]]
) -> None:
    if precision == "int8":
        _quantise_onnx(graph, made, batches)
        return
    if precision == "float16":
        _halve(graph)
    made.write_bytes(graph.SerializeToString())


def _halve(model: ModelProto) -> None:
    """Store large tensors as float16; the graph casts them back."""
    from onnx import TensorProto, helper, numpy_helper

    casts = []
    for tensor in model.graph.initializer:
        values = numpy_helper.to_array(tensor)
        if values.dtype == np.float32 and values.size >= _WORTH_HALVING:
            name = tensor.name
            half = numpy_helper.from_array(values.astype(np.float16), f"{name}:float16")
            tensor.CopyFrom(half)
            casts.append(helper.make_node("Cast", [half.name], [name], to=TensorProto.FLOAT))
    nodes = list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend(casts + nodes)


def _quantise_onnx(graph: ModelProto, made: Path, batches: list[NDArray[Any]]) -> None:
    import onnx
    from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        """Hands the crops over, batch by batch."""

        def __init__(self) -> None:
            self._batches = iter(batches)

        def get_next(self) -> dict[str, NDArray[Any]] | None:
            batch = next(self._batches, None)
            return None if batch is None else {graph.graph.input[0].name: batch}

    metadata = list(graph.metadata_props)
    # Constants are folded already; else the quantiser would warn that they may not be.
    graph.metadata_props.add(key="onnx.quant.pre_process", value="onnxruntime.quant")
    # Among depthwise convolutions the channels' ranges differ so much that 8 bits for all lose
    # the embedding (cosine 0.88 for the bundled model): such stems stay in float32.
    depthwise = any(
        attribute.name == "group" and attribute.i > 1
        for node in graph.graph.node
        for attribute in node.attribute
    )
    quantize_static(
        graph,
        str(made),
        Reader(),
        op_types_to_quantize=["MatMul", "Gemm", *(() if depthwise else ("Conv",))],
        per_channel=True,
        weight_type=QuantType.QInt8,
        activation_type=QuantType.QUInt8,
    )
    quantised = onnx.load(made)
    del quantised.metadata_props[:]
    quantised.metadata_props.extend(metadata)
    made.write_bytes(quantised.SerializeToString())


def _write_openvino(
    graph: ModelProto, made: Path, precision: Precision, batches: list[NDArray[Any]]
) -> None:
    try:
        import openvino
    except ImportError:
        raise MissingExtraError("Writing OpenVINO's format", "openvino") from None
    model = openvino.Core().read_model(graph.SerializeToString())
    if precision == "int8":
        try:
            import nncf  # type: ignore[import-untyped]
        except ImportError:
            raise MissingExtraError("Quantising for OpenVINO", "int8") from None
        logging.getLogger("nncf").setLevel(logging.ERROR)
        singles = [batch[n : n + 1] for batch in batches for n in range(len(batch))]
        with contextlib.redirect_stdout(sys.stderr):  # it draws its progress on stdout
            model = nncf.quantize(
                model,
                nncf.Dataset(singles),
                subset_size=len(singles),
                model_type=nncf.ModelType.TRANSFORMER,
            )
    openvino.save_model(model, made, compress_to_fp16=precision == "float16")


def _check(
    opened: Backend,
    fed: list[NDArray[Any]],
    exact: Backend,
    batches: list[NDArray[Any]],
    card: ModelCard,
) -> None:
    """Hold what a file makes of the crops it is fed against what torch makes of the same crops."""
    expected = np.concatenate([exact.run(batch) for batch in batches])
    found = np.concatenate([opened.run(batch) for batch in fed])
    merges = card.architecture.merge > 0
    if far := too_far(expected, found, opened.precision, merges=merges):
        raise CheckpointError(
            f"The {opened.precision} {opened.name} file of '{card.name}' is too far from torch in "
            f"float32 ({len(found)} crops: {far}), so it was not kept."
        )


def _keep(folder: Path, made: list[Path]) -> None:
    with ExitStack() as stack:
        for path in made:
            shutil.copyfile(path, stack.enter_context(replacing(folder / path.name)))
