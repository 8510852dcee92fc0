"""Read and write weight files as plain data; nothing inside a file is ever executed."""

from __future__ import annotations

import math
import re
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

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
_MAX_NESTING = 8  # a crafted file may hold an entry that is the file itself
DAMAGE = Exception  # parsing a damaged or hostile file can raise anything
_ASK = "ask its author for the PyTorch weights it was made from"
# First bytes of files that are not weights, and what to tell the user; the first match counts.
_OTHER_KINDS = (
    (rb"\Z", "the file is empty; download it again"),
    (rb"version https://git-lfs", "a Git LFS pointer, not the weights; run `git lfs pull` there"),
    (
        rb"\s*<(!doctype html|html)",
        "a web page, not weights; the download link asked for a confirmation. Download the file in "
        "a browser",
    ),
    (rb"(?s)\s*<(\?xml.*<)?net\b", f"an OpenVINO network, not PyTorch weights; {_ASK}"),
    (rb"\x08.{1,16}(pytorch|onnx|tf2)", f"an ONNX graph, not PyTorch weights; {_ASK}"),
    (rb"\x89HDF", f"an HDF5 file (Keras), not PyTorch weights; {_ASK}"),
    (rb"[\t\n\r\f\x20-\xff]*\Z", "not a weight file (text)"),
)


class Contents(NamedTuple):
    """Tensors of a weight file, the entries they were nested in, and the entries passed over."""

    tensors: dict[str, Tensor]
    chosen: tuple[str, ...] = ()
    others: tuple[str, ...] = ()


class _Inert:
    """Stands in for harmless classes that training scripts save beside the weights."""

    def __init__(self, *_: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        pass


# Replaced by `_Inert` on reading, so their code never runs. DINO scripts save their options (a
# Namespace), cluster contrast its best mAP (a NumPy scalar).
_INERT_NAMES = (
    "argparse.Namespace",
    "numpy.dtype",
    "numpy.core.multiarray.scalar",
    "numpy._core.multiarray.scalar",
)


def read_tensors(path: Path, *, role: Role = "auto") -> Contents:
    """Read a safetensors or PyTorch file (zip or bare pickle), told apart by its first bytes.

    `role` picks a network of a self-supervised checkpoint; "auto" prefers the teacher.
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
                f"{path}: damaged or truncated safetensors file ({error}); download it again."
            ) from None
    elif head.startswith((b"PK\x03\x04", b"\x80")):
        contents = _unwrap(path, _unpickle(path, zipped=head.startswith(b"PK")), role)
    else:
        kinds = (kind for start, kind in _OTHER_KINDS if re.match(start, head, re.IGNORECASE))
        kind = next(kinds, "not a weight file (neither safetensors nor a PyTorch file)")
        if head and path.with_suffix(".xml").is_file():
            kind = f"the tensors of an OpenVINO network, not PyTorch weights; {_ASK}"
        raise CheckpointError(f"{path}: {kind}.")
    if role != "auto" and role not in contents.chosen:
        raise CheckpointError(f"{path}: has no '{role}' entry.")
    return contents


def _unpickle(path: Path, *, zipped: bool) -> Any:
    version = tuple(int(number) for number in re.findall(r"\d+", torch.__version__)[:2])
    if version < _SAFE_TORCH:
        raise CheckpointError(
            f"{path}: a crafted file of this kind can corrupt the memory of torch "
            f"{torch.__version__} (CVE-2026-24747); upgrade to torch 2.10 or newer, or use "
            "safetensors."
        )
    try:
        if zipped:
            check_zip(path)
        inert: list[Any] = [(_Inert, name) for name in _INERT_NAMES]
        with warnings.catch_warnings(), torch.serialization.safe_globals(inert):
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True)
    except DAMAGE as error:
        if _is_torchscript(path):
            reason = (
                "a TorchScript program, which passreid does not run. Where it was made, save its "
                "weights: torch.save(torch.jit.load(FILE).state_dict(), 'weights.pth')"
            )
        elif found := re.search(r"GLOBAL (\S+)", str(error)):
            reason = (
                f"refused, because reading it would run code ({found[1]}). Ask its author for a "
                "plain state dict or a safetensors file"
            )
        else:
            first = str(error).split("\n")[0][:120]
            reason = f"damaged or truncated PyTorch file ({first}); download it again"
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
    while isinstance(value, Mapping) and len(chosen) < _MAX_NESTING:
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
        # A tensor that claims more values than its storage holds could exhaust all memory.
        plain = tensor.layout == torch.strided and not (tensor.is_quantized or tensor.is_complex())
        if not plain or tensor.untyped_storage().nbytes() < tensor.numel() * tensor.element_size():
            raise CheckpointError(f"{path}: '{name}' is not a plain dense tensor.")
    others += [str(key) for key in value if str(key) not in tensors]
    return Contents(tensors, tuple(chosen), tuple(others))


def is_finite(tensor: Tensor) -> bool:
    """Return whether a tensor holds neither NaN nor infinity."""
    if not tensor.is_floating_point() or not tensor.numel():
        return True
    # min and max propagate NaN, and take a tenth of the time of `isfinite` on every value.
    low, high = torch.aminmax(tensor.float())
    return math.isfinite(low) and math.isfinite(high)


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write contiguous CPU tensors as safetensors or, by any other suffix, with `torch.save`."""
    if path.suffix != ".safetensors":
        write_pickle(path, dict(tensors))
        return
    try:
        save_file(dict(tensors), path, metadata={"format": "pt"})
    except SafetensorError as error:  # how safetensors reports a full disk
        raise OSError(str(error)) from None


def write_pickle(path: Path, content: object) -> None:
    """Call `torch.save`, raising OSError when the disk is full."""
    try:
        torch.save(content, path)
    except RuntimeError as error:
        raise OSError(str(error).split("\n")[0]) from None
