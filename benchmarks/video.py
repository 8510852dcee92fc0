"""Time the parts of `passreid video` on a clip, and watch its memory over many loops of it.

    python benchmarks/video.py clip.mp4 --detector person-detection-0200.xml --loops 10

Seconds are of processor time over all threads, so other work on the machine does not count; frames
a second are those of the wall clock.
"""

from __future__ import annotations

import argparse
import resource
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

import passreid
from passreid.video import Frame, open_detector, read_frames, tracklets
from passreid.video.frames import frame_rate
from passreid.video.tracking import ByteTrack


class Clock:
    """Processor seconds spent in each part."""

    def __init__(self) -> None:
        self.spent: dict[str, float] = {}

    def wrap(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return the function, timed under a name."""

        def timed(*arguments: Any, **options: Any) -> Any:
            began = time.process_time()
            try:
                return function(*arguments, **options)
            finally:
                self.spent[name] = self.spent.get(name, 0) + time.process_time() - began

        return timed


class Timed:
    """An embedder whose calls are timed."""

    def __init__(self, embedder: passreid.Embedder, clock: Clock) -> None:
        self.calibration = embedder.calibration
        self.call = clock.wrap("embed", embedder)

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        """Embed."""
        return self.call(*arguments, **options)


def looped(path: str, every: int, loops: int, clock: Clock) -> Iterator[Frame]:
    """Yield the clip's frames, again and again, with numbers that go on."""
    number, seconds = 0, 0.0
    for _ in range(loops):
        frames = read_frames(path, every=every)
        step = clock.wrap("read", lambda frames=frames: next(frames, None))
        frame = None
        while (frame := step()) is not None:
            yield Frame(number + frame.number, seconds + frame.seconds, frame.pixels)
            last = frame
        number, seconds = number + last.number + 1, seconds + last.seconds + 10


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("clip")
    parser.add_argument("--detector", default="person-detection-0200")
    parser.add_argument("--every", type=int, default=1)
    parser.add_argument("--loops", type=int, default=1)
    options = parser.parse_args()
    clock = Clock()
    embedder: Any = Timed(passreid.load(), clock)
    detector = clock.wrap("detect", open_detector(Path(options.detector)))
    tracker = clock.wrap("track", ByteTrack(frame_rate(options.clip) / options.every))
    began, processor, count, found, memory = time.monotonic(), time.process_time(), 0, 0, []

    def counted() -> Iterator[Frame]:
        nonlocal count
        for frame in looped(options.clip, options.every, options.loops, clock):
            count += 1
            if count % 200 == 0:
                memory.append(int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 2**20)
            yield frame

    for _ in tracklets(counted(), embedder, detector=detector, tracker=tracker):
        found += 1
    wall, used = time.monotonic() - began, time.process_time() - processor
    print(
        f"{count} frames, {found} tracklets, {count / wall:.0f} frames/s, {used:.1f} s of processor"
    )
    for name, spent in sorted(clock.spent.items(), key=lambda item: -item[1]):
        print(f"  {name:7} {spent:6.1f} s  {100 * spent / used:4.1f} %")
    print(f"  other   {used - sum(clock.spent.values()):6.1f} s")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    parts = np.array_split(np.array(memory), 5)
    print("memory, MiB, over fifths of the run:", [round(float(p.max())) for p in parts if len(p)],
          "peak", round(peak))  # fmt: skip


if __name__ == "__main__":
    main()
