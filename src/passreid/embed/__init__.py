"""Images to embeddings, over ONNX Runtime, OpenVINO or torch.

embedder = load("passreid-tiny")
embedder(images)                           -> float32 (N, D), one row per image
embedder.embed(images, on_error="skip")    -> Embedded: rows, their indices, skipped images
embedder.stream(images)                    -> the same batch by batch, for endless generators
embedder.boxes(frame, xyxy)                -> float32 (N, D), one row per box of a frame
embedder.embed_pixels(crops)               -> float32 (N, D) of uint8 crops from `read_crop`
embedder.attend(images)                    -> float32 (N, 1 + P, rows, columns), attention maps
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from passreid.backends import BackendName, Precision, open_network, own_files
from passreid.embed.boxes import BoxFormat, cut_boxes
from passreid.embed.embedder import Embedded, Embedder, OnError, Skipped, read_crop, resize_crop
from passreid.hub import resolve

__all__ = [
    "DEFAULT_MODEL",
    "BoxFormat",
    "Embedded",
    "Embedder",
    "OnError",
    "Skipped",
    "cut_boxes",
    "load",
    "read_crop",
    "resize_crop",
]

DEFAULT_MODEL = "passreid-tiny"


def load(
    name_or_path: str | Path = DEFAULT_MODEL,
    *,
    backend: BackendName = "auto",
    device: str = "auto",
    precision: Precision = "float32",
    batch_size: int = 32,
    flip: bool = False,
    threads: int | None = None,
    offline: bool | None = None,
    **overrides: Any,
) -> Embedder:
    """Load a model.

    Args:
        name_or_path: A bundled model's name, a model folder, a weight file of any layout passreid
            knows, or a ModelScope or Hugging Face id (`hub.resolve`).
        backend: "onnx" (ONNX Runtime) and "openvino" run an exported model folder on the CPU;
            "torch" runs everything else. "auto" is the fastest one installed for `device` and
            `precision`, and "onnx" for float32.
        device: "cpu", "cuda", "cuda:1", "mps"; "auto" is the fastest one the backend can use.
        precision: "float32" is exact. "bfloat16" and "float16" are faster where the hardware has
            them and change cosines in the third digit; "int8" runs the file that `passreid export`
            wrote into the folder; "auto" chooses among the first three (repr says what).
        batch_size: Crops per run of the network.
        flip: Average each embedding with that of the mirrored image, for twice the work.
        threads: Threads for reading and for the network; None is up to 4 and the backend's own.
        offline: Never use the network; None asks the environment (`hub.resolve`).
        overrides: Options a weight file does not hold, such as image_size, stride, heads or mean
            (`checkpoint.Overrides`). They need torch; None counts as not given.

    Raises:
        ModelNotFoundError: There is no model of that name.
        CheckpointError, ConfigError: The weights or the card are damaged, unsafe or do not match.
        MissingExtraError: An optional dependency is not installed.
        UsageError: An unknown or impossible option.
    """
    path = resolve(name_or_path, offline=offline, also=own_files(backend, precision))
    card, network = open_network(
        path,
        backend=backend,
        device=device,
        precision=precision,
        threads=threads,
        overrides={name: value for name, value in overrides.items() if value is not None},
    )
    workers = threads or min(4, os.cpu_count() or 1)
    return Embedder(network, card, batch_size, flip, workers, source=path)
