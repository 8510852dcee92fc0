"""A model's card: architecture, preprocessing, calibration and provenance, as in `model.json`.

Nothing here needs torch, so ONNX Runtime, the command line and galleries can read cards without it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from passreid.config import build, plain, read_json
from passreid.errors import CheckpointError, ConfigError
from passreid.openset import Calibration
from passreid.storage import sha256

FORMAT = 1
HALF = (0.5, 0.5, 0.5)
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

Stem = Literal["none", "ics", "conv4", "lite0"]
STEM_STRIDE: Mapping[str, int] = {"none": 1, "ics": 2, "conv4": 4, "lite0": 8}
Pooling = Literal["cls", "avg", "max", "avg_max", "gem", "jpm"]
JPM_BRANCHES = 4
# Far beyond existing networks: a damaged or hostile card is refused before anything is built.
_MAXIMUM: Mapping[str, int] = {
    "width": 2**14,
    "depth": 2**8,
    "mlp_ratio": 2**6,
    "parts": 2**8,
    "image_size": 2**13,
    "num_classes": 2**26,
}


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """A plain ViT with one CLS and P part tokens, and the neck behind it.

    Attributes:
        width: Token width D.
        depth: Number of transformer blocks.
        heads: Number of attention heads; must divide `width`.
        mlp_ratio: Hidden width of a block's MLP over D.
        parts: Number of part tokens P; 0 is a plain ViT.
        image_size: Input (height, width) in pixels.
        patch_size: Side of a square patch in pixels.
        stride: Step between patches (rows, columns) in pixels; patches overlap below `patch_size`.
        stem: Layers before the patch projection: none, the IBN convolutions of TransReID-SSL
            ("ics", stride 2), four 3x3 convolutions ("conv4", stride 4), or the first five stages
            of EfficientNet-Lite0, the fourth without its stride ("lite0", stride 8).
        pooling: The image token of a network without part tokens: CLS; the mean or maximum of the
            patches; "avg_max", the mean over maxima of four consecutive patches (PersonViT); "gem",
            CLS plus the generalised mean of the patches; "jpm", CLS and TransReID's four jigsaw
            branches.
        neck: "multi" normalises each token, "single" the fused feature.
        fusion: "cat" concatenates CLS and the mean of the parts (2 D), "mean" averages them.
        feature: The side of the neck that is the embedding: "before", "after", or "normalized"
            (after, scaled to unit length: each token for "multi", the fused feature for "single").
        num_classes: Rows of the identity classifier stored with the weights; 0 for none.
        merge: Patch tokens that each block but the last merges into others when embedding, see
            `merging`; 0 for none.
    """

    width: int = 384
    depth: int = 12
    heads: int = 6
    mlp_ratio: float = 4.0
    parts: int = 3
    image_size: tuple[int, int] = (256, 128)
    patch_size: int = 16
    stride: tuple[int, int] = (16, 16)
    stem: Stem = "none"
    pooling: Pooling = "cls"
    neck: Literal["multi", "single"] = "multi"
    fusion: Literal["cat", "mean"] = "cat"
    feature: Literal["before", "after", "normalized"] = "before"
    num_classes: int = 0
    merge: int = 0

    def __post_init__(self) -> None:
        """Reject numbers that no network can be built from."""
        for name in ("width", "depth", "heads", "patch_size", "mlp_ratio"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be positive, not {getattr(self, name)}")
        for name, most in _MAXIMUM.items():
            value = getattr(self, name)
            if not max(value if isinstance(value, tuple) else (value,)) <= most:  # also NaN
                raise ValueError(f"{name} is {value}; a network has at most {most:,}")
        if min(self.parts, self.num_classes, self.merge) < 0:
            raise ValueError("parts, num_classes and merge must not be negative")
        if self.width % self.heads:
            raise ValueError(f"heads ({self.heads}) must divide width ({self.width})")
        step = STEM_STRIDE[self.stem]
        if self.patch_size % step or any(s <= 0 or s % step for s in self.stride):
            raise ValueError(
                f"patch_size and stride must be multiples of {step} (stem {self.stem})"
            )
        if min(self.image_size) < self.patch_size:
            raise ValueError(f"image_size {self.image_size} is smaller than a patch")
        if self.pooling != "cls" and (self.parts or self.merge):
            raise ValueError(f"pooling '{self.pooling}' excludes part tokens and merging")
        if self.pooling == "avg_max" and math.prod(self.grid) % 4:
            raise ValueError(f"pooling 'avg_max' needs a multiple of 4 patches, not {self.grid}")

    def adjusted(
        self, *, parts: int | None, image_size: tuple[int, int] | None, **changes: Any
    ) -> Architecture:
        """Return a copy with a recipe's changes; None keeps `parts` or `image_size`.

        Raises:
            ConfigError: No such network can be built.
        """
        parts = self.parts if parts is None else parts
        try:
            return replace(self, parts=parts, image_size=image_size or self.image_size, **changes)
        except ValueError as error:
            raise ConfigError(f"{error}.") from None

    @property
    def grid(self) -> tuple[int, int]:
        """Patch rows and columns; never assumed square."""
        rows, columns = (
            (side - self.patch_size) // step + 1
            for side, step in zip(self.image_size, self.stride, strict=True)
        )
        return rows, columns

    @property
    def branches(self) -> int:
        """Number of tokens in the embedding: CLS and parts, or CLS and JPM's branches."""
        return 1 + (JPM_BRANCHES if self.pooling == "jpm" else self.parts)

    @property
    def dim(self) -> int:
        """Width of the embedding."""
        if self.pooling == "jpm":
            return self.width * self.branches
        return self.width * (2 if self.fusion == "cat" and self.parts else 1)

    @property
    def neck_width(self) -> int:
        """Width of the neck: of all tokens for "multi", of the embedding for "single"."""
        return self.width * self.branches if self.neck == "multi" else self.dim


