"""Weight files as inert data: named tensors in, files that appear whole or not at all out.

Nothing in a file is ever run. safetensors holds no code; a PyTorch file is unpickled with
``weights_only=True`` and nothing else, and where that refuses, the refusal is the answer.
"""

from __future__ import annotations

import argparse
import math
import re
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from passreid.errors import CheckpointError
from passreid.storage import check_zip

Role = Literal["auto", "teacher", "student"]

# CVE-2026-24747: before 2.10 a crafted file corrupts memory even with weights_only=True.
_SAFE_TORCH = (2, 10)
_WRAPPERS = ("model", "state_dict", "model_state_dict", "net", "params", "module")
_ROLES = {"auto": ("teacher", "student"), "teacher": ("teacher",), "student": ("student",)}
_DEEPEST = 8  # a crafted file may hold an entry that is the file itself
DAMAGE = Exception  # parsing a damaged or hostile file can raise anything
_ASK = "ask its author for the PyTorch weights it was made from"
# How files that are not weights begin, and what they are; the first match is reported.
_OTHER_KINDS = (
    (rb"version https://git-lfs", "a Git LFS pointer, not the weights; run `git lfs pull` there"),
    (
        rb"\s*<(!doctype html|html)",
        "a web page, not weights; the download link asked for a confirmation. Download the file in "
        "a browser",
    ),
    (rb"(?s)\s*<(\?xml.*<)?net\b", f"an OpenVINO network, not PyTorch weights; {_ASK}"),
    (rb"\x08.{1,16}(pytorch|onnx|tf2)", f"an ONNX graph, not PyTorch weights; {_ASK}"),
    (rb"\x89HDF", f"an HDF5 file, as Keras writes, not PyTorch weights; {_ASK}"),
    (rb"[\t\n\r\f\x20-\xff]*\Z", "not a weight file (text)"),
)


@dataclass(frozen=True)
class Contents:
    """The tensors of a weight file, and the entries around them.

    Attributes:
        tensors: By the file's own names.
        chosen: Names of the entries they were found under, outermost first.
        others: Names of the entries passed over (an optimiser's state, the other network).
    """

    tensors: dict[str, Tensor]
    chosen: tuple[str, ...] = ()
    others: tuple[str, ...] = ()


class _Inert:
    """Stands in for harmless classes that training scripts save beside the weights."""

    def __init__(self, *_: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        pass


# The pickle names them; they are never imported, so their code cannot run either. DINO-type scripts
# save their options (a Namespace), cluster contrast its best mAP (a NumPy scalar).
_INERT_NAMES = (
    f"{argparse.Namespace.__module__}.{argparse.Namespace.__qualname__}",
    "numpy.dtype",
    "numpy.core.multiarray.scalar",
    "numpy._core.multiarray.scalar",
)


def read_tensors(path: Path, *, role: Role = "auto") -> Contents:
    """Read a safetensors or PyTorch file (zip or the older bare pickle).

    Args:
        path: The file; its first bytes, not its name, tell what it is.
        role: Which network of a self-supervised checkpoint; "auto" prefers the teacher.

    Raises:
        CheckpointError: Unreadable, not weights, damaged, holding code or no tensors, without the
            role, or a torch too old to read pickles safely.
    """
    try:
        with path.open("rb") as stream:
            head = stream.read(512)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror}).") from None
    if head[8:9] == b"{":
        try:
            contents = Contents(load_file(path))
        except DAMAGE as error:
            raise CheckpointError(
                f"{path}: damaged or cut short safetensors file ({error}); download it again."
            ) from None
    elif head.startswith((b"PK\x03\x04", b"\x80")):
        contents = _unwrap(path, _unpickle(path, zipped=head.startswith(b"PK")), role)
    else:
        raise CheckpointError(f"{path}: {_name_kind(path, head)}.")
    if role != "auto" and role not in contents.chosen:
        raise CheckpointError(f"{path}: has no '{role}' entry.")
    return contents


def _name_kind(path: Path, head: bytes) -> str:
    """Name a file that is neither safetensors nor PyTorch."""
    if not head:
        return "the file is empty; download it again"
    for pattern, kind in _OTHER_KINDS:
        if re.match(pattern, head, re.IGNORECASE):
            return kind
    if path.with_suffix(".xml").is_file():
        return f"the numbers of an OpenVINO network, not PyTorch weights; {_ASK}"
    return "not a weight file (neither safetensors nor a PyTorch file)"


