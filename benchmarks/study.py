"""Does part-aware pre-training pay? Rows of one table, each by one command, on equal budgets.

    python benchmarks/study.py ROOT --runs RUNS --row scratch --seed 0
    python benchmarks/study.py ROOT --runs RUNS --row dino --seed 0
    python benchmarks/study.py ROOT --runs RUNS --row pass --seed 0
    python benchmarks/study.py ROOT --runs RUNS --table

`--epochs 4 8` shortens every row to 4 epochs of pre-training and 8 of fine-tuning.

    python benchmarks/study.py ROOT ROOT2 --runs RUNS --cross --recipe recipes/market-tiny.toml

The last one is the cross-domain table: it trains on each set alone and on all together, and scores
every network on the test people of every set; a run that is finished is not trained again.

ROOT is a labelled set with training people, queries and gallery. A row pre-trains on the training
crops without their labels (scratch does not), fine-tunes with them, and scores the held-out people;
a row that was stopped goes on where it was. Rows differ in the number of areas and in nothing else.
The table also scores the fine-tuned weights with CLS alone and with the mean of the parts alone.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

import passreid
from passreid.backends.pytorch import TorchBackend
from passreid.checkpoint import load_folder
from passreid.config import build, read_toml
from passreid.data import ReIDDataset
from passreid.finetuning.recipe import FinetuneConfig, FinetuneRecipe
from passreid.labels import Labels
from passreid.pretraining.recipe import PretrainConfig, PretrainRecipe
from passreid.ranking import Metrics, measure
from passreid.statistics import Interval

RECIPES = Path(__file__).parent.parent / "recipes"
ROWS: dict[str, tuple[int | None, int]] = {
    "scratch": (None, 3),
    "scratch-cls": (None, 0),
    "dino": (0, 0),
    "dino-parts": (0, 3),
    "pass": (3, 3),
    "pass-1": (1, 1),
    "pass-4": (4, 4),
}
"""Name -> areas in pre-training (None is no pre-training) and part tokens in fine-tuning.

"dino-parts" fine-tunes the very weights of "dino", with part tokens that start as copies of CLS.
"""


def pretrained(root: Path, runs: Path, areas: int, seed: int, *, epochs: int | None) -> Path:
    """Pre-train, or find the run that did; return its model folder."""
    recipe = build(PretrainRecipe, read_toml(RECIPES / "study-pretrain.toml"), where="recipe")
    # About the same local views for any number of areas: 9, or 8 for four areas.
    crops = 9 // max(areas, 1)
    recipe = replace(recipe, areas=areas, crops=crops, seed=seed, watch=root)
    recipe = replace(recipe, epochs=epochs or recipe.epochs)
    output = runs / f"pretrain-{areas}-{seed}"
    data = root / "bounding_box_train"
    config = PretrainConfig(data=data, output=output, **vars(recipe))
    folder = passreid.pretrain(config, resume=True)
    if folder is None:
        raise SystemExit(f"Stopped; the same command goes on in {output}.")
    return folder


def run_row(
    root: Path, runs: Path, row: str, seed: int, *, epochs: tuple[int | None, int | None]
) -> None:
    """Do everything a row needs and write its scores; `epochs` in place of the recipes' own."""
    areas, parts = ROWS[row]
    began = time.process_time()
    init = None
    if areas is not None:
        init = str(pretrained(root, runs, areas, seed, epochs=epochs[0]))
    recipe = build(FinetuneRecipe, read_toml(RECIPES / "study-finetune.toml"), where="recipe")
    recipe = replace(recipe, init=init, parts=parts, seed=seed)
    recipe = replace(recipe, epochs=epochs[1] or recipe.epochs)
    output = runs / f"{row}-{seed}"
    config = FinetuneConfig(data=root, output=output, **vars(recipe))
    folder = passreid.finetune(config, resume=True)
    if folder is None:
        raise SystemExit(f"Stopped; the same command goes on in {output}.")
    scores = score(folder, passreid.read_dataset(root))
    result = {"row": row, "seed": seed, "cpu_hours": (time.process_time() - began) / 3600, **scores}
    (output / "scores.json").write_text(json.dumps(result) + "\n")
    print(json.dumps(result))


