"""How fast a model is on this machine, engine by engine, beside what the machine could do.

A measurement runs in a process of its own, so that its peak memory is its own and no engine's
threads are in another's way. Crops are drawn, saved as JPEG and read as a user's would be.
"""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from passreid.backends import matrix_product
from passreid.card import ModelCard
from passreid.embed import load
from passreid.errors import PassreidError, UsageError
from passreid.images import normalise

MODES: tuple[tuple[str, str], ...] = (
    ("onnx", "float32"),
    ("openvino", "float32"),
    ("openvino", "bfloat16"),
    ("torch", "float32"),
    ("torch", "bfloat16"),
    ("onnx", "int8"),
    ("openvino", "int8"),
)
"""(backend, precision) pairs that are tried when none is asked for."""

_NEEDS = {"onnx": "onnxruntime", "openvino": "openvino", "torch": "torch"}


@dataclass(frozen=True)
class Speed:
    """What one engine and precision do.

    Attributes:
        backend, precision: The engine, and what it computes in.
        end_to_end, network: Crops per second, from files to vectors and for the network alone.
        p50_ms, p95_ms: Milliseconds one crop takes on its own, from file to vector.
        peak_mib: Largest resident memory of the process, MiB; None where the system does not say.
        limit: Share of the machine's measured matrix products that `network` reaches, 0 to 1; None
            where that limit cannot be measured.
        worst_cosine, mean_cosine: Against the first mode's vectors of the same crops.
    """

    backend: str
    precision: str
    end_to_end: float
    network: float
    p50_ms: float
    p95_ms: float
    peak_mib: float | None
    limit: float | None
    worst_cosine: float = 1.0
    mean_cosine: float = 1.0


def measure_speed(
    model: str,
    *,
    modes: Sequence[tuple[str, str]] = MODES,
    count: int = 128,
    batch_size: int = 32,
    crops: Sequence[Path] = (),
    overrides: Mapping[str, Any] | None = None,
) -> list[Speed]:
    """Measure a model in every mode that is installed and can run it; modes that cannot are absent.

    Args:
        model: As `embed.load`.
        modes: (backend, precision) pairs; the first is what cosines are measured against.
        count: Crops in each measurement.
        batch_size: Crops the network sees at a time.
        crops: Pictures to embed instead of drawn ones.
        overrides: What a weight file does not say, as `embed.load` takes it.

    Raises:
        UsageError: No mode can run here; says why the first installed one cannot.
    """
    rows: list[Speed] = []
    reasons: list[str] = []
    reference = None
    limits: dict[tuple[str, ...], float | None] = {}
    with tempfile.TemporaryDirectory(prefix="passreid-bench-") as scratch:
        folder = Path(scratch)
        paths = list(crops)[:count] or _draw(folder, count)
        listed = folder / "crops.json"
        listed.write_text(json.dumps([str(path) for path in paths]))
        for backend, precision in modes:
            if importlib.util.find_spec(_NEEDS[backend]) is None:
                continue
            vectors = folder / f"{backend}-{precision}.npy"
            job = (model, backend, precision, str(batch_size), str(listed), str(vectors))
            done = _in_process("work", *job, json.dumps(overrides or {}))
            if done.returncode:
                reasons += (done.stderr.strip().splitlines() or ["it ended without a word"])[-1:]
                continue
            found = np.load(vectors)
            reference = found if reference is None else reference
            cosines = _cosines(reference, found)
            worst, mean = float(cosines.min()), float(cosines.mean())
            answer = json.loads(done.stdout)
            shape, work_per_crop = tuple(answer.pop("shape")), answer.pop("operations")
            product = (*map(str, shape), precision)
            if product not in limits:
                told = _in_process("work_products", *product)
                limits[product] = None if told.returncode else json.loads(told.stdout)
            limit = limits[product]
            answer["limit"] = limit and answer["network"] * work_per_crop / limit
            rows.append(Speed(**answer, worst_cosine=worst, mean_cosine=mean))
    if not rows:
        engines = ", ".join(dict.fromkeys(backend for backend, _ in modes))
        reasons.append(f"none of these engines is installed: {engines}")
        # What follows the first may be of its own: int8 needs a file that few folders have.
        raise UsageError(f"'{model}' cannot be measured here: {reasons[0]}")
    return rows


