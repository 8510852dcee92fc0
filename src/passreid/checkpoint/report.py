"""The report of what became of every tensor of a weight file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from passreid.checkpoint.positions import Grid


@dataclass(frozen=True, kw_only=True)
class LoadReport:
    """What became of every tensor of a weight file, and what was assumed; print it.

    Attributes:
        source: The file.
        format: Name of its layout.
        sha256: Digest of the file, as hex.
        loaded: Number of its tensors that the model now holds.
        set_aside: Reason -> names of the other tensors and entries.
        resized: Old and new (rows, columns) of the position table, if it was resampled.
        initialised: Tensors of the model that the file lacks, and how they were filled.
        assumed: Arguments of `load_checkpoint` that nothing and nobody stated -> the value used.
    """

    source: str
    format: str
    sha256: str
    loaded: int
    set_aside: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    resized: tuple[Grid, Grid] | None = None
    initialised: tuple[str, ...] = ()
    assumed: Mapping[str, Any] = field(default_factory=dict)

    @property
    def assumptions(self) -> str:
        """The assumed values as command-line options; "" for none."""
        return spell_options(self.assumed)

    def __str__(self) -> str:
        """Return a few lines for people."""
        lines = [f"{self.source} ({self.format}, sha256 {self.sha256[:12]})"]
        lines.append(f"  loaded: {self.loaded} tensors, strictly")
        for reason, names in self.set_aside.items():
            lines.append(f"  set aside: {abbreviate(names, 3)} ({reason})")
        if self.resized:
            old, new = (f"{rows}x{columns}" for rows, columns in self.resized)
            lines.append(f"  resized: positions {old} -> {new}, bilinear")
        lines += [f"  initialised: {what}" for what in self.initialised]
        if self.assumed:
            lines.append(f"  assumed: {self.assumptions}")
        return "\n".join(lines)


def abbreviate(names: Sequence[str], limit: int) -> str:
    """Join the first names of a list and count the rest."""
    rest = len(names) - limit
    return ", ".join(names[:limit]) + (f" and {rest} more" if rest > 0 else "")


def spell_options(values: Mapping[str, Any]) -> str:
    """Format arguments as command-line options: ``--image-size 256 128 --heads 12``."""
    words = []
    for name, value in values.items():
        numbers = value if isinstance(value, tuple) else (value,)
        words += [f"--{name.replace('_', '-')}", *map(str, numbers)]
    return " ".join(words)
