"""Data sets: read from disk, or drawn."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from passreid.data.dataset import ReIDDataset, Sample, relabel
from passreid.data.readers import READERS, read_dataset

if TYPE_CHECKING:
    from passreid.data.synthetic import make_synthetic

__all__ = ["READERS", "ReIDDataset", "Sample", "make_synthetic", "read_dataset", "relabel"]


if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        """Import `make_synthetic` on first use: drawing needs Pillow, reading does not."""
        if name != "make_synthetic":
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from passreid.data.synthetic import make_synthetic

        return make_synthetic
