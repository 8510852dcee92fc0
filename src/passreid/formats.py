"""How scores and rates are written, the same way in every output."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def show_cosine(value: float) -> str:
    """Write a cosine with three decimals."""
    return f"{value:.3f}"


def show_rate(value: float, *, is_bound: bool = False) -> str:
    """Write a rate or a number of strangers with two digits, "< " before an upper bound."""
    return f"{'< ' if is_bound else ''}{value:.2g}"


def show_probability(value: float) -> str:
    """Write a probability with three decimals; it is never 0 and never 1."""
    if value > 0.999:
        return "> 0.999"
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def show_hit(told: Mapping[str, Any]) -> str:
    """Write band and expected strangers of a hit, as `verify.explain_hit` tells them."""
    if told["band"] is None:
        return ""
    strangers = show_rate(told["expected_strangers"], is_bound=told["is_bound"])
    return f"  {told['band']:<8}  {strangers} strangers expected"


def show_cut(threshold: float, fpir: float) -> str:
    """Write the line between hits that count as found and those below."""
    return (
        f"  --- cut at {show_cosine(threshold)}: at most {show_rate(fpir)} of searches for an "
        "absent person show more ---"
    )
