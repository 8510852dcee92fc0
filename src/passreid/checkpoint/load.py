"""Any published weights -> a PartViT."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple, TypedDict

from passreid.card import ModelCard
from passreid.checkpoint.files import Role
from passreid.checkpoint.positions import parts_from_cls, resize_positions
from passreid.checkpoint.report import LoadReport
from passreid.checkpoint.stored import NATIVE_CARD, Options, blank, locate, read
from passreid.errors import CheckpointError, ModelNotFoundError
from passreid.model import PartViT

if TYPE_CHECKING:
    from typing_extensions import Unpack


class Overrides(TypedDict, total=False):
    """What a caller may say of a foreign file's architecture, over what its shapes tell."""

    image_size: tuple[int, int]
    stride: tuple[int, int]
    heads: int
    neck: Literal["multi", "single"]
    fusion: Literal["cat", "mean"]
    feature: Literal["before", "after", "normalized"]
    merge: int


class Loaded(NamedTuple):
    """A model in evaluation mode, its card, and how it was read."""

    model: PartViT
    card: ModelCard
    report: LoadReport


def load_checkpoint(
    path: str | Path,
    *,
    role: Role = "auto",
    keep_classifier: bool = False,
    hw_ratio: int | None = None,
    **overrides: Unpack[Overrides],
) -> Loaded:
    """Load a model folder or a weight file of any layout passreid knows.

    Args:
        path: A passreid or ModelScope folder, a folder with one weight file, or a weight file.
        role: Which network of a self-supervised checkpoint; "auto" prefers the teacher.
        keep_classifier: Keep the identity classifier; embedding does not need it.
        hw_ratio: Height over width of the file's patch grid where 2, 3 and 1 do not fit it.
        overrides: Parts of the architecture. Another `image_size` or `stride` than the file's
            resamples the position table.

    Raises:
        ModelNotFoundError: Nothing is there.
        CheckpointError: The file is damaged, not safe to read, or does not fit.
        ConfigError: A model.json that is not valid.
    """
    stored = read(
        locate(Path(path)),
        Options(role=role, keep_classifier=keep_classifier, hw_ratio=hw_ratio, overrides=overrides),
    )
    a, final = stored.architecture, stored.card.architecture
    state = dict(stored.state)
    prefix = 1 + a.parts
    state["vit.pos_embed"] = resize_positions(state["vit.pos_embed"], a.grid, final.grid, prefix)
    model = blank(final)
    model.to_empty(device="cpu")
    model.load_state_dict(state, strict=True)
    resized = None if a.grid == final.grid else (a.grid, final.grid)
    return Loaded(model.eval(), stored.card, replace(stored.report, resized=resized))


def load_folder(folder: str | Path) -> tuple[PartViT, ModelCard]:
    """Load a passreid model folder exactly as it was saved.

    Raises:
        ModelNotFoundError, CheckpointError, ConfigError: As `load_checkpoint`.
    """
    if not (Path(folder) / NATIVE_CARD).is_file():
        raise ModelNotFoundError(f"{folder}: not a passreid model folder (no {NATIVE_CARD}).")
    model, card, _ = load_checkpoint(folder, keep_classifier=True)
    return model, card


def initialise(
    model: PartViT,
    path: str | Path,
    *,
    role: Role = "auto",
    hw_ratio: int | None = None,
) -> LoadReport:
    """Start a model's backbone from a file; its neck and classifier stay as they are.

    The position table is resampled to the model's grid. A file without part tokens (DINO, timm,
    TransReID-SSL) gives them as `positions.parts_from_cls` says.

    Args:
        model: Changed in place.
        path, role, hw_ratio: As in `load_checkpoint`.

    Raises:
        ModelNotFoundError, CheckpointError, ConfigError: As `load_checkpoint`; also when the
            file's network has another width, depth, patch, stem or number of parts.
    """
    a = model.architecture
    source = locate(Path(path))
    # Heads cannot be seen in shapes; a passreid folder says its own.
    given = {} if source.card else {"heads": a.heads}
    stored = read(source, Options(role=role, hw_ratio=hw_ratio, overrides=given))
    b = stored.architecture
    for name in ("width", "depth", "heads", "mlp_ratio", "patch_size", "stem"):
        if getattr(a, name) != getattr(b, name):
            theirs, ours = getattr(b, name), getattr(a, name)
            raise CheckpointError(f"{source.weights}: {name} is {theirs}, the model's is {ours}.")
    state = {name: t for name, t in stored.state.items() if name.startswith("vit.")}
    initialised = ["neck and classifier: the model's own, none of the file's"]
    if a.parts != b.parts:
        if b.parts or not a.parts:
            raise CheckpointError(
                f"{source.weights}: has {b.parts} part tokens, the model {a.parts}."
            )
        state["vit.reg_token"], state["vit.pos_embed"] = parts_from_cls(
            state["vit.cls_token"], state["vit.pos_embed"], b.grid, a.parts
        )
        initialised.append(f"{a.parts} part tokens: CLS, placed in their bands")
    state["vit.pos_embed"] = resize_positions(state["vit.pos_embed"], b.grid, a.grid, 1 + a.parts)
    model.vit.load_state_dict({name[4:]: tensor for name, tensor in state.items()}, strict=True)
    return replace(
        stored.report,
        resized=None if a.grid == b.grid else (b.grid, a.grid),
        initialised=tuple(initialised),
    )
