"""Runs: going on after a kill, several processes, Ray, the verb."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import passreid
from passreid.bulk import Bulk, embed_all, run
from passreid.cli.app import ModelOptions
from passreid.embed import Embedder
from passreid.errors import DatasetError, ModelNotFoundError, UsageError
from tests.bulk.conftest import MODEL, rows
from tests.cli.conftest import cli  # noqa: F401
from tests.small import Colours, picture


def test_what_is_done_is_not_done_again(folder: Path, tmp_path: Path, quick: Colours) -> None:
    output = tmp_path / "out.parquet"
    embed_all([str(folder)], output, model=MODEL, per_part=2)
    before = {path: path.read_bytes() for path in output.glob("part-*")}
    (output / "part-000001.parquet").write_bytes(b"damaged")
    with pytest.raises(DatasetError, match=r"part-000001.*Delete it and repeat"):
        embed_all([str(folder)], output, model=MODEL, per_part=2)
    (output / "part-000001.parquet").unlink()
    (output / ".0123.parquet").write_bytes(b"half")
    quick.batches.clear()
    assert embed_all([str(folder)], output, model=MODEL, per_part=2) == Bulk(7, 0, 4, 3)
    assert quick.batches == [2]
    assert {path: path.read_bytes() for path in output.glob("*.parquet")} == before
    assert not (output / ".0123.parquet").exists()


@pytest.mark.usefixtures("quick")
def test_another_run_is_refused(folder: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.parquet"
    embed_all([str(folder)], output, model=MODEL)
    with pytest.raises(UsageError, match=r"\(model differ\)"):
        embed_all([str(folder)], output, model=MODEL | {"flip": True})
    (folder / "ü" / "0.png").unlink()
    with pytest.raises(UsageError, match="sources_sha256"):
        embed_all([str(folder)], output, model=MODEL)
    with pytest.raises(UsageError, match="not a folder of embeddings"):
        embed_all([str(folder)], folder.parent, model=MODEL)
    with pytest.raises(UsageError, match="which is read"):
        embed_all([str(folder)], folder / "out.parquet", model=MODEL)


def test_the_verb_writes_a_folder_and_says_what_failed(
    cli: Any,  # noqa: F811
    folder: Path,
    tmp_path: Path,
) -> None:
    output = tmp_path / "out.parquet"
    (folder / "bad.jpg").write_bytes(b"no picture")
    ran = cli("embed", folder, "--output", output)
    assert ran.code == 1
    assert "7 embeddings" in ran.err and "1 could not be embedded" in ran.err
    assert "" not in ran.err.splitlines()  # of a bar that nobody watches
    paths = sorted(map(str, folder.rglob("*.png")))
    found = rows(output)
    np.testing.assert_allclose([found[p] for p in paths], passreid.load()(paths), atol=1e-4)
    (folder / "bad.jpg").unlink()
    assert cli("embed", folder, "--output", output).code == 2
    refused = cli("embed", folder, "--workers", 2)
    assert (refused.code, ".parquet" in refused.err) == (2, True)
    assert cli("embed", folder, "--json", "--output", tmp_path / "new.parquet").code == 2
    assert not (tmp_path / "new.parquet").exists()


def test_the_verb_enrols_in_a_gallery_once(
    cli: Any,  # noqa: F811
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pytest.importorskip("faiss")
    from passreid.gallery import Where, identity, open_gallery

    (folder / "again.png").write_bytes((folder / "ü" / "0.png").read_bytes())
    output, path = tmp_path / "out.parquet", tmp_path / "people.gallery"
    load, loaded = ModelOptions.load, []

    def counted(options: ModelOptions) -> Embedder:
        loaded.append(options)
        return load(options)

    monkeypatch.setattr(ModelOptions, "load", counted)
    for count in ("7 enrolled", "0 enrolled"):
        ran = cli("embed", folder, "--output", output, "--gallery", path)
        assert (ran.code, count in ran.err) == (0, True), ran.err
    assert len(loaded) == 2  # once for each run, whose workers have their own
    embedder = passreid.load()
    assert run.identify(MODEL) == identity(embedder)
    with open_gallery(path, model=identity(embedder)) as gallery:
        crop = str(folder / "ü" / "3.png")
        assert gallery.count() == 7
        (hit,) = gallery.search(embedder([crop])[0], top_k=1)
        assert hit.entry.source == crop
        assert hit.score == pytest.approx(1, abs=1e-2)
        assert gallery.count(Where(sources=(crop,))) == 1
    late = tmp_path / "late.parquet"
    ran = cli("embed", folder, "--output", late, "--gallery", "http://host/no/name")
    assert (ran.code, "http://host/no/name: write a server's gallery" in ran.err) == (2, True)
    assert not late.exists()  # it is said before anything is embedded


def start(folder: Path, output: Path, *options: str) -> subprocess.Popen[bytes]:
    script = (
        "import sys; from passreid.bulk import run; run.embed_all.__kwdefaults__['per_part'] = 2\n"
        "from passreid.cli import main\n"
        "if __name__ == '__main__': main(sys.argv[1:])\n"
    )
    path = output.parent / "small_parts.py"
    path.write_text(script)
    command = [sys.executable, str(path), "embed", str(folder), "--output", str(output), *options]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def wait_for(parts: int, output: Path, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while len(list(output.glob("part-*"))) < parts:
        assert time.monotonic() < end, "no part appeared"
        time.sleep(0.005)


def draw_many(folder: Path, count: int) -> None:
    for seed in range(7, count):
        Image.fromarray(picture(seed)).save(folder / "ü" / f"{seed}.png")


@pytest.mark.slow
@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_killed_run_goes_on(folder: Path, tmp_path: Path, workers: str) -> None:
    draw_many(folder, 40)
    output = tmp_path / "out.parquet"
    for parts in (1, 4):
        process = start(folder, output, "--workers", workers)
        wait_for(parts, output)
        process.send_signal(signal.SIGKILL)
        process.wait()
    kept = {path: path.stat().st_mtime_ns for path in output.glob("part-*")}
    assert 4 <= len(kept) < 20
    assert start(folder, output, "--workers", workers).wait() == 0
    assert all(path.stat().st_mtime_ns == when for path, when in kept.items())
    paths = sorted(map(str, folder.rglob("*.png")))
    found = rows(output)
    assert sorted(found) == paths
    np.testing.assert_allclose([found[p] for p in paths], passreid.load()(paths), atol=1e-4)
    assert sorted(p.name for p in output.iterdir() if not p.name.startswith("part-")) == [
        "_run.json"
    ]


@pytest.mark.slow
def test_a_model_that_workers_cannot_load_is_not_taken_for_a_kill(
    folder: Path, tmp_path: Path
) -> None:
    model = MODEL | {"precision": "int8"}
    with pytest.raises(ModelNotFoundError, match="has no model"):
        embed_all([str(folder)], tmp_path / "out.parquet", model=model, workers=2)


@pytest.mark.slow
def test_a_killed_worker_ends_the_run_in_a_sentence(folder: Path, tmp_path: Path) -> None:
    def kill_one(done: int, total: int) -> None:
        if done == 1:
            os.kill(_children(os.getpid(), "spawn_main")[0], signal.SIGKILL)

    output = tmp_path / "out.parquet"
    draw_many(folder, 20)
    with pytest.raises(DatasetError, match="was killed"):
        embed_all([str(folder)], output, model=MODEL, workers=2, per_part=2, progress=kill_one)
    assert embed_all([str(folder)], output, model=MODEL, per_part=2).embeddings == 20


@pytest.mark.slow
@pytest.mark.loopback
@pytest.mark.enable_socket
@pytest.mark.timeout(280)
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::UserWarning:ray")
def test_ray_gives_the_same_vectors_after_a_worker_is_killed(folder: Path, tmp_path: Path) -> None:
    ray = pytest.importorskip("ray")
    draw_many(folder, 120)
    output = tmp_path / "out.parquet"
    killed: list[int] = []

    def kill_one() -> None:
        wait_for(3, output, 200)
        killed.append(_children(os.getpid(), "RayWorker")[0])
        os.kill(killed[0], signal.SIGKILL)

    # pytest's folders have names too long for the sockets Ray keeps in its own.
    short = tempfile.mkdtemp(prefix="ray-")
    ray.init(
        address="local",
        num_cpus=2,
        include_dashboard=False,
        log_to_driver=False,
        object_store_memory=2**27,
        _temp_dir=short,
    )
    killer = threading.Thread(target=kill_one)
    killer.start()
    try:
        result = embed_all([str(folder)], output, model=MODEL, workers=2, ray="local", per_part=5)
    finally:
        killer.join()
        ray.shutdown()
        shutil.rmtree(short, ignore_errors=True)
    assert killed
    assert (result.embeddings, result.failures) == (120, 0)
    paths = sorted(map(str, folder.rglob("*.png")))
    found = rows(output)
    assert sorted(found) == paths
    np.testing.assert_allclose([found[p] for p in paths], passreid.load()(paths), atol=1e-4)


def _children(parent: int, named: str) -> list[int]:
    """Processes below this one whose command line says so."""
    above: dict[int, int] = {}
    lines: dict[int, str] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                status = (entry / "stat").read_text().rpartition(")")[2].split()
                lines[int(entry.name)] = (entry / "cmdline").read_text()
            except OSError:
                continue
            above[int(entry.name)] = int(status[1])

    def below(pid: int) -> bool:
        while pid in above and pid != parent:
            pid = above[pid]
        return pid == parent

    return [pid for pid, line in lines.items() if named in line and below(pid)]
