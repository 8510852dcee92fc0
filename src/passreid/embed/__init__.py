"""Images in, embeddings out: the one face over ONNX Runtime, OpenVINO and torch.

    embedder = load("passreid-tiny")
    embedder(images)                           -> float32 (N, D), a row for each image
    embedder.embed(images, on_error="skip")    -> Embedded: rows, whose they are, what has none
    embedder.stream(images)                    -> the same batch by batch, for endless generators
    embedder.boxes(frame, xyxy)                -> float32 (N, D), a row for each box of a frame
    embedder.attend(images)                    -> float32 (N, 1 + P, rows, columns), where it looks

Pictures are read and resized in a few threads ahead of the network, never more than three batches.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from passreid.backends import BackendName, Precision, open_network, own_files
from passreid.embed.embedder import Embedder, OnError
from passreid.embed.result import Embedded, Skipped
from passreid.hub import resolve

__all__ = ["DEFAULT_MODEL", "Embedded", "Embedder", "OnError", "Skipped", "load"]

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
        backend: "onnx" (ONNX Runtime) and "openvino" run a folder's `model.onnx` on the CPU, the
            first in float32, the second also in bfloat16, or other files that `passreid export`
            wrote; "torch" is everything else. "auto" is the fastest one installed for `device` and
            `precision`, and "onnx" for float32.
        device: "cpu", "cuda", "cuda:1", "mps"; "auto" is the fastest one the backend can use.
        precision: "float32" is exact. "bfloat16" and "float16" are faster where the hardware has
            them and change cosines in the third digit; "int8" runs the file that `passreid export`
            wrote into the folder; "auto" chooses among the first three (repr says what).
        batch_size: Images the network sees at a time.
        flip: Average each embedding with that of the mirrored image: twice the work.
        threads: Threads for reading and for the network; None is up to 4 and the backend's own.
        offline: Never use the network; None asks the environment (`hub.resolve`).
        overrides: What a weight file does not say, over what its configuration says; None is not
            given (`checkpoint.Overrides`): image_size, stride, heads, neck, fusion, feature,
            pooling, merge, mean, std, interpolation, sie_camera, sie_weight. They need torch.

    Raises:
        ModelNotFoundError: The name leads to nothing.
        CheckpointError, ConfigError: The weights or the card are damaged, unsafe or do not fit.
        MissingExtraError: It needs torch, which is not installed.
        UsageError: An option that does not exist here.
    """
    workers = threads or min(4, os.cpu_count() or 1)
    path = resolve(name_or_path, offline=offline, also=own_files(backend, precision))
    card, network = open_network(
        path,
        backend=backend,
        device=device,
        precision=precision,
        threads=threads,
        overrides={name: value for name, value in overrides.items() if value is not None},
    )
    return Embedder(network, card, batch_size, flip, workers, source=path)
