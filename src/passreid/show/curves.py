"""Training curves of a run folder as one PNG."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from passreid.errors import MissingExtraError, TrainingError
from passreid.storage import replacing

PANELS: Mapping[str, tuple[str, ...]] = {
    "loss": ("loss", "identity", "triplet"),
    "collapse watch": ("teacher_entropy", "feature_std"),
    "clusters": ("clusters", "unclustered"),
    "accuracy on the training batch": ("accuracy",),
    "learning rate": ("lr",),
    "held-out score": ("mAP", "rank1"),
}
"""Panels and the keys of `metrics.jsonl` they show; a panel without values is left out."""


def draw_curves(run: Path, output: Path) -> None:
    """Draw losses, accuracy, learning rate and scores of a run against its steps.

    Args:
        run: A run folder with `metrics.jsonl`.
        output: PNG to write.

    Raises:
        TrainingError: The run has logged nothing yet.
        MissingExtraError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise MissingExtraError("Drawing curves", "torch") from None
    lines = _read(run / "metrics.jsonl")
    series = {
        key: [(line["step"], line[key]) for line in lines if key in line]
        for keys in PANELS.values()
        for key in keys
    }
    panels = {title: [k for k in keys if series[k]] for title, keys in PANELS.items()}
    panels = {title: keys for title, keys in panels.items() if keys}
    figure = Figure(figsize=(5 * len(panels), 3.6), layout="constrained")
    for axes, (title, keys) in zip(
        figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True
    ):
        for key in keys:
            steps, values = zip(*series[key], strict=True)
            axes.plot(
                steps,
                values,
                label=key,
                linewidth=1.4,
                marker="o" if len(steps) < 30 else None,
                markersize=3,
            )
        axes.set_title(title, fontsize=10)
        axes.set_xlabel("step")
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, fontsize=8)
    figure.suptitle(run.resolve().name, fontsize=11)
    with replacing(output) as temporary:
        figure.savefig(temporary, dpi=130)


def _read(path: Path) -> list[dict[str, Any]]:
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    if not lines:
        raise TrainingError(f"{path}: nothing has been logged yet.")
    return [json.loads(line) for line in lines]