def score(folder: Path, data: ReIDDataset) -> dict[str, Any]:
    """Score the whole embedding, CLS alone and the mean of the parts alone."""
    model, card = load_folder(folder)
    embedder = passreid.Embedder(TorchBackend(model, device="cpu", precision="float32"), card)
    query = embedder([sample.path for sample in data.query])
    gallery = embedder([sample.path for sample in data.gallery])
    labels = Labels(
        [s.pid for s in data.query],
        [s.pid for s in data.gallery],
        query_camids=[s.camid for s in data.query],
        gallery_camids=[s.camid for s in data.gallery],
    )
    width = card.architecture.width
    sides = {"both": slice(None)}
    if card.architecture.parts:
        sides |= {"cls": slice(0, width), "parts": slice(width, None)}
    found: dict[str, Metrics] = {
        name: measure(query[:, side], gallery[:, side], labels=labels)
        for name, side in sides.items()
    }
    return {name: [float(m.mAP), float(m.rank(1))] for name, m in found.items()}


def cross(roots: list[Path], runs: Path, recipe: Path, seed: int, *, epochs: int | None) -> None:
    """Train on each set alone and on all together; print mAP / Rank-1 on each set's test people."""
    base = build(FinetuneRecipe, read_toml(recipe), where=str(recipe))
    base = replace(base, seed=seed, epochs=epochs or base.epochs)
    tests = [passreid.read_dataset(root) for root in roots]
    trained_on = [(root,) for root in roots] + ([tuple(roots)] if len(roots) > 1 else [])
    print(f"{'trained on':<32} " + "  ".join(f"{data.name:>34}" for data in tests))
    for chosen in trained_on:
        name = "+".join(root.name for root in chosen)
        output = runs / f"cross-{name}-{seed}"
        data = chosen if len(chosen) > 1 else chosen[0]
        config = FinetuneConfig(data=data, output=output, **vars(base))
        folder = passreid.finetune(config, resume=True)
        if folder is None:
            raise SystemExit(f"Stopped; the same command goes on in {output}.")
        embedder = passreid.load(folder)
        cells = []
        for test in tests:
            found = passreid.evaluate(embedder, test).intervals
            cells.append(" / ".join(_percent(found[key]) for key in ("mAP", "rank1")))
        print(f"{name:<32} " + "  ".join(f"{cell:>34}" for cell in cells), flush=True)


def _percent(interval: Interval) -> str:
    value, low, high = (100 * v for v in interval)
    return f"{value:.1f} ({low:.1f}–{high:.1f})"


def print_table(runs: Path) -> None:
    """Print mean and range over seeds of every row that is finished."""
    results = [json.loads(path.read_text()) for path in sorted(runs.glob("*/scores.json"))]
    print(f"{'row':<12} {'seeds':>5}  {'mAP':>6} {'range':>13}  {'R1':>6}   CLS mAP  parts mAP")
    for row in ROWS:
        found = [result for result in results if result["row"] == row]
        if not found:
            continue

        def mean(side: str, which: int, found: list[Any] = found) -> str:
            values = [100 * result[side][which] for result in found if side in result]
            return f"{statistics.mean(values):6.2f}" if values else "     –"

        maps = np.array([100 * result["both"][0] for result in found])
        spread = f"{maps.min():6.2f}–{maps.max():.2f}"
        print(
            f"{row:<12} {len(found):>5}  {mean('both', 0)} {spread:>13}  {mean('both', 1)}   "
            f"{mean('cls', 0):>7}  {mean('parts', 0):>9}"
        )


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("roots", type=Path, nargs="+")
    parser.add_argument("--runs", type=Path, required=True)
    parser.add_argument("--row", choices=list(ROWS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, nargs=2, default=(None, None))
    parser.add_argument("--table", action="store_true")
    parser.add_argument("--cross", action="store_true", help="the cross-domain table")
    parser.add_argument("--recipe", type=Path, default=RECIPES / "study-finetune.toml")
    args = parser.parse_args()
    if args.row:
        run_row(args.roots[0], args.runs, args.row, args.seed, epochs=tuple(args.epochs))
    if args.cross:
        cross(args.roots, args.runs, args.recipe, args.seed, epochs=args.epochs[1])
    if args.table:
        print_table(args.runs)


if __name__ == "__main__":
    main()
