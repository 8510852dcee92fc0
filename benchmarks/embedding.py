"""ViT-B/16 of 256x128 pixels with random weights: files to vectors, beside ModelScope's pipeline.

    python benchmarks/embedding.py CROPS --count 200 --modelscope /path/to/its/venv/bin/python

CROPS is a folder of pictures. The peer runs in its own environment (pip install modelscope torch
timm ...), on the same weights and files, one image a call, as its pipeline works. Runs alternate;
the medians of `--rounds` and their ratios are printed. Processor seconds are of the process.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

import passreid
from passreid.backends import matrix_product
from passreid.bench import operations
from passreid.card import PRESETS, ModelCard
from passreid.checkpoint import save_as, save_folder
from passreid.exporting import write_graph
from passreid.images import find_images
from passreid.model import PartViT

PRODUCTS = 100
"""Matrix products timed together: one alone takes 7 ms, which anything can disturb."""

MODES = (("openvino", "bfloat16"), ("openvino", "float32"), ("onnx", "float32"))

PEER = """
import json, sys, time
from modelscope.pipelines import pipeline
from modelscope.utils.constant import Tasks
paths = json.load(open(sys.argv[2]))
reid = pipeline(Tasks.image_reid_person, model=sys.argv[1], device="cpu")
reid(paths[0])
for _ in sys.stdin:
    wall, cpu = time.perf_counter(), time.process_time()
    for path in paths:
        reid(path)
    print("RESULT", time.perf_counter() - wall, time.process_time() - cpu, flush=True)
"""


def timed(call: Callable[[], object]) -> tuple[float, float]:
    """Wall and processor seconds of a call."""
    wall, cpu = time.perf_counter(), time.process_time()
    call()
    return time.perf_counter() - wall, time.process_time() - cpu


def peer_runs(python: str, folder: Path, listed: Path) -> Callable[[], tuple[float, float]]:
    """Start ModelScope's pipeline; each call embeds all files once more."""
    command = [python, "-c", PEER, str(folder), str(listed)]
    pipe = subprocess.PIPE
    process = subprocess.Popen(
        command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, text=True
    )

    def run() -> tuple[float, float]:
        assert process.stdin and process.stdout
        process.stdin.write("go\n")
        process.stdin.flush()
        for line in process.stdout:
            if line.startswith("RESULT"):
                wall, cpu = map(float, line.split()[1:])
                return wall, cpu
        raise SystemExit("ModelScope's pipeline ended; try its environment by hand.")

    return run


def main() -> None:
    """Read the options and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else "")
    parser.add_argument("crops", type=Path)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--singles", type=int, default=50, help="crops of the one-by-one runs")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--modelscope", help="Python of an environment with modelscope")
    options = parser.parse_args()
    paths = [str(path) for path in find_images(options.crops)[: options.count]]
    few = paths[: options.singles]
    card = ModelCard(name="random ViT-B/16", architecture=PRESETS["base"])
    torch.manual_seed(0)
    model = PartViT(card.architecture).eval()
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        save_folder(model, card, root / "ours")
        write_graph(root / "ours")
        runs: dict[str, tuple[int, Callable[[], tuple[float, float]]]] = {}
        for backend, precision in MODES:
            embedder = passreid.load(
                root / "ours",
                backend=backend,  # type: ignore[arg-type]
                precision=precision,  # type: ignore[arg-type]
            )
            embedder(paths[:32])
            runs[f"{backend} {precision}, batches of 32"] = (
                len(paths),
                lambda e=embedder: timed(lambda: e(paths)),  # type: ignore[misc]
            )
            runs[f"{backend} {precision}, one by one"] = (
                len(few),
                lambda e=embedder: timed(lambda: [e(path) for path in few]),  # type: ignore[misc]
            )
        pixels = np.zeros((32, 3, 256, 128), np.float32)
        fast = passreid.load(root / "ours", backend="openvino", precision="bfloat16").network
        runs["network alone, bfloat16"] = (32, lambda: timed(lambda: fast.run(pixels)))
        rows = 32 * 132
        product = matrix_product(rows, 768, 3072, "bfloat16")
        assert product is not None
        share = PRODUCTS * 2.0 * rows * 768 * 3072 / operations(card)
        product()
        runs["matrix products alone, bfloat16"] = (
            1,
            lambda: timed(lambda: [product() for _ in range(PRODUCTS)]),
        )
        if options.modelscope:
            save_as(model, card, root / "peer", format="modelscope")
            (root / "few.json").write_text(json.dumps(few))
            peer = peer_runs(options.modelscope, root / "peer", root / "few.json")
            runs["ModelScope's pipeline"] = (len(few), peer)
        taken: dict[str, list[tuple[float, float]]] = {name: [] for name in runs}
        for _ in range(options.rounds):
            for name, (_, run) in runs.items():
                taken[name].append(run())
        print(f"{'':<36}{'crops/s':>9}{'cpu ms/crop':>13}{'x peer':>8}{'x peer, cpu':>13}")
        figures = {}
        for name, (count, _) in runs.items():
            done = share if name.startswith("matrix") else count
            wall, cpu = np.median(np.array(taken[name]), axis=0)
            figures[name] = (done / wall, 1e3 * cpu / done)
        base = figures.get("ModelScope's pipeline", (float("nan"), float("nan")))
        for name, (speed, cpu) in figures.items():
            ratios = f"{speed / base[0]:>8.2f}{base[1] / cpu:>13.2f}"
            print(f"{name:<36}{speed:>9.1f}{cpu:>13.1f}{ratios}")


if __name__ == "__main__":
    main()
