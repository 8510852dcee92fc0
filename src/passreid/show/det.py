"""DET plot: false negatives over false positives of open-set searches, both axes logarithmic."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from passreid.errors import MissingExtraError, UsageError
from passreid.storage import replacing

if TYPE_CHECKING:
    from passreid.report import Report


def draw_det(reports: Sequence[Report], output: Path) -> None:
    """Draw FNIR over FPIR, a curve for each report.

    Args:
        reports: Evaluations of one or several sets.
        output: PNG to write.

    Raises:
        MissingExtraError: matplotlib is not installed.
        UsageError: No report has a DET curve, see `Report.identification`.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise MissingExtraError("Drawing a DET curve", "torch") from None
    measured = [(report, report.identification) for report in reports]
    curves = [(report, found) for report, found in measured if found is not None]
    if not curves:
        raise UsageError("There is no DET curve: no search for an absent person can be made.")
    figure = Figure(figsize=(5, 4.4), layout="constrained")
    axes = figure.subplots()
    for report, found in curves:
        # A rate of zero has no place on a logarithmic axis.
        shown = (found.fpir > 0) & (found.fnir > 0)
        label = f"{report.data} ({found.searches} searches for {found.people} people)"
        axes.plot(found.fpir[shown], found.fnir[shown], linewidth=1.4, label=label)
    lowest = min(float(np.min(found.fpir)) for _, found in curves)
    missed = np.concatenate([found.fnir[found.fnir > 0] for _, found in curves])
    floor = float(missed.min(initial=0.01)) / 1.2  # a model without misses gets an empty plot
    axes.set(xscale="log", yscale="log", xlim=(lowest, 1), ylim=(floor, 1))
    axes.set_xlabel("FPIR: searches for an absent person that return somebody")
    axes.set_ylabel("FNIR: searches that miss their person")
    axes.grid(which="both", alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8)
    axes.set_title(curves[0][0].model, fontsize=11)
    with replacing(output) as temporary:
        figure.savefig(temporary, format="png", dpi=130)
