"""Held-out accuracy and speed of models beside other people's networks: several sets, one run.

    python benchmarks/peers.py ROOT [ROOT ...] --osnet osnet_x0_25_msmt17.onnx \
        --omz person-reidentification-retail-0288.xml

Each ROOT is a labelled set. OSNet runs on ONNX Runtime, the Open Model Zoo network on OpenVINO (pip
install openvino). All are ranked by the same code, by cosine, in two protocols:

    Market        the set's queries in its gallery; the same person by the same camera left out
    cross-camera  every picture of the test people against the pictures of all other cameras

"centred" is cross-camera after subtracting each camera's mean (`passreid.centring`), taken from the
same pictures without their labels. Intervals are 95 %, bootstrapped over people; differences are
paired. Crops a second are of the network alone in batches of 32, decoded crops to vectors.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

import passreid
from passreid.card import IMAGENET_MEAN, IMAGENET_STD
from passreid.centring import CameraMeans
from passreid.data import ReIDDataset, Sample
from passreid.images import normalise, read_image, to_pixels
from passreid.labels import Labels
from passreid.ranking import Metrics, measure
from passreid.statistics import Interval, difference_interval, mean_interval

F32 = npt.NDArray[np.float32]
U8 = npt.NDArray[np.uint8]
Bool = npt.NDArray[np.bool_]
BATCH = 32


@dataclass
class Network:
    """A network and how its input is made: `run` takes uint8 RGB crops (N, height, width, 3)."""

    name: str
    run: Callable[[U8], F32]
    size: tuple[int, int] = (256, 128)

    def embed(self, paths: list[Path]) -> F32:
        """Files to vectors."""
        rows = []
        for start in range(0, len(paths), BATCH):
            batch = [to_pixels(read_image(p), self.size) for p in paths[start : start + BATCH]]
            rows.append(self.run(np.stack(batch)))
        return np.concatenate(rows)

    def crops_per_second(self, seconds: float = 5.0) -> float:
        """Time the network on random crops."""
        crops = np.random.default_rng(0).integers(0, 256, (BATCH, *self.size, 3), np.uint8)
        self.run(crops)
        start, done = time.perf_counter(), 0
        while time.perf_counter() - start < seconds:
            done += len(self.run(crops))
        return done / (time.perf_counter() - start)


def ours(name: str, precision: Any, *, flip: bool = False) -> Network:
    """A passreid model."""
    embedder = passreid.load(name, precision=precision, flip=flip)
    title = f"{embedder.card.name} ({embedder.backend}, {embedder.precision}"
    title += ", flip)" if flip else ")"

    def run(crops: U8) -> F32:
        return embedder(list(crops), channel_order="rgb")

    return Network(title, run, embedder.card.architecture.image_size)


def osnet(path: Path) -> Network:
    """OSNet: RGB 256x128 with ImageNet statistics."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    name, batch = session.get_inputs()[0].name, session.get_inputs()[0].shape[0]

    def run(crops: U8) -> F32:
        pixels = normalise(crops, IMAGENET_MEAN, IMAGENET_STD)
        parts = [pixels] if isinstance(batch, str) else np.split(pixels, len(pixels))
        return np.concatenate([session.run(None, {name: part})[0] for part in parts])

    return Network("OSNet x0.25 (MSMT17)", run)


def omz(path: Path) -> Network:
    """Open Model Zoo: BGR 256x128, 0-255."""
    import openvino

    network = openvino.Core().compile_model(str(path), "CPU")

    def run(crops: U8) -> F32:
        planes = crops[..., ::-1].transpose(0, 3, 1, 2).astype(np.float32)
        rows = [network(planes[i : i + 1])[0] for i in range(len(planes))]
        return np.concatenate(rows).reshape(len(planes), -1)

    return Network("OMZ retail-0288", run)


class OtherCameras(Labels):
    """Only pictures by other cameras count, of strangers too."""

    def split(self, query: int) -> tuple[Bool, Bool]:
        """Leave out all pictures by the query's camera."""
        same = self.gallery_pids == self.query_pids[query]
        ignored = self.gallery_camids == self.query_camids[query]
        return same & ~ignored, ignored


def market_labels(query: list[Sample], gallery: list[Sample], kind: type[Labels]) -> Labels:
    """Labels of two lists of samples."""
    return kind(
        [s.pid for s in query],
        [s.pid for s in gallery],
        query_camids=[s.camid for s in query],
        gallery_camids=[s.camid for s in gallery],
    )


