"""The service under load: 4 clients, 200 at once, broken uploads, a kill amid an enrolment.

    python benchmarks/serving.py [--seconds 60] [--broken 10000]

Prints a table row for each; everything runs on this machine against a `passreid serve` of its own.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import numpy as np
from PIL import Image

import passreid


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--broken", type=int, default=10_000)
    options = parser.parse_args()
    pictures = [draw(seed) for seed in range(64)]
    with tempfile.TemporaryDirectory() as folder:
        with service(Path(folder) / "a.gallery") as (address, process):
            four_clients(address, process.pid, pictures, options.seconds)
            two_hundred(address, pictures)
            broken(address, process.pid, pictures, options.broken)
        killed(Path(folder) / "b.gallery", pictures)


def four_clients(address: str, pid: int, pictures: list[bytes], seconds: float) -> None:
    """Throughput of 4 clients that embed, against the embedder alone."""
    for size in (16, 1):
        before, memory = bare(pictures, seconds / 6), resident(pid)
        same = bare(pictures[: 4 * size], seconds / 6)  # as many as 4 clients have under way
        done, counts = load(address, pictures, clients=4, seconds=seconds / 2, size=size)
        print(
            f"4 clients, {size} crops a request: {done:.1f} crops/s; alone {before:.1f} in batches "
            f"of 32, {same:.1f} given {4 * size} crops a call; answers {dict(counts)}; "
            f"memory {memory:.0f} -> {resident(pid):.0f} MiB"
        )


def two_hundred(address: str, pictures: list[bytes]) -> None:
    """200 clients that never wait, then one again."""
    _, counts = load(address, pictures, clients=200, seconds=10, size=1)
    began = time.perf_counter()
    status = embed(httpx.Client(timeout=60), address, pictures[:1])
    took = time.perf_counter() - began
    print(f"200 clients: answers {dict(counts)}; then one: {status} in {took:.2f} s")


def broken(address: str, pid: int, pictures: list[bytes], number: int) -> None:
    """Uploads and fields that are cut, flipped, padded or noise."""
    chance = random.Random(0)
    counts: Counter[int] = Counter()
    tracebacks, memory = 0, 0.0
    with httpx.Client(base_url=address, timeout=60) as client:
        for turn in range(number):
            if turn == number // 10:
                memory = resident(pid)
            data = bytearray(chance.choice(pictures))
            for _ in range(chance.randrange(1, 20)):
                data[chance.randrange(len(data))] = chance.randrange(256)
            kind = chance.randrange(4)
            file = bytes(data[: chance.randrange(len(data))]) if kind else bytes(data)
            file = chance.randbytes(500) if kind == 1 else file
            path, field = chance.choice(
                [("search", "images"), ("embed", "images"), ("entries", "files")]
            )
            fields = {"box": file[:9].hex(), "about": '{"payload": NaN}'} if kind == 2 else {}
            if kind == 3:
                head = {"content-type": "multipart/form-data; boundary=b"}
                body = b"--b\r\nContent-Disposition: form-data; name=images; filename=x\r\n" + file
                answer = client.post(f"/v1/{path}", content=body, headers=head)
            else:
                answer = client.post(f"/v1/{path}", files={field: ("x.jpg", file)}, data=fields)
            counts[answer.status_code] += 1
            tracebacks += "Traceback" in answer.text or 'File "' in answer.text
    print(
        f"{number} broken uploads: answers {dict(counts)}, {tracebacks} tracebacks; "
        f"memory {memory:.0f} -> {resident(pid):.0f} MiB"
    )


def killed(gallery: Path, pictures: list[bytes]) -> None:
    """kill -9 while an enrolment streams; what was acknowledged must be there."""
    promised: list[str] = []
    with service(gallery) as (address, process):
        files = [("files", (f"{i}.png", picture)) for i, picture in enumerate(pictures)]
        try:
            with httpx.stream("POST", f"{address}/v1/entries", files=files, timeout=60) as answer:
                for line in answer.iter_lines():
                    promised += [json.loads(line)["id"]]
                    if len(promised) == 20:
                        process.send_signal(signal.SIGKILL)
        except httpx.HTTPError:
            pass
    with service(gallery) as (address, _):
        there = [httpx.get(f"{address}/v1/entries/{each}").status_code for each in promised]
    print(
        f"kill -9: {len(promised)} acknowledged of {len(pictures)}, {there.count(200)} there again"
    )


def load(
    address: str, pictures: list[bytes], *, clients: int, seconds: float, size: int
) -> tuple[float, Counter[str]]:
    """Crops a second that were answered, and how often each status came."""
    counts: Counter[str] = Counter()
    until = time.perf_counter() + seconds

    def work(number: int) -> None:
        chance = random.Random(number)
        with httpx.Client(timeout=60) as client:
            while time.perf_counter() < until:
                counts[embed(client, address, chance.choices(pictures, k=size))] += 1

    began = time.perf_counter()
    run_all([lambda n=n: work(n) for n in range(clients)])  # type: ignore[misc]
    return counts["200"] * size / (time.perf_counter() - began), counts


def embed(client: httpx.Client, address: str, pictures: list[bytes]) -> str:
    files = [("images", ("x.png", picture)) for picture in pictures]
    try:
        return str(client.post(f"{address}/v1/embed", files=files).status_code)
    except httpx.HTTPError as error:
        return type(error).__name__


def run_all(tasks: list[Callable[[], None]]) -> None:
    threads = [threading.Thread(target=task) for task in tasks]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def bare(pictures: list[bytes], seconds: float) -> float:
    """Crops a second of the embedder alone, in this process."""
    embedder = passreid.load()
    embedder(pictures)
    began, done = time.perf_counter(), 0
    while time.perf_counter() - began < seconds:
        done += len(embedder(pictures))
    return done / (time.perf_counter() - began)


@contextmanager
def service(gallery: Path) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    command = [sys.executable, "-m", "passreid", "serve", "--gallery", str(gallery), "--port", "0"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    address = None
    for line in process.stderr:
        if found := re.search(r"http://[\d.:]+", line):
            address = found.group()
            break
    if address is None:
        raise SystemExit("the service did not start")
    threading.Thread(target=process.stderr.read, daemon=True).start()
    while True:
        try:
            if httpx.get(f"{address}/readyz").is_success:
                break
        except httpx.HTTPError:
            time.sleep(0.05)
    try:
        yield address, process
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()


def resident(pid: int) -> float:
    """MiB of memory of a process."""
    text = Path(f"/proc/{pid}/statm").read_text()
    return int(text.split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def draw(seed: int) -> bytes:
    """A picture of 128 x 64 pixels as a PNG."""
    coarse = np.random.default_rng(seed).integers(0, 256, (8, 4, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(coarse).resize((64, 128)).save(file, "PNG")
    return file.getvalue()


if __name__ == "__main__":
    main()
