"""Position tables: resample to another patch grid, and add rows for part tokens."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

Grid = tuple[int, int]

# Height over width of the grids that published files use: person crops 2 (256x128) and 3
# (384x128), squares 1. No number of patches fits two of these ratios (a 2 b² is never a square),
# so the grid follows from the number alone.
_RATIOS = (2, 3, 1)


def grid_of(patches: int) -> Grid | None:
    """Return the (rows, columns) of a number of patches, or None when no ratio fits it."""
    for ratio in _RATIOS:
        columns = math.isqrt(max(patches, 0) // ratio)
        if columns and ratio * columns * columns == patches:
            return ratio * columns, columns
    return None


def resize_positions(table: Tensor, old_grid: Grid, new_grid: Grid, prefix: int) -> Tensor:
    """Resample a position table (1, prefix + rows * columns, D) bilinearly, as PASS does.

    Raises:
        ValueError: `old_grid` and `prefix` do not add up to the rows of the table.
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
    """Create part tokens and their positions for a plain ViT.

    A part token is a copy of CLS (1, 1, D). Its position is that of CLS, moved by how the mean
    position of the part's band differs from the mean of all patches: plain copies would get equal
    gradients and never diverge. Bands are half the height and evenly spread from top to bottom
    (upper, middle, lower for three, as in PASS pre-training).

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
