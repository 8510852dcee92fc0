"""OpenVINO on the CPU: the same `model.onnx`, in float32 or, several times as fast, bfloat16.

OpenVINO reads the graph and, by offset, the weights in `model.safetensors`; nothing is written for
it. On CPUs with AMX or AVX512-BF16, bfloat16 products cost a third or less of float32's time.
"""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from passreid.backends import F32, GRAPH, WEIGHTS, variant
from passreid.backends.graphfile import check_external_data
from passreid.backends.onnx import PIXELS, FolderBackend, graph_metadata, stale
from passreid.card import ModelCard
from passreid.errors import CheckpointError, MissingExtraError, UsageError

_HINTS = {"float32": "f32", "bfloat16": "bf16"}


class OpenVinoBackend(FolderBackend):
    """A compiled network of OpenVINO; threads may share it.

    Args:
        folder: A model folder with `model.onnx`.
        card: Its card, which the graph must have been written for.
        precision: "float32", "bfloat16", or "auto": bfloat16 where the CPU has instructions for it.
        own: Precision of a file with weights of its own, to run in place of `model.onnx`.
        threads: Threads of one run; None is OpenVINO's choice.
        graph: The file, when it is not (yet) in its place.

    Raises:
        CheckpointError: A file is damaged, or the graph was written for other weights or another
            card.
        MissingExtraError: The extra "openvino" is not installed.
        UsageError: Another precision.
    """

    name = "openvino"
    device = "cpu"

    def __init__(
        self,
        folder: Path,
        card: ModelCard,
        *,
        precision: str = "float32",
        own: str | None = None,
        threads: int | None = None,
        graph: Path | None = None,
    ) -> None:
        super().__init__(folder, card, threads)
        try:
            import openvino
        except ImportError:
            raise MissingExtraError("The openvino backend", "openvino") from None
        core = openvino.Core()
        self.precision = own or _choose(core, precision)
        # Pinned threads would fight with those that read the next batch for the same cores.
        config: dict[str, Any] = {
            "INFERENCE_PRECISION_HINT": _HINTS.get(self.precision, "f32"),
            "ENABLE_CPU_PINNING": False,
        }
        if threads:
            config["INFERENCE_NUM_THREADS"] = threads
        graph = graph or folder / (variant(own, "openvino") if own else GRAPH)
        try:
            # Mapped weights would change under a running network when the file is replaced.
            core.set_property({"ENABLE_MMAP": False})
            if graph.suffix == ".onnx":
                check_external_data(graph, graph.read_bytes(), None if own else WEIGHTS)
            model = core.read_model(graph)
            self.normalises = model.input(0).any_name == PIXELS
            expected = graph_metadata(card, folder / WEIGHTS, own=own, pixels=self.normalises)
            if _metadata(model) != expected:
                raise CheckpointError(stale(graph, "it was written for others"))
            card.check_weights(folder / WEIGHTS)
            self._compiled = core.compile_model(model, "CPU", config)
        except OSError as error:
            raise CheckpointError(f"{folder}: cannot be read ({error}).") from None
        except RuntimeError as error:
            reason = str(error).strip().splitlines()[-1]
            raise CheckpointError(stale(graph, reason)) from None
        self._requests = threading.local()

    def run(self, pixels: NDArray[Any]) -> F32:
        """Embed normalised pixels (B, 3, H, W), or what `normalises` says, giving (B, D)."""
        request = getattr(self._requests, "own", None)
        if request is None:
            request = self._requests.own = self._compiled.create_infer_request()
        # A copy: the next run writes into the same memory.
        return np.array(request.infer([pixels], share_inputs=True)[0], np.float32)


def _choose(core: Any, precision: str) -> str:
    if precision == "auto":
        offered = core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        return "bfloat16" if "BF16" in offered else "float32"
    if precision not in _HINTS:
        raise UsageError(
            f"The openvino backend computes in float32 or bfloat16, not in '{precision}'; "
            "use backend='torch'."
        )
    return precision


def _metadata(model: Any) -> dict[str, str]:
    """What the graph's writer said of it (`graph_metadata`)."""
    info = model.get_rt_info()
    written = info["framework"] if "framework" in info else {}  # noqa: SIM401 - no real mapping
    return {key: str(value.astype(str)) for key, value in written.items()}
