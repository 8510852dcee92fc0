"""Held-out accuracy and speed of a model beside other people's networks, in one run.

    python benchmarks/peers.py ROOT --osnet osnet_x0_25_msmt17.onnx \
        --omz person-reidentification-retail-0288.xml

ROOT is a labelled set. OSNet runs on ONNX Runtime, the Open Model Zoo network on OpenVINO (pip
install openvino). All are ranked by the same code: cosine, same person and same camera left out.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt

import passreid
from passreid.card import IMAGENET_MEAN, IMAGENET_STD
from passreid.data import ReIDDataset
from passreid.images import normalise, read_image, to_pixels
from passreid.ranking import Labels, measure, measure_distances

F32 = npt.NDArray[np.float32]
Network = Callable[[npt.NDArray[np.uint8]], F32]


def osnet(path: Path) -> Network:
    """OSNet: RGB 256x128 with ImageNet statistics."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    name, batch = session.get_inputs()[0].name, session.get_inputs()[0].shape[0]

    def run(crops: npt.NDArray[np.uint8]) -> F32:
        pixels = normalise(crops, IMAGENET_MEAN, IMAGENET_STD)
        parts = [pixels] if isinstance(batch, str) else np.split(pixels, len(pixels))
        return np.concatenate([session.run(None, {name: part})[0] for part in parts])

    return run


def omz(path: Path) -> Network:
    """Open Model Zoo: BGR 256x128, 0-255."""
    import openvino

    network = openvino.Core().compile_model(str(path), "CPU")

    def run(crops: npt.NDArray[np.uint8]) -> F32:
        planes = crops[..., ::-1].transpose(0, 3, 1, 2).astype(np.float32)
        rows = [network(planes[i : i + 1])[0] for i in range(len(planes))]
        return np.concatenate(rows).reshape(len(planes), -1)

    return run


def embed_with(network: Network, paths: list[Path]) -> F32:
    """Files to vectors for a peer, in batches of 32."""
    rows = []
    for start in range(0, len(paths), 32):
        batch = [to_pixels(read_image(path), (256, 128)) for path in paths[start : start + 32]]
        rows.append(network(np.stack(batch)))
    return np.concatenate(rows)


def score(name: str, embed: Callable[[list[Path]], F32], data: ReIDDataset, rerank: bool) -> None:
    """Embed both sides, measure, print one row."""
    start = time.perf_counter()
    query = embed([sample.path for sample in data.query])
    gallery = embed([sample.path for sample in data.gallery])
    speed = (len(query) + len(gallery)) / (time.perf_counter() - start)
    labels = Labels(
        [s.pid for s in data.query],
        [s.pid for s in data.gallery],
        query_camids=[s.camid for s in data.query],
        gallery_camids=[s.camid for s in data.gallery],
    )
    result = measure(query, gallery, labels=labels)
    rows = [(name, result)]
    if rerank:
        distances = passreid.rerank(query, gallery)
        rows.append((f"{name}, re-ranked", measure_distances(distances, labels=labels)))
    for title, m in rows:
        ranks = "  ".join(f"{100 * m.rank(k):6.2f}" for k in (1, 5, 10))
        print(f"{title:<38} {100 * m.mAP:6.2f}  {ranks}  {100 * m.mINP:6.2f}  {speed:6.0f}/s")


def main() -> None:
    """Read the options and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else "")
    parser.add_argument("root", type=Path)
    parser.add_argument("--model", action="append", default=[])
    parser.add_argument("--precision", action="append", default=[])
    parser.add_argument("--osnet", type=Path)
    parser.add_argument("--omz", type=Path)
    options = parser.parse_args()
    data = passreid.read_dataset(options.root)
    print(
        f"{'model':<38} {'mAP':>6}  {'R1':>6}  {'R5':>6}  {'R10':>6}  {'mINP':>6}  files to vectors"
    )
    for model in options.model or ["passreid-tiny"]:
        for precision in options.precision or ["float32"]:
            for flip in (False, True):
                embedder = passreid.load(model, flip=flip, precision=precision)
                engine = f"{embedder.backend}, {embedder.precision}{', flip' if flip else ''}"
                score(f"{embedder.card.name} ({engine})", embedder, data, rerank=not flip)
    if options.osnet:
        network = osnet(options.osnet)
        score("OSNet x0.25 MSMT17", lambda paths: embed_with(network, paths), data, False)
    if options.omz:
        other = omz(options.omz)
        score("OMZ retail-0288", lambda paths: embed_with(other, paths), data, False)


if __name__ == "__main__":
    main()
