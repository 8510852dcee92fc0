"""bench: how fast a model is here, in every engine that is installed."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from rich.table import Table

from passreid.cli.app import DEFAULT_MODEL, ReadingOptions, app, console, note, say_json


@app.command
def bench(
    *,
    model: str = DEFAULT_MODEL,
    backend: Literal["all", "onnx", "openvino", "torch"] = "all",
    crops: Path | None = None,
    count: int = 128,
    batch_size: int = 32,
    json: bool = False,
    reading: ReadingOptions = ReadingOptions(),  # noqa: B008
) -> None:
    """Measure crops per second, latency and memory of every engine and precision.

    Example: passreid bench --count 1000

    Args:
        model: A bundled name, a model folder, a weight file, a ModelScope or Hugging Face id.
        backend: One engine, or all that are installed.
        crops: A folder of pictures to embed; drawn ones otherwise.
        count: Crops of each measurement.
        batch_size: Crops at a time.
        json: One object an engine and precision.
    """
    from dataclasses import asdict

    from passreid.bench import MODES, measure_speed
    from passreid.errors import UsageError
    from passreid.listing import find_images

    if count < 1 or batch_size < 1:
        raise UsageError("--count and --batch-size must be at least 1.")
    rows = measure_speed(
        model,
        modes=[mode for mode in MODES if backend in ("all", mode[0])],
        count=count,
        batch_size=batch_size,
        crops=find_images(crops) if crops else (),
        overrides=reading.overrides(),
    )
    if json:
        for row in rows:
            say_json(asdict(row))
        return
    table = Table(box=None, pad_edge=False)
    for title in ("engine", "precision", "crops/s", "network/s", "limit", "p50 ms", "p95 ms"):
        table.add_column(title, justify="left" if title in ("engine", "precision") else "right")
    table.add_column("MiB", justify="right")
    table.add_column("worst cosine", justify="right")
    for row in rows:
        limit = "-" if row.limit is None else f"{row.limit:.0%}"
        peak = "-" if row.peak_mib is None else f"{row.peak_mib:.0f}"
        speed = (f"{row.end_to_end:.0f}", f"{row.network:.0f}", limit)
        cost = (f"{row.p50_ms:.1f}", f"{row.p95_ms:.1f}", peak)
        table.add_row(row.backend, row.precision, *speed, *cost, f"{row.worst_cosine:.5f}")
    console.print(table)
    note("limit: share of the matrix products this machine does in that precision.")
