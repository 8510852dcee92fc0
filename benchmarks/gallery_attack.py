"""Attack a gallery's file and compare what it answers with the truth; prints one line a round.

    python benchmarks/gallery_attack.py kills FOLDER --rounds 100     SIGKILL in the middle of work
    python benchmarks/gallery_attack.py full FOLDER                   a small disk that runs full
    python benchmarks/gallery_attack.py crowd FOLDER --seconds 60     two writers, four readers
    python benchmarks/gallery_attack.py damage FOLDER --rounds 200    flipped, cut and zeroed bytes
    python benchmarks/gallery_attack.py forget FOLDER --rounds 50     bytes of what was forgotten

Every change is written to a journal before it is begun and again when it is acknowledged, so the
truth is known whatever happens to the process that makes it.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from passreid.errors import GalleryError, PassreidError
from passreid.gallery import (
    Entry,
    Gallery,
    Where,
    export_parquet,
    import_parquet,
    open_gallery,
    restore,
    snapshot,
)
from passreid.gallery.check import check

DIM, MODEL = 64, "attacked@1"
OPERATIONS = ("add", "add", "update", "remove", "snapshot", "restore", "import")
State = dict[str, str]
"""Content hash -> person."""


def entry(number: int, person: str = "nobody", thumbnail: int = 0) -> Entry:
    return Entry(
        content_hash=str(number),
        embedding=np.random.default_rng(number).standard_normal(DIM).astype(np.float32),
        person=person,
        payload={"number": number},
        thumbnail=bytes([number % 251]) * thumbnail or None,
    )


def opened(place: Path) -> Gallery:
    return open_gallery(place, model=MODEL, dim=DIM, create=True)


def state_of(place: Path) -> State:
    """Read a gallery whole; every vector and label is held against what was enrolled."""
    found: State = {}
    with opened(place) as gallery:
        for each in gallery.page(limit=10**6, whole=True).entries:
            truth = entry(int(each.content_hash)).embedding
            assert truth is not None and each.embedding is not None
            assert each.content_hash not in found, "twice"
            assert float(each.embedding @ truth) / np.linalg.norm(truth) > 0.999, "another vector"
            found[each.content_hash] = str(each.person)
    return found


def applied(state: State, change: dict[str, Any]) -> State:
    numbers = [str(number) for number in change["numbers"]]
    if change["kind"] in ("add", "import"):
        return dict.fromkeys(numbers, change["person"]) | state
    if change["kind"] == "update":
        return state | {number: change["person"] for number in numbers if number in state}
    if change["kind"] == "remove":
        return {key: person for key, person in state.items() if key not in numbers}
    return state


class Journal:
    """Changes that were begun and acknowledged, in a file that survives its process."""

    def __init__(self, path: Path) -> None:
        self._path = path

    @contextlib.contextmanager
    def change(self, **what: Any) -> Iterator[None]:
        self._write(what)
        yield
        self._write({"done": True})

    def _write(self, what: dict[str, Any]) -> None:
        with self._path.open("a") as file:
            file.write(json.dumps(what) + "\n")

    def states(self) -> list[State]:
        """The states a gallery may be in: the acknowledged one, and that of the last change."""
        state: State = {}
        begun = None
        for line in self._path.read_text().splitlines() if self._path.exists() else ():
            what = json.loads(line)
            if "done" in what:
                state, begun = applied(state, begun or {"kind": "", "numbers": []}), None
            elif "settled" in what:
                state, begun = what["settled"], None
            else:
                begun = what
        return [state] if begun is None else [state, applied(state, begun)]

    def settle(self, state: State) -> None:
        """Note which of the two it was."""
        self._write({"settled": state})


def work(folder: Path, seed: int, kinds: tuple[str, ...]) -> None:
    """Change a gallery at random until killed."""
    rng, journal, place = np.random.default_rng(seed), Journal(folder / "journal"), folder / "g"
    (state, *_) = journal.states()
    following = max(map(int, state), default=-1) + 1 + 10**6 * seed
    with opened(place) as gallery:
        print("ready", flush=True)
        for turn in range(10**6):
            kind = kinds[int(rng.integers(len(kinds)))]
            some = rng.permutation(sorted(map(int, state)))[: int(rng.integers(1, 80))].tolist()
            person = f"p{seed}-{turn}"
            if kind in ("add", "import"):
                some = list(range(following, following + int(rng.integers(1, 120))))
                following += len(some)
            what = {"kind": kind, "numbers": some, "person": person}
            if kind == "import":
                with opened(folder / "source") as other:
                    other.remove(Where(), everything=True)
                    other.add(entry(number, person, 900) for number in some)
                    export_parquet(other, folder / "source.parquet")
            with journal.change(**what):
                ids = [entry(number).id for number in some]
                if kind == "add":
                    gallery.add([entry(number, person, 900) for number in some])
                elif kind == "import":
                    import_parquet(gallery, folder / "source.parquet")
                elif kind == "update" and ids:
                    gallery.update(ids, person=person)
                elif kind == "remove" and ids:
                    gallery.remove(Where(ids=tuple(ids)))
                elif kind == "snapshot":
                    snapshot(place, folder / f"{seed}-{turn}.snapshot")
                elif kind == "restore" and (kept := sorted(folder.glob("[0-9]*.snapshot"))):
                    restore(kept[-1], folder / f"{seed}-{turn}.restored")
            state = applied(state, what)


def started(folder: Path, seed: int, kinds: tuple[str, ...] = OPERATIONS) -> Any:
    command = [sys.executable, __file__, "work", str(folder), "--seed", str(seed)]
    return subprocess.Popen([*command, "--kinds", *kinds], stdout=subprocess.PIPE, text=True)


def kills(folder: Path, rounds: int) -> None:
    rng, journal = np.random.default_rng(0), Journal(folder / "journal")
    for number in range(rounds):
        running = started(folder, number)
        running.stdout.readline()
        time.sleep(float(rng.uniform(0.02, 1.0)))
        running.send_signal(signal.SIGKILL)
        running.wait()
        running.stdout.close()
        allowed, found = journal.states(), state_of(folder / "g")
        assert found in allowed, f"round {number}: lost, half or resurrected"
        journal.settle(found)
        copies = [*folder.glob("[0-9]*.snapshot"), *folder.glob("[0-9]*.restored")]
        for copy in copies:
            assert check(copy).sound, copy
        print(f"{number}: {len(found)} entries, {len(copies)} copies, right", flush=True)
        for copy in copies[:-2]:
            copy.unlink()
        for left in folder.glob(".*"):
            left.unlink()


def full(folder: Path) -> None:
    """Run out of disk at ten moments and sizes of change."""
    disk = folder / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(disk)]
    subprocess.run(mount, check=True)
    try:
        for number, (free, size) in enumerate(
            zip(
                (2**14, 2**16, 2**16, 2**18, 2**19, 2**20, 2**20, 2**21, 3 * 2**20, 5 * 2**20),
                (1, 1, 300, 50, 900, 300, 2000, 900, 2000, 2000),
                strict=True,
            )
        ):
            for kind in ("add", "update", "remove", "snapshot", "import"):
                out_of_room(disk, kind, free, size)
                for file in [*disk.iterdir()]:
                    file.unlink()
            print(f"{number}: {free} bytes free, {size} entries: told or done, right", flush=True)
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def out_of_room(disk: Path, kind: str, free: int, size: int) -> None:
    journal = Journal(disk.parent / "journal")
    numbers = list(range(size))
    with opened(disk / "g") as gallery:
        first = range(500) if kind == "add" else range(max(size, 500))
        gallery.add([entry(number, "p", 500) for number in first])
    before = state_of(disk / "g")
    journal.settle(before)
    numbers = [n + 10_000 for n in numbers] if kind in ("add", "import") else numbers
    with opened(disk.parent / "source") as other:
        other.remove(Where(), everything=True)
        other.add([entry(number, "new", 2000) for number in numbers])
        export_parquet(other, disk.parent / "source.parquet")
    filler = disk / "filler"
    room = os.statvfs(disk)
    filler.write_bytes(bytes(max(room.f_bavail * room.f_frsize - free, 0)))
    change = json.dumps({"kind": kind, "numbers": numbers, "person": "new"})
    command = [sys.executable, __file__, "once", str(disk), "--change", change]
    ran = subprocess.run(command, capture_output=True, text=True)
    told = ran.returncode == 1 and "disk is full" in ran.stdout
    assert ran.returncode == 0 or told, (kind, free, size, ran)
    filler.unlink()
    after = applied(before, json.loads(change))
    found = state_of(disk / "g")
    if ran.returncode == 0:
        assert found == after, (kind, free, size)
    elif kind in ("add", "import"):  # these are made in parts, of which the first may be there
        assert before.items() <= found.items() <= after.items(), (kind, free, size)
    else:
        assert found == before, (kind, free, size)
    assert check(disk / "g").sound
    print(f"   {kind}: {'told' if told else 'done'}", flush=True)


def once(folder: Path, change: dict[str, Any]) -> int:
    """Make one change; its error is the last line."""
    ids = tuple(entry(number).id for number in change["numbers"])
    try:
        with opened(folder / "g") as gallery:
            if change["kind"] == "add":
                gallery.add([entry(number, "new", 2000) for number in change["numbers"]])
            elif change["kind"] == "import":
                import_parquet(gallery, folder.parent / "source.parquet")
            elif change["kind"] == "update":
                gallery.update(ids, person="new")
            elif change["kind"] == "remove":
                gallery.remove(Where(ids=ids))
            else:
                snapshot(folder / "g", folder / "s.snapshot")
    except PassreidError as error:
        print(error)
        return error.exit_code
    return 0


def read(folder: Path, seconds: float) -> None:
    """Search for what was acknowledged, and for nothing that was forgotten; print what is wrong."""
    rng, until, asked = np.random.default_rng(os.getpid()), time.monotonic() + seconds, 0
    with open_gallery(folder / "g", model=MODEL, read_only=True) as gallery:
        while time.monotonic() < until:
            journals = [Journal(path) for path in sorted(folder.glob("*/journal"))]
            before = [journal.states()[0] for journal in journals]
            sure = {key for state in before for key in state}
            if not sure:
                continue
            key = str(rng.permutation(sorted(sure))[0])
            hits = gallery.search(entry(int(key)).embedding, top_k=1)  # type: ignore[arg-type]
            after = any(all(key in state for state in journal.states()) for journal in journals)
            if after and [hit.entry.content_hash for hit in hits] != [key]:
                print("wrong", key, hits, flush=True)
            asked += 1
    print("asked", asked, flush=True)


def crowd(folder: Path, seconds: float) -> None:
    kinds = ("add", "update", "remove", "add")
    with opened(folder / "g"):
        pass
    writers = []
    for seed in (1, 2):
        (folder / str(seed)).mkdir()
        (folder / str(seed) / "g").symlink_to(folder / "g")
        writers.append(started(folder / str(seed), seed, kinds))
    command = [sys.executable, __file__, "read", str(folder), "--seconds", str(seconds)]
    readers = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    said = [reader.communicate()[0] for reader in readers]
    for writer in writers:
        assert writer.poll() is None, "a writer ended"
        writer.send_signal(signal.SIGKILL)
        writer.communicate()
    found = state_of(folder / "g")
    for seed in (1, 2):
        own = {key: person for key, person in found.items() if person.startswith(f"p{seed}-")}
        assert own in Journal(folder / str(seed) / "journal").states(), "lost or wrong"
    assert all("wrong" not in lines and "asked" in lines for lines in said), said
    print(f"{len(found)} entries, all right; readers {[line.strip() for line in said]}")


def answers(place: Path) -> Any:
    """All that can be asked of a gallery."""
    with open_gallery(place) as gallery:
        listed = [
            (e.id, e.person, e.camera, e.time, dict(e.payload), e.thumbnail)
            for e in gallery.page(limit=10**6, whole=True).entries
        ]
        queries = [entry(number).embedding for number in range(0, 400, 40)]
        wheres = (None, Where(people=("p3",)))
        found = [
            [(hit.entry.id, hit.score) for hit in gallery.search(q, top_k=50, where=w)]  # type: ignore[arg-type]
            for q in queries
            for w in wheres
        ]
        return listed, found, gallery.tally("person"), gallery.count(Where(people=("p2",)))


def damage(folder: Path, rounds: int) -> None:
    rng, place, kept = np.random.default_rng(0), folder / "g", folder / "kept"
    kept.mkdir()
    with opened(place) as gallery:
        gallery.add([entry(number, f"p{number % 7}", 900) for number in range(400)])
        truths = [answers(place)]
        engine: Any = gallery
        emptied = engine._empty_log
        # A process that is killed now leaves its last change in the log alone.
        engine._empty_log = lambda *_: [shutil.copy(f, kept) for f in folder.glob("g*")]
        gallery.add([entry(number, "p3", 900) for number in range(400, 450)])
        engine._empty_log = emptied
        engine.compact()
        truths.append(answers(place))
    counts = {"harmless": 0, "told": 0}
    for number in range(rounds):
        for file in folder.glob("g*"):
            file.unlink()
        for file in kept.iterdir():
            if not file.name.endswith("-shm"):
                shutil.copy(file, folder)
        file = place.with_name("g-wal") if number % 4 == 3 else place
        kind = ("flip", "flip", "flip", "zero", "cut", "remove")[int(rng.integers(6))]
        data, at = bytearray(file.read_bytes()), int(rng.integers(file.stat().st_size))
        if kind == "flip":
            data[at] ^= 1 << int(rng.integers(8))
        elif kind == "zero":
            data[at : at + 4096] = bytes(len(data[at : at + 4096]))
        elif kind == "cut":
            del data[at:]
        file.write_bytes(bytes(data))
        if kind == "remove":
            file.unlink()
        try:
            # What was in the log alone was never acknowledged: both states are right.
            assert answers(place) in truths, f"{kind} of {file.name} at {at}: a wrong answer"
            counts["harmless"] += 1
        except GalleryError:
            counts["told"] += 1
    print(counts)


def forget(folder: Path, rounds: int) -> None:
    """Look for the bytes of forgotten entries in every file, while four processes search."""
    place, rng = folder / "g", np.random.default_rng(0)
    with opened(place) as gallery:
        gallery.add([entry(number, "kept", 900) for number in range(3000)])
        (folder / "1").mkdir()
        Journal(folder / "1" / "journal").settle({str(number): "kept" for number in range(3000)})
        command = [sys.executable, __file__, "read", str(folder), "--seconds", "600"]
        readers = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(4)]
        time.sleep(5)
        for turn in range(rounds):
            numbers = range(10_000 + 100 * turn, 10_000 + 100 * turn + int(rng.integers(1, 100)))
            secret = f"unmistakable-{turn}-"
            some = [entry(number, f"{secret}person", 900) for number in numbers]
            gallery.add(some)
            stored = gallery.get([each.id for each in some])
            gallery.update([some[0].id], payload={"said": secret * 500})
            assert gallery.remove(Where(people=(f"{secret}person",))) == len(some)
            assert not gallery.to_compact(), "the log is not empty"
            traces = [secret.encode(), *(each.id.encode() for each in some[::5])]
            traces += [np.asarray(e.embedding, np.float16).tobytes() for e in stored[::5]]
            for file in folder.glob("g*"):
                data = file.read_bytes()
                assert not any(trace in data for trace in traces), f"round {turn}: {file}"
        for reader in readers:
            assert reader.poll() is None, "a reader ended"
            reader.kill()
            assert "wrong" not in reader.communicate()[0]
    print(f"{rounds} forgettings, no byte left")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("attack")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kinds", nargs="+", default=OPERATIONS)
    parser.add_argument("--change", type=json.loads)
    options = parser.parse_args()
    folder = options.folder
    folder.mkdir(parents=True, exist_ok=True)
    match options.attack:
        case "kills":
            kills(folder, options.rounds)
        case "full":
            full(folder)
        case "crowd":
            crowd(folder, options.seconds)
        case "damage":
            damage(folder, options.rounds)
        case "forget":
            forget(folder, options.rounds)
        case "work":
            work(folder, options.seed, tuple(options.kinds))
        case "read":
            read(folder, options.seconds)
        case "once":
            sys.exit(once(folder, options.change))
        case other:
            parser.error(f"there is no attack {other}")


if __name__ == "__main__":
    main()
