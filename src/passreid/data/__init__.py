"""Data sets: what they are, how they are read from disk, and synthetic ones that can be drawn."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from passreid.data.dataset import ReIDDataset, Sample, relabel
from passreid.data.readers import READERS, read_dataset

if TYPE_CHECKING:
    from passreid.data.figure import draw_person
    from passreid.data.street import draw_frame
    from passreid.data.synthetic import make_synthetic

__all__ = [
    "READERS",
    "ReIDDataset",
    "Sample",
    "draw_frame",
    "draw_person",
    "make_synthetic",
    "read_dataset",
    "relabel",
]

# Drawing needs Pillow and reading does not: these are imported when they are first used.
_DRAWING = {"draw_frame": "street", "draw_person": "figure", "make_synthetic": "synthetic"}


if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        """Resolve the drawing half."""
        if name in _DRAWING:
            return getattr(importlib.import_module(f"{__name__}.{_DRAWING[name]}"), name)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