@dataclass
class Scores:
    """One network on one set: every query's own figures, in each protocol."""

    data: ReIDDataset
    query: F32
    gallery: F32

    @cached_property
    def people(self) -> list[Sample]:
        """Every picture of a test person."""
        searched = {s.pid for s in self.data.query}
        return [s for s in (*self.data.query, *self.data.gallery) if s.pid in searched]

    @cached_property
    def metrics(self) -> dict[str, tuple[Metrics, npt.NDArray[np.int64]]]:
        """Protocol -> metrics and the queries' people."""
        query, gallery = list(self.data.query), list(self.data.gallery)
        everyone = np.concatenate([self.query, self.gallery])
        searched = {s.pid for s in query}
        kept = [i for i, s in enumerate((*query, *gallery)) if s.pid in searched]
        rows, people = everyone[kept], self.people
        cameras = [s.camid for s in people]
        means = CameraMeans(rows.shape[1])
        means.add(rows, cameras)
        centred = means.centre(rows, cameras)
        other = market_labels(people, people, OtherCameras)
        pids = np.array([s.pid for s in people])
        market = market_labels(query, gallery, Labels)
        return {
            "Market": (measure(self.query, self.gallery, labels=market), market.query_pids),
            "cross-camera": (measure(rows, rows, labels=other), pids),
            "centred": (measure(centred, centred, labels=other), pids),
        }

    def figures(self, protocol: str) -> dict[str, tuple[npt.NDArray[Any], npt.NDArray[np.int64]]]:
        """mAP and R1 as values of the counted queries, with their people."""
        found, pids = self.metrics[protocol]
        valid = found.valid
        precision, first = found.average_precision[valid], found.first_hit[valid] == 1
        return {"mAP": (precision, pids[valid]), "R1": (first.astype(float), pids[valid])}


def shown(interval: Interval, *, signed: bool = False) -> str:
    """Percent with the interval."""
    sign = "+" if signed else ""
    value, low, high = (100 * v for v in interval)
    return f"{value:{sign}.1f} ({low:{sign}.1f} to {high:{sign}.1f})"


def networks(options: argparse.Namespace) -> Iterator[Network]:
    """Load what the command line names, one after the other."""
    for model in options.model or ["passreid-tiny"]:
        for precision in options.precision or ["float32"]:
            yield ours(model, precision)
            if options.flip:
                yield ours(model, precision, flip=True)
    if options.osnet:
        yield osnet(options.osnet)
    if options.omz:
        yield omz(options.omz)


def print_set(name: str, scores: dict[str, Scores]) -> dict[str, Any]:
    """Print a set's table and its paired differences; return them as plain data."""
    print(f"\n{name}: mAP and R1 in percent, 95 % interval over people in brackets")
    listed: dict[str, Any] = {}
    for network, score in scores.items():
        for protocol in score.metrics:
            cells = {k: mean_interval(*v) for k, v in score.figures(protocol).items()}
            rank = {f"R{k}": score.metrics[protocol][0].rank(k) for k in (5, 10)}
            listed.setdefault(network, {})[protocol] = cells | rank
            more = "  ".join(f"{k} {100 * v:.1f}" for k, v in rank.items())
            line = "  ".join(f"{k} {shown(v)}" for k, v in cells.items())
            print(f"  {network:<36} {protocol:<13} {line}  {more}")
    print("  paired differences")
    first = next(iter(scores))
    pairs = [
        (f"{n}: centred - cross-camera", (s, "centred"), (s, "cross-camera"))
        for n, s in scores.items()
    ]
    pairs += [
        (f"{first} - {n}, {protocol}", (scores[first], protocol), (s, protocol))
        for n, s in scores.items()
        if n != first
        for protocol in ("Market", "cross-camera", "centred")
    ]
    for title, (a, protocol_a), (b, protocol_b) in pairs:
        left, right = a.figures(protocol_a), b.figures(protocol_b)
        found = {k: difference_interval(left[k][0], right[k][0], left[k][1]) for k in left}
        listed[title] = found
        print(
            f"  {title:<70} " + "  ".join(f"{k} {shown(v, signed=True)}" for k, v in found.items())
        )
    return listed


def main() -> None:
    """Read the options and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else "")
    parser.add_argument("roots", type=Path, nargs="+")
    parser.add_argument("--model", action="append", default=[])
    parser.add_argument("--precision", action="append", default=[])
    parser.add_argument("--flip", action="store_true", help="also with mirrored crops")
    parser.add_argument("--osnet", type=Path)
    parser.add_argument("--omz", type=Path)
    parser.add_argument("--json", type=Path, help="also write all figures to this file")
    options = parser.parse_args()
    sets = [passreid.read_dataset(root) for root in options.roots]
    scores: dict[str, dict[str, Scores]] = {data.name: {} for data in sets}
    figures: dict[str, Any] = {"crops_per_second": {}}
    print("crops a second, network alone")
    for network in networks(options):
        speed = network.crops_per_second()
        figures["crops_per_second"][network.name] = speed
        print(f"  {network.name:<36} {speed:7.1f}", flush=True)
        for data in sets:
            sides = (network.embed([s.path for s in side]) for side in (data.query, data.gallery))
            scores[data.name][network.name] = Scores(data, *sides)
    for name, found in scores.items():
        figures[name] = print_set(name, found)
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
