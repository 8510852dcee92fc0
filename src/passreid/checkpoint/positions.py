"""Position tables: another patch grid, and part tokens for a network that never had any."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from passreid.errors import CheckpointError

Grid = tuple[int, int]

# Height over width of the grids that published files use: person crops 2 (256x128) and 3
# (384x128), squares 1. No number of patches fits two of these ratios (a 2 b² is never a square),
# so the grid follows from the number alone.
RATIOS = (2, 3, 1)


def grid_of(patches: int, ratios: tuple[int, ...] = RATIOS) -> Grid | None:
    """Return the (rows, columns) of a number of patches, or None when no ratio fits it."""
    for ratio in ratios:
        columns = math.isqrt(max(patches, 0) // ratio)
        if columns and ratio * columns * columns == patches:
            return ratio * columns, columns
    return None


def add_camera(table: Tensor, embeddings: Tensor, camera: int | None, weight: float) -> Tensor:
    """Add a camera's embedding to every position: TransReID's side information (SIE), exactly.

    Args:
        table: (1, N, D).
        embeddings: (cameras, 1, D).
        camera: From 0.
        weight: Factor of the embedding.

    Raises:
        CheckpointError: No camera, or one that the file does not know.
    """
    if camera is None or not 0 <= camera < len(embeddings):
        raise CheckpointError(
            "TransReID with side information (SIE): embeddings depend on the camera. Say whose "
            f"they are with --sie-camera (sie_camera=), 0 to {len(embeddings) - 1}; load once for "
            "each camera."
        )
    return table + weight * embeddings[camera]


def resize_positions(table: Tensor, old_grid: Grid, new_grid: Grid, prefix: int) -> Tensor:
    """Resample a position table to another patch grid, as PASS fine-tuning does.

    Args:
        table: (1, prefix + rows * columns, D), patches row by row.
        old_grid, new_grid: (rows, columns); both said, never guessed from a square root.
        prefix: Rows of special tokens at the head; they are kept as they are.

    Returns:
        (1, prefix + new rows * new columns, D): bilinear, ``align_corners=False``.

    Raises:
        ValueError: The table does not have the rows that `old_grid` and `prefix` say.
    """
    rows, columns = old_grid
    if table.ndim != 3 or table.shape[1] != prefix + rows * columns:
        raise ValueError(
            f"a table of shape {tuple(table.shape)} is not {prefix} + {rows}x{columns} positions"
        )
    if old_grid == new_grid:
        return table
    image = table[:, prefix:].unflatten(1, old_grid).permute(0, 3, 1, 2)
    image = F.interpolate(image, size=new_grid, mode="bilinear", align_corners=False)
    return torch.cat([table[:, :prefix], image.permute(0, 2, 3, 1).flatten(1, 2)], dim=1)


def parts_from_cls(cls: Tensor, table: Tensor, grid: Grid, parts: int) -> tuple[Tensor, Tensor]:
    """Give a plain ViT its part tokens: CLS again, each placed in its own band of the image.

    A part token is a copy of CLS. Its position is that of CLS, moved by how the mean position of
    the part's band differs from the mean of all patches: copies alone would stay equal for ever,
    and noise says nothing of where to look. Bands are half the height, evenly spread from top to
    bottom (upper, middle, lower for three, as in PASS pre-training).

    Args:
        cls: (1, 1, D).
        table: (1, 1 + rows * columns, D), CLS first.
        grid: (rows, columns) of the table.
        parts: Number of part tokens.

    Returns:
        Part tokens (1, parts, D) and the table with their rows, (1, 1 + parts + rows * columns, D).
    """
    image = table[:, 1:].unflatten(1, grid)
    mean = image.mean(dim=(1, 2))
    height = math.ceil(grid[0] / 2)
    rows = []
    for part in range(parts):
        top = round(part * (grid[0] - height) / max(parts - 1, 1))
        rows.append(table[:, 0] + image[:, top : top + height].mean(dim=(1, 2)) - mean)
    positions = torch.cat([table[:, :1], torch.stack(rows, dim=1), table[:, 1:]], dim=1)
    return cls.repeat(1, parts, 1), positions
