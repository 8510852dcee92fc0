"""ViT-B/16 of 256x128 pixels with random weights: files to vectors, beside ModelScope's pipeline.

    python benchmarks/embedding.py CROPS --models MODELS --modelscope /path/to/its/venv/bin/python

CROPS is a folder of pictures. Model folders are written to MODELS, which takes minutes for int8,
and found there by the next run. The peer runs in its own environment (pip install modelscope torch
timm ...), on the same weights and files, one image a call, as its pipeline works. Runs alternate;
the medians of `--rounds` and their ratios are printed, with the worst cosine of an embedding with
OpenVINO's in float32. Processor seconds are of the process.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch

import passreid
from passreid.backends import matrix_product
from passreid.bench import operations
from passreid.card import PRESETS, ModelCard
from passreid.checkpoint import load_folder, save_as, save_folder
from passreid.exporting import write_graph, write_variant
from passreid.listing import find_images
from passreid.model import PartViT

NAME = "random ViT-B/16"
PEER_NAME = "ModelScope's pipeline"
PRODUCTS = 100
"""Matrix products timed together: one alone takes 7 ms, which anything can disturb."""

MODES = (
    ("openvino", "float32", 0),
    ("openvino", "bfloat16", 0),
    ("openvino", "int8", 0),
    ("openvino", "bfloat16", 8),
    ("openvino", "int8", 8),
)
"""Engine, precision, and patches merged in a block; the first is what cosines are taken with."""

Run = Callable[[], tuple[float, float]]

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


def model_folder(root: Path, merge: int, crops: list[Path], *, precision: str) -> Path:
    """Return a folder with a ViT-B of seeded weights, written if it is not there yet."""
    folder = root / f"merge-{merge}"
    if not (folder / "model.onnx").is_file():
        architecture = replace(PRESETS["base"], merge=merge)
        torch.manual_seed(0)
        save_folder(
            PartViT(architecture).eval(), ModelCard(name=NAME, architecture=architecture), folder
        )
        write_graph(folder)
    if precision == "int8" and not (folder / "model.int8.xml").is_file():
        write_variant(folder, format="openvino", precision="int8", crops=crops)
    return folder


def our_runs(root: Path, crops: list[Path], few: list[Path]) -> dict[str, tuple[float, Run]]:
    """Return every mode's runs, with the crops of each, and print how exact each mode is."""
    runs: dict[str, tuple[float, Run]] = {}
    exact = None
    for backend, precision, merge in MODES:
        folder = model_folder(root, merge, crops, precision=precision)
        embedder = passreid.load(folder, backend=backend, precision=precision)  # type: ignore[arg-type]
        found = embedder(crops[:128])
        exact = found if exact is None else exact
        cosines = np.diag(passreid.cosine(exact, found))
        name = f"{backend} {precision}{f', merge {merge}' if merge else ''}"
        print(f"{name:<42} cosine worst {cosines.min():.5f}, mean {cosines.mean():.5f}")
        runs[f"{name}, batches of 32"] = (len(crops), partial(timed, partial(embedder, crops)))
        singles = partial(one_by_one, embedder, few)
        runs[f"{name}, one by one"] = (len(few), partial(timed, singles))
        if (backend, precision, merge) == ("openvino", "bfloat16", 0):
            alone = partial(embedder.network.run, np.zeros((32, 3, 256, 128), np.float32))
            runs["network alone, bfloat16"] = (32, partial(timed, alone))
    return runs


def one_by_one(embedder: passreid.Embedder, crops: list[Path]) -> None:
    """Embed each crop on its own, as the peer does."""
    for crop in crops:
        embedder(crop)


def products() -> tuple[float, Run]:
    """Return a run of matrix products alone, and the crops whose operations they are."""
    rows = 32 * 132
    product = matrix_product(rows, 768, 3072, "bfloat16")
    assert product is not None
    product()
    card = ModelCard(name=NAME, architecture=PRESETS["base"])
    crops = PRODUCTS * 2.0 * rows * 768 * 3072 / operations(card)
    return crops, partial(timed, lambda: [product() for _ in range(PRODUCTS)])


def write_modelscope(source: Path, folder: Path) -> None:
    """Write a model folder as ModelScope's pipeline loads it."""
    model, card = load_folder(source)
    save_as(model, card, folder / "pytorch_model.pt")
    a = card.architecture
    size, stride = list(a.image_size), list(a.stride)
    rates = {"DROP_PATH": 0.1, "DROP_OUT": 0.0, "ATT_DROP_RATE": 0.0, "DROPOUT_RATE": 0.0}
    network = {"MULTI_NECK": a.neck == "multi", "FEAT_FUSION": a.fusion, "STRIDE_SIZE": stride}
    pixels = {"PIXEL_MEAN": list(card.mean), "PIXEL_STD": list(card.std)}
    cfg = {
        "INPUT": {"SIZE_TRAIN": size, "SIZE_TEST": size, **pixels},
        "MODEL": {"SIE_COE": 3.0, "GEM_POOLING": False, "STEM_CONV": False, **rates, **network},
        "DATASETS": {"NUM_CLASSES": a.num_classes or 1},
        "TEST": {"NECK_FEAT": a.feature},
    }
    document = {
        "framework": "pytorch",
        "task": "image-reid-person",
        "pipeline": {"type": "passvitb-image-reid-person"},
        "model": {"type": "passvitb", "cfg": cfg},
    }
    (folder / "configuration.json").write_text(json.dumps(document))


def main() -> None:
    """Read the options and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else "")
    parser.add_argument("crops", type=Path)
    parser.add_argument("--models", type=Path, required=True, help="where model folders are kept")
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--singles", type=int, default=50, help="crops of the one-by-one runs")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--modelscope", help="Python of an environment with modelscope")
    options = parser.parse_args()
    crops = find_images(options.crops)[: options.count]
    few = crops[: options.singles]
    runs = our_runs(options.models, crops, few)
    runs["matrix products alone, bfloat16"] = products()
    if options.modelscope:
        write_modelscope(options.models / "merge-0", options.models / "modelscope")
        listed = options.models / "few.json"
        listed.write_text(json.dumps([str(path) for path in few]))
        peer = peer_runs(options.modelscope, options.models / "modelscope", listed)
        runs[PEER_NAME] = (len(few), peer)
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in runs}
    for _ in range(options.rounds):
        for name, (_, run) in runs.items():
            taken[name].append(run())
    print(f"{'':<46}{'crops/s':>9}{'cpu ms/crop':>13}{'x peer':>8}{'x peer, cpu':>13}")
    figures = {}
    for name, (count, _) in runs.items():
        wall, cpu = np.median(np.array(taken[name]), axis=0)
        figures[name] = (count / wall, 1e3 * cpu / count)
    base = figures.get(PEER_NAME, (float("nan"), float("nan")))
    for name, (speed, cpu) in figures.items():
        ratios = f"{speed / base[0]:>8.2f}{base[1] / cpu:>13.2f}"
        print(f"{name:<46}{speed:>9.1f}{cpu:>13.1f}{ratios}")


if __name__ == "__main__":
    main()