PRESETS: Mapping[str, Architecture] = {
    "tiny": Architecture(
        width=192, heads=3, image_size=(128, 64), patch_size=8, stride=(8, 8), stem="conv4"
    ),
    "hybrid": Architecture(
        width=192, depth=4, heads=3, image_size=(128, 64), patch_size=8, stride=(8, 8), stem="lite0"
    ),
    "small": Architecture(),
    "base": Architecture(width=768, heads=12),
}


@dataclass(frozen=True, kw_only=True)
class External:
    """A network that passreid did not write, as a file beside the card.

    Attributes:
        file: Name of the .onnx or .xml file.
        channel_order: Order in which the network wants channels; mean and std are RGB.
        largest: Value of a white pixel before normalisation: 1 or 255.
        output: Name of the output that is the embedding; None for the only one.
    """

    file: str
    channel_order: Literal["rgb", "bgr"] = "rgb"
    largest: float = 1.0
    output: str | None = None


@dataclass(frozen=True, kw_only=True)
class ModelCard:
    """A model's description, stored as `model.json`.

    Attributes:
        name: Short name, as shown to users.
        architecture: The network.
        mean, std: Normalisation per RGB channel of pixels in [0, 1].
        interpolation: Filter that resizes crops to the input size (Pillow's).
        calibration: Same-person probability and thresholds; None when never fitted.
        training_data: Data the weights were trained on, in words.
        trained_on: Names (`ReIDDataset.name`) of the labelled training sets; empty when unknown.
            Distinguishes in-domain from out-of-domain scores.
        licence: Terms of the weights (not of the code).
        description: One paragraph for people.
        scores: Measured figures by name, e.g. ``"Market-1501 mAP"``.
        external: Set for a network of another project; `architecture` then only holds the input
            size and, as its width, that of the embedding.
        weights_sha256: Digest of the `model.safetensors` beside the card; "" skips the check.
        format: Version of this file's layout.
    """

    name: str
    architecture: Architecture = field(default_factory=Architecture)
    mean: tuple[float, float, float] = HALF
    std: tuple[float, float, float] = HALF
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"
    calibration: Calibration | None = None
    training_data: str = "unknown"
    trained_on: tuple[str, ...] = ()
    licence: str = "unknown"
    description: str = ""
    scores: Mapping[str, float] = field(default_factory=dict)
    external: External | None = None
    weights_sha256: str = field(default="", compare=False)
    format: int = FORMAT

    def __post_init__(self) -> None:
        """Reject a newer layout and a normalisation that divides by zero."""
        if self.format > FORMAT:
            raise ValueError(
                f"format {self.format} is newer than this passreid reads ({FORMAT}): upgrade"
            )
        if not all(value > 0 for value in self.std):  # also rejects NaN
            raise ValueError("std must be positive")

    def with_calibration(self, calibration: Calibration) -> ModelCard:
        """Return the same card with a calibration."""
        return replace(self, calibration=calibration)

    def with_width(self, width: int) -> ModelCard:
        """Return the same card for embeddings of another width (external networks)."""
        return replace(self, architecture=replace(self.architecture, width=width))

    def check_weights(self, path: Path, digest: str | None = None) -> None:
        """Raise CheckpointError when a `model.safetensors` does not match the card's digest.

        `digest` is the file's SHA-256 if it is known already.
        """
        if self.weights_sha256 and (digest or sha256(path)) != self.weights_sha256:
            raise CheckpointError(
                f"{path}: does not belong to the model.json beside it (its SHA-256 differs), so it "
                "is damaged or was replaced. Copy the model folder again, or remove weights_sha256 "
                "from model.json if you changed the weights yourself."
            )

    def to_json(self) -> str:
        """Return the text of `model.json`."""
        return json.dumps(plain(self), indent=2, ensure_ascii=False) + "\n"

    @staticmethod
    def from_mapping(values: Mapping[str, Any], *, where: str) -> ModelCard:
        """Build a card from plain data; a ConfigError names `where` and the key."""
        return build(ModelCard, values, where=where)

    @staticmethod
    def read(path: Path) -> ModelCard:
        """Read a `model.json`; raise ConfigError when it is missing or invalid."""
        return ModelCard.from_mapping(read_json(path), where=str(path))
