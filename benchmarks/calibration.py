"""Promised and measured error rates of a model on a labelled set, for several calibrations.

    python benchmarks/calibration.py ROOT [ROOT ...] --model passreid-tiny

Measured on the test people of each ROOT, for the calibration in the model's card, for one without
labels from the set's training crops (`--crops` of them at random), and for one with labels from the
other half of the test people (both halves in turn). Intervals are 95 %, bootstrapped over people.

    FMR     share of impostor pairs across cameras at or above the threshold of a promised FMR
    bands   of the hits that a band is given to in the whole gallery: how many are right, and how
            many strangers a search shows
    FPIR    share of searches for an absent person that return anybody above the cut, in the whole
            gallery and in random parts of it
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

import passreid
from passreid.calibration import fit_calibration, fit_unlabelled
from passreid.data import ReIDDataset, Sample
from passreid.errors import CalibrationError
from passreid.openset import POSSIBLE, STRONG, Calibration, cut
from passreid.similarity import unit_rows
from passreid.statistics import Interval, mean_interval

F32 = npt.NDArray[np.float32]
I64 = npt.NDArray[np.int64]
Bool = npt.NDArray[np.bool_]
DRAWS = 20
PARTS = (0.1, 0.3, 1.0)


@dataclass
class Crops:
    """Embeddings of labelled pictures."""

    rows: F32
    pids: I64
    camids: I64

    def __getitem__(self, chosen: Bool | I64) -> Crops:
        return Crops(self.rows[chosen], self.pids[chosen], self.camids[chosen])


@dataclass
class Trial:
    """A calibration, and the people it is measured on."""

    calibration: Calibration
    query: Crops
    gallery: Crops


def embedded(embedder: passreid.Embedder, samples: list[Sample]) -> Crops:
    """Embed samples as unit rows."""
    rows = unit_rows(embedder([s.path for s in samples]), "crops")
    pids, camids = ([getattr(s, name) for s in samples] for name in ("pid", "camid"))
    return Crops(rows, np.array(pids), np.array(camids))


def trials(
    embedder: passreid.Embedder, data: ReIDDataset, crops: int
) -> Iterator[tuple[str, list[Trial]]]:
    """Name each calibration, and give it with whom it is measured on."""
    query, gallery = (embedded(embedder, list(side)) for side in (data.query, data.gallery))
    if embedder.calibration is not None:
        yield (
            f"the model's, {embedder.calibration.data}",
            [Trial(embedder.calibration, query, gallery)],
        )
    if data.train:
        order = np.random.default_rng(0).permutation(len(data.train))[:crops]
        chosen = [data.train[i] for i in order]
        unnamed = embedded(embedder, chosen)
        people = len({s.pid for s in data.train})
        for kind, cameras in (("across cameras", unnamed.camids), ("all pairs", None)):
            fitted = fit_unlabelled(unnamed.rows, camids=cameras, people=people, data="train")
            name = f"without labels, {kind}, {len(chosen)} training crops of {people} people"
            yield name, [Trial(fitted, query, gallery)]
    halves = []
    pids = np.random.default_rng(0).permutation(np.unique(query.pids))
    for fit_on in (pids[::2], pids[1::2]):
        both = Crops(
            *(
                np.concatenate([getattr(query, name), getattr(gallery, name)])
                for name in ("rows", "pids", "camids")
            )
        )
        known = both[np.isin(both.pids, fit_on)]
        fitted = fit_calibration(known.rows, known.pids, camids=known.camids, data="half")
        asked, there = ~np.isin(query.pids, fit_on), ~np.isin(gallery.pids, fit_on)
        halves.append(Trial(fitted, query[asked], gallery[there]))
    yield "with labels, the other half of the people", halves


def shown(interval: Interval) -> str:
    """Three digits, with the interval."""
    return f"{interval.value:.3g} ({interval.low:.3g} to {interval.high:.3g})"


def measured_fmr(found: list[Trial], rate: float) -> Interval | None:
    """Share of impostor pairs across cameras that reach the threshold; over people."""
    shares, pids = [], []
    for trial in found:
        try:
            threshold = trial.calibration.threshold(rate)
        except CalibrationError:
            return None
        both = (trial.query, trial.gallery)
        rows, people, cameras = (
            np.concatenate([getattr(side, name) for side in both])
            for name in ("rows", "pids", "camids")
        )
        impostor = (people[:, None] != people) & (cameras[:, None] != cameras)
        above = (rows @ rows.T >= threshold) & impostor
        shares.append(above.sum(axis=1) / impostor.sum(axis=1))
        pids.append(people)
    return mean_interval(np.concatenate(shares), np.concatenate(pids))


def counted(trial: Trial) -> tuple[F32, Bool, Bool]:
    """Similarities of queries and gallery, who is right, and who is a stranger."""
    scores = trial.query.rows @ trial.gallery.rows.T
    same = trial.query.pids[:, None] == trial.gallery.pids
    own = trial.query.camids[:, None] == trial.gallery.camids
    return scores, same & ~own, ~same


def parts(found: list[Trial], share: float) -> Iterator[tuple[Trial, F32, Bool, Bool]]:
    """Draw random parts of each trial's gallery; the whole once."""
    for trial in found:
        scores, mates, others = counted(trial)
        size = int(share * scores.shape[1])
        rng = np.random.default_rng(0)
        for _ in range(DRAWS if share < 1 else 1):
            drawn = rng.permutation(scores.shape[1])[:size]
            yield trial, scores[:, drawn], mates[:, drawn], others[:, drawn]


