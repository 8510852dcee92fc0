"""torch: any device, any precision, any checkpoint that passreid can read."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from passreid.backends import F32, digest_tensors
from passreid.errors import UsageError
from passreid.model import PartViT

_DTYPES = {"float32": None, "bfloat16": torch.bfloat16, "float16": torch.float16}


class TorchBackend:
    """A PartViT in evaluation mode on one device.

    Args:
        model: The network; it is moved to the device.
        device: "cpu", "cuda", "cuda:1", "mps"; None or "auto" is the first of CUDA, MPS and the CPU
            that is there.
        precision: "float32" is exact; "bfloat16" and "float16" compute products in that type, with
            float32 weights, sums and outputs (autocast); "auto" is what is fast without a loss that
            shows in a ranking: bfloat16 where the device computes it, else float16 on CUDA, else
            float32.
        threads: Threads of torch on the CPU, for the whole process; None leaves them alone.

    Raises:
        UsageError: An unknown device or precision, or a device that is not there.
    """

    name = "torch"
    normalises = False
    attends = True

    def __init__(
        self,
        model: PartViT,
        *,
        device: str | None = None,
        precision: str = "float32",
        threads: int | None = None,
    ) -> None:
        if threads is not None:
            torch.set_num_threads(threads)
        self._device = find_device(device or "auto")
        self._dtype = find_dtype(precision, self._device)
        self._model = model.eval().requires_grad_(False).to(self._device)

    @property
    def device(self) -> str:
        """Where it runs."""
        return str(self._device)

    @property
    def precision(self) -> str:
        """What products are computed in."""
        return next(name for name, dtype in _DTYPES.items() if dtype is self._dtype)

    @cached_property
    def weights_digest(self) -> str:
        """Digest of the weights (`backends.digest_tensors`)."""
        state = {name: t.cpu().numpy() for name, t in self._model.state_dict().items()}
        return digest_tensors(self._model.architecture, state)

    def run(self, pixels: NDArray[Any]) -> F32:
        """Embed normalised pixels (B, 3, H, W), giving (B, D)."""
        return self._compute(self._model, pixels)

    def attend(self, pixels: F32) -> F32:
        """Return where CLS and parts look, (B, 1 + P, rows, columns)."""
        return self._compute(self._model.attend, pixels)

    def _compute(self, network: Callable[[torch.Tensor], torch.Tensor], pixels: F32) -> F32:
        with ExitStack() as stack:
            stack.enter_context(torch.inference_mode())
            if self._dtype is not None:
                stack.enter_context(torch.autocast(self._device.type, self._dtype))
            elif self._device.type == "cuda":
                # cuDNN would round float32 convolutions to TF32 by itself.
                stack.enter_context(torch.backends.cudnn.flags(enabled=True, allow_tf32=False))
            rows = network(torch.from_numpy(pixels).to(self._device))
        return np.asarray(rows.float().cpu().numpy())


def gpu() -> str | None:
    """Return the first accelerator that torch can use here, or None."""
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else None


def find_device(name: str) -> torch.device:
    """Return a device by name; "auto" is the fastest there is.

    Raises:
        UsageError: There is no such device here.
    """
    if name == "auto":
        return torch.device(gpu() or "cpu")
    cards = torch.cuda.device_count() if torch.cuda.is_available() else 0
    present = ["cpu", *(["cuda"] if cards else []), *(f"cuda:{card}" for card in range(cards))]
    present += ["mps"] if torch.backends.mps.is_available() else []
    if name not in present:
        raise UsageError(f"There is no device '{name}' here; use auto or {', '.join(present)}.")
    return torch.device(name)


def find_dtype(name: str, device: torch.device) -> torch.dtype | None:
    """Return the autocast type of a precision's name on a device; None is plain float32.

    Raises:
        UsageError: An unknown name.
    """
    if name in _DTYPES:
        return _DTYPES[name]
    if name != "auto":
        known = ", ".join([*_DTYPES, "auto"])
        raise UsageError(f"Unknown precision '{name}'; use one of {known}.")
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
    # Every CPU takes bfloat16; those without the instructions convert back and forth, slowly.
    features = torch.cpu.get_capabilities() if device.type == "cpu" else {}
    return torch.bfloat16 if features.get("avx512_bf16") or features.get("amx_bf16") else None


def matrix_product(rows: int, inner: int, columns: int, precision: str) -> Callable[[], object]:
    """Return what multiplies (rows, inner) by (inner, columns) on the CPU, for measuring it."""
    dtype = _DTYPES[precision] or torch.float32
    left, right = torch.ones(rows, inner, dtype=dtype), torch.ones(inner, columns, dtype=dtype)
    # A place of its own for the answer: asking the kernel for one each time doubles the time.
    answer = torch.empty(rows, columns, dtype=dtype)
    return lambda: torch.matmul(left, right, out=answer)