def _in_process(function: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Call a function of this module in a process without any engine's threads."""
    code = f"import sys; from passreid.bench import {function} as work; work(*sys.argv[1:])"
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def work(
    model: str, backend: str, precision: str, batch: str, listed: str, vectors: str, overrides: str
) -> None:
    """Measure one mode and print it as JSON; runs in a process of its own."""
    options = {"backend": backend, "precision": precision, **json.loads(overrides)}
    try:
        fields = _measure(model, options, int(batch), Path(listed), Path(vectors))
    except PassreidError as error:
        sys.exit(str(error))
    sys.stdout.write(json.dumps(fields))


def work_products(rows: str, inner: str, columns: str, precision: str) -> None:
    """Print the operations per second of a matrix product; runs in a process of its own."""
    sys.stdout.write(json.dumps(_products(int(rows), int(inner), int(columns), precision)))


def _measure(
    model: str, options: dict[str, Any], batch_size: int, listed: Path, vectors: Path
) -> dict[str, Any]:
    """Return the fields of `Speed` that are measured, and what the limit is worked out from."""
    embedder = load(model, device="cpu", batch_size=batch_size, **options)
    paths = json.loads(listed.read_text())
    embedder(paths[:batch_size])
    embedder(paths[0])
    start = time.perf_counter()
    np.save(vectors, embedder(paths))
    end_to_end = len(paths) / (time.perf_counter() - start)
    single = [_seconds(lambda path=path: embedder(path)) for path in paths[:30]]  # type: ignore[misc]
    size = embedder.card.architecture.image_size
    noise = np.random.default_rng(0).integers(0, 256, (batch_size, *size, 3), dtype=np.uint8)
    card = embedder.card
    pixels = noise if embedder.network.normalises else normalise(noise, card.mean, card.std)
    network = batch_size / _median(lambda: embedder.network.run(pixels))
    a = embedder.card.architecture
    tokens = a.grid[0] * a.grid[1] + 1 + a.parts
    return {
        "backend": embedder.backend,
        "precision": embedder.precision,
        "end_to_end": end_to_end,
        "network": network,
        "p50_ms": 1e3 * float(np.percentile(single, 50)),
        "p95_ms": 1e3 * float(np.percentile(single, 95)),
        "peak_mib": peak_memory(),
        "operations": operations(embedder.card),
        "shape": (batch_size * tokens, a.width, round(a.width * a.mlp_ratio)),
    }


def operations(card: ModelCard) -> float:
    """Return the floating point operations of one crop's matrix products, two a multiplication.

    The blocks' four projections, attention's two products and the patch projection; a stem, and the
    products that find what to merge, a few per cent, are left out.
    """
    a = card.architecture
    patches = a.grid[0] * a.grid[1]
    products = patches * a.width * 3 * a.patch_size**2 if a.stem == "none" else 0.0
    for number in range(a.depth):
        seen = patches + 1 + a.parts
        if number + 1 < a.depth:
            patches -= min(a.merge, patches // 2)
        left = patches + 1 + a.parts
        # Merging lies between attention and the MLP.
        products += 4 * seen * a.width**2 + 2 * seen**2 * a.width
        products += 2 * left * a.mlp_ratio * a.width**2
    return 2.0 * products


def peak_memory() -> float | None:
    """Return the largest resident memory this process ever had, in MiB; None where unknown."""
    try:
        import resource
    except ModuleNotFoundError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return float(peak / (2**20 if sys.platform == "darwin" else 2**10))


def _products(rows: int, inner: int, columns: int, precision: str) -> float | None:
    """Operations per second of the network's largest product, the first layer of its MLPs.

    torch measures it where it is installed, else NumPy, which has no bfloat16.
    """
    product = matrix_product(rows, inner, columns, precision)
    if product is None:
        if precision != "float32":
            return None
        left, right = np.ones((rows, inner), np.float32), np.ones((inner, columns), np.float32)
        answer = np.empty((rows, columns), np.float32)
        product = lambda: np.matmul(left, right, out=answer)  # noqa: E731
    return 2.0 * rows * inner * columns / _median(product, 20)


def _seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def _median(call: Callable[[], object], repeats: int = 5) -> float:
    call()
    return float(np.median([_seconds(call) for _ in range(repeats)]))


def _cosines(a: Any, b: Any) -> Any:
    lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return (a * b).sum(axis=1) / lengths


def _draw(folder: Path, count: int) -> list[Path]:
    """Draw crops, of 64 x 128 pixels as detectors cut them, and save them as JPEG."""
    from PIL import Image

    from passreid.data.drawing import draw_crop, random_camera, random_people

    rng = np.random.default_rng(0)
    people = random_people(8, rng)
    camera = random_camera(0, rng)
    drawn = [draw_crop(person, camera, rng) for person in people]
    paths: Iterable[Path] = (folder / f"{number}.jpg" for number in range(count))
    kept = []
    for number, path in enumerate(paths):
        Image.fromarray(np.asarray(drawn[number % len(drawn)])).resize((64, 128)).save(path)
        kept.append(path)
    return kept
