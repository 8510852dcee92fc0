"""The report of what became of every tensor of a weight file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from passreid.checkpoint.positions import Grid


@dataclass(frozen=True, kw_only=True)
class LoadReport:
    """What became of every tensor of a weight file, and what the file does not say. Print it.

    Attributes:
        source: The file.
        format: Its layout's name.
        sha256: Of the file, as hex.
        loaded: How many of its tensors the model now holds.
        set_aside: Reason -> names of those it does not.
        resized: Old and new (rows, columns) of the position table, if it was resampled.
        initialised: What the model has and the file had not, and how it was filled.
        assumed: Arguments of `load_checkpoint` that neither the file nor the caller gave -> the
            value taken.
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
        """What was assumed, spelled as command-line options; "" for nothing."""
        return spell_options(self.assumed)

    def __str__(self) -> str:
        """Return a few lines for people."""
        lines = [f"{self.source} ({self.format}, sha256 {self.sha256[:12]})"]
        lines.append(f"  loaded: {self.loaded} tensors, strictly")
        for reason, names in self.set_aside.items():
            lines.append(f"  set aside: {spell_out(names, 3)} ({reason})")
        if self.resized:
            old, new = (f"{rows}x{columns}" for rows, columns in self.resized)
            lines.append(f"  resized: positions {old} -> {new}, bilinear")
        lines += [f"  initialised: {what}" for what in self.initialised]
        if self.assumed:
            lines.append(f"  assumed: {self.assumptions}")
        return "\n".join(lines)


def spell_options(values: Mapping[str, Any]) -> str:
    """Spell arguments as command-line options: ``--image-size 256 128 --heads 12``."""
    words = []
    for name, value in values.items():
        numbers = value if isinstance(value, tuple) else (value,)
        words += [f"--{name.replace('_', '-')}", *map(str, numbers)]
    return " ".join(words)


def spell_out(names: Sequence[str], limit: int) -> str:
    """Join the first names of a list and count the rest."""
    rest = len(names) - limit
    return ", ".join(names[:limit]) + (f" and {rest} more" if rest > 0 else "")