def _unpickle(path: Path, *, zipped: bool) -> Any:
    version = tuple(int(number) for number in re.findall(r"\d+", torch.__version__)[:2])
    if version < _SAFE_TORCH:
        raise CheckpointError(
            f"{path}: torch {torch.__version__} can be made to corrupt memory by a crafted file of "
            "this kind (CVE-2026-24747); upgrade to torch 2.10 or newer, or use safetensors."
        )
    inert = [(_Inert, name) for name in _INERT_NAMES]
    try:
        if zipped:
            check_zip(path)
        with warnings.catch_warnings(), torch.serialization.safe_globals([*inert]):
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True)
    except DAMAGE as error:
        if _is_torchscript(path):
            reason = (
                "a TorchScript program, which passreid does not run. Save its weights where it was "
                "made: torch.save(torch.jit.load(FILE).state_dict(), 'weights.pth')"
            )
        elif found := re.search(r"GLOBAL (\S+)", str(error)):
            reason = (
                f"refused, reading it would run code ({found[1]}). Ask its author for a plain "
                "state dict or a safetensors file"
            )
        else:
            first = str(error).split("\n")[0][:120]
            reason = f"damaged or cut short PyTorch file ({first}); download it again"
        raise CheckpointError(f"{path}: {reason}.") from None


def _is_torchscript(path: Path) -> bool:
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.endswith("/constants.pkl") for name in archive.namelist())
    except DAMAGE:
        return False


def _unwrap(path: Path, value: Any, role: Role) -> Contents:
    """Follow ``model``, ``state_dict`` and ``teacher``/``student`` down to named tensors."""
    chosen: list[str] = []
    others: list[str] = []
    while isinstance(value, Mapping) and len(chosen) < _DEEPEST:
        inner = [key for key in (*_WRAPPERS, *_ROLES[role]) if isinstance(value.get(key), Mapping)]
        if not inner:
            break
        chosen.append(inner[0])
        others += [str(key) for key in value if key != inner[0]]
        value = value[inner[0]]
    if not isinstance(value, Mapping):
        raise CheckpointError(f"{path}: holds a {type(value).__name__}, not named tensors.")
    tensors = {str(key): item for key, item in value.items() if isinstance(item, Tensor)}
    if not tensors and (role == "auto" or role in chosen):
        keys = ", ".join(str(key) for key in list(value)[:8]) or "nothing"
        raise CheckpointError(f"{path}: holds no named tensors (found: {keys}).")
    for name, tensor in tensors.items():
        # What claims more numbers than the file holds could ask for all memory.
        plain = tensor.layout == torch.strided and not (tensor.is_quantized or tensor.is_complex())
        if not plain or tensor.untyped_storage().nbytes() < tensor.numel() * tensor.element_size():
            raise CheckpointError(f"{path}: '{name}' is not a plain dense tensor.")
    others += [str(key) for key in value if str(key) not in tensors]
    return Contents(tensors, tuple(chosen), tuple(others))


def is_finite(tensor: Tensor) -> bool:
    """Whether no number is NaN or infinite."""
    if not tensor.is_floating_point() or not tensor.numel():
        return True
    # Extremes carry NaN along, in a tenth of the time that looking at each number takes.
    low, high = torch.aminmax(tensor.float())
    return math.isfinite(low) and math.isfinite(high)


def write_tensors(path: Path, tensors: Mapping[str, Tensor], wrapper: Mapping[str, Any]) -> None:
    """Write tensors as safetensors or, by any other suffix, with `torch.save`.

    Args:
        path: A temporary name from `storage.replacing`; its last suffix is the final file's.
        tensors: Contiguous CPU tensors.
        wrapper: Entries beside ``"state_dict"``; empty writes the tensors flat (torch only).
    """
    if path.suffix == ".safetensors":
        try:
            save_file(dict(tensors), path, metadata={"format": "pt"})
        except SafetensorError as error:  # how safetensors reports a full disk
            raise OSError(str(error)) from None
    else:
        write_pickle(path, {"state_dict": dict(tensors), **wrapper} if wrapper else dict(tensors))


def write_pickle(path: Path, content: object) -> None:
    """`torch.save`, where a full disk is the OSError it should be."""
    try:
        torch.save(content, path)
    except RuntimeError as error:
        raise OSError(str(error).split("\n")[0]) from None