def print_bands(found: list[Trial], share: float) -> None:
    """Print what hits of each band are."""
    edges = {"strong": (0.0, STRONG), "possible": (STRONG, POSSIBLE), "weak": (POSSIBLE, np.inf)}
    right: dict[str, int] = dict.fromkeys(edges, 0)
    strangers: dict[str, list[I64]] = {band: [] for band in edges}
    pids = []
    grid = np.linspace(-1, 1, 4001)
    for trial, scores, mates, others in parts(found, share):
        fmr = np.interp(scores, grid, [trial.calibration.fmr(cosine) for cosine in grid])
        expected = fmr * scores.shape[1]
        for band, (low, high) in edges.items():
            inside = (expected >= low) & (expected < high)
            right[band] += int((inside & mates).sum())
            strangers[band].append((inside & others).sum(axis=1))
        pids.append(trial.query.pids)
    entries = scores.shape[1]
    for band, (_, high) in edges.items():
        wrong = np.concatenate(strangers[band])
        hits = right[band] + int(wrong.sum())
        each = mean_interval(wrong, np.concatenate(pids))
        promised = f"below {high:g}" if high < np.inf else "any"
        true = f"{100 * right[band] / hits:5.1f} % right" if hits else "none"
        print(
            f"    N {entries:5} {band:<9} {hits / len(wrong):8.3f} hits a search, {true:<12}; "
            f"strangers a search: promised {promised}, measured {shown(each)}"
        )


def print_fpir(found: list[Trial], share: float, fpir: float) -> None:
    """Print promised and measured FPIR."""
    alarms, pids, promised = [], [], []
    for trial, scores, _, others in parts(found, share):
        at = cut(trial.calibration, scores.shape[1], fpir=fpir)
        promised.append(at.fpir)
        alarms.append(((scores >= at.threshold) & others).any(axis=1))
        pids.append(trial.query.pids)
    each = mean_interval(np.concatenate(alarms), np.concatenate(pids))
    print(
        f"    N {scores.shape[1]:5}: asked {fpir:g}, promised {np.mean(promised):.3g}, "
        f"measured {shown(each)}"
    )


def main() -> None:
    """Read the options and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else "")
    parser.add_argument("roots", type=Path, nargs="+")
    parser.add_argument("--model", default="passreid-tiny")
    parser.add_argument("--crops", type=int, default=3000)
    parser.add_argument("--fpir", type=float, nargs="+", default=[0.01, 0.05, 0.1])
    options = parser.parse_args()
    embedder = passreid.load(options.model)
    for root in options.roots:
        data = passreid.read_dataset(root)
        for name, found in trials(embedder, data, options.crops):
            print(f"\n{data.name}; calibration: {name}")
            for rate in (1e-2, 1e-3):
                each = measured_fmr(found, rate)
                print(f"  FMR promised {rate:g}: measured {shown(each) if each else 'refused'}")
            print("  bands")
            for share in PARTS:
                print_bands(found, share)
            print("  FPIR")
            for fpir in options.fpir:
                for share in PARTS:
                    print_fpir(found, share, fpir)


if __name__ == "__main__":
    main()
