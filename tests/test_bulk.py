"""Bulk embedding: every kind of source, going on after a kill, damage, several processes, Ray."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

import passreid
from passreid.bulk import Bulk, embed_all, run, work
from passreid.bulk.sources import Part, plan, read_part
from passreid.errors import DatasetError, ImageError, UsageError
from passreid.images import content_hash
from tests.cli.conftest import cli  # noqa: F401
from tests.small import Colours, colours, picture

MODEL = {"name_or_path": "passreid-tiny"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    crops = tmp_path / "crops" / "ü"
    crops.mkdir(parents=True)
    for seed in range(7):
        Image.fromarray(picture(seed)).save(crops / f"{seed}.png")
    return crops.parent


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> Colours:
    """A model whose numbers are colours, so that only the way there is tested."""
    network = Colours()
    monkeypatch.setattr(work, "load", lambda **options: colours(network=network, batch_size=2))
    return network


@pytest.fixture
def memory() -> Iterator[Any]:
    system = fsspec.filesystem("memory")
    yield system
    system.store.clear()
    system.pseudo_dirs[:] = [""]


def rows(output: Path) -> dict[str, np.ndarray]:
    table = pq.read_table(output)
    return dict(zip(table["source"].to_pylist(), table["embedding"].to_numpy(), strict=True))


def expected(folder: Path) -> dict[str, np.ndarray]:
    paths = sorted(folder.rglob("*.png"))
    return {str(path): colours()([path])[0] for path in paths}


def assert_same(found: dict[str, np.ndarray], wanted: dict[str, np.ndarray]) -> None:
    assert found.keys() == wanted.keys()
    for name in wanted:
        np.testing.assert_allclose(found[name], wanted[name], atol=1e-5)


def failures(output: Path) -> dict[str, str]:
    lines = (output / "_failures.jsonl").read_text().splitlines()
    return {line["source"]: line["reason"] for line in map(json.loads, lines)}


def put_in_tar(folder: Path, shard: Path, mode: str = "w") -> Path:
    with tarfile.open(shard, mode) as tar:  # type: ignore[call-overload]
        for path in sorted(folder.rglob("*.png")):
            tar.add(path, path.name)
        for name, kind in (("evil.png", tarfile.SYMTYPE), ("dev.png", tarfile.CHRTYPE)):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "/etc/passwd"
            tar.addfile(info)
        tar.addfile(tarfile.TarInfo("note.txt"), io.BytesIO())
    return shard


@pytest.mark.usefixtures("quick")
def test_a_folder_becomes_rows_with_source_hash_and_model(folder: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.parquet"
    assert embed_all([str(folder)], output, model=MODEL, per_part=3) == Bulk(7, 0, 3, 0)
    assert_same(rows(output), expected(folder))
    table = pq.read_table(output)
    assert table.schema.field("embedding").type == pa.list_(pa.float32(), 4)
    for row in table.to_pylist():
        assert row["content_hash"] == content_hash(row["source"])
    assert set(table["model"].to_pylist()) == {run.identify(MODEL)}
    assert run.identify(MODEL).startswith("passreid-tiny@")
    assert run.identify(MODEL | {"flip": True}) != run.identify(MODEL)


@pytest.mark.usefixtures("quick")
def test_lists_shards_and_tables_give_the_same_rows(folder: Path, tmp_path: Path) -> None:
    wanted = {Path(name).name: row for name, row in expected(folder).items()}
    names = sorted(str(path.relative_to(folder)) for path in folder.rglob("*.png"))
    (folder / "list.txt").write_text("\n".join(names) + "\n")
    contents = [(folder / name).read_bytes() for name in names]
    tables = {
        "bytes": pa.table({"other": names, "image": contents}),
        "paths": pa.table({"path": names}),
        "hugging": pa.table({"image": [{"bytes": raw, "path": None} for raw in contents]}),
    }
    for name, table in tables.items():
        pq.write_table(table, folder / f"{name}.parquet", row_group_size=4)
    put_in_tar(folder, folder / "x.tar")
    sources = ["list.txt", "x.tar", *(f"{name}.parquet" for name in tables)]
    for source in sources:
        output = tmp_path / source / "out.parquet"
        result = embed_all([str(folder / source)], output, model=MODEL, per_part=3)
        assert result.embeddings == 7 and result.failures == 0, source
        found = rows(output)
        if source in ("bytes.parquet", "hugging.parquet"):
            place = str(folder / source)
            assert sorted(found) == sorted(f"{place}#{i // 4}.{i % 4}" for i in range(7))
            found = {Path(names[int(k[-3]) * 4 + int(k[-1])]).name: v for k, v in found.items()}
        assert_same({Path(name).name: row for name, row in found.items()}, wanted)
    everything = embed_all([str(folder)], tmp_path / "all.parquet", model=MODEL)
    assert (everything.embeddings, everything.parts) == (35, 8)


@pytest.mark.usefixtures("quick")
def test_object_storage_gives_the_same_rows(folder: Path, tmp_path: Path, memory: Any) -> None:
    put_in_tar(folder, tmp_path / "x.tar", "w:gz")
    memory.put(f"{folder}/ü", "/bucket/crops", recursive=True)
    memory.put(str(tmp_path / "x.tar"), "/bucket/shards/x.tar")
    wanted = {Path(name).name: row for name, row in expected(folder).items()}
    for number, source in enumerate(
        ["memory://bucket/crops", "memory://bucket/shards", f"file://{folder}"]
    ):
        output = tmp_path / f"{number}.parquet"
        assert embed_all([source], output, model=MODEL).failures == 0
        found = rows(output)
        assert all("://" in name for name in found)
        assert_same({Path(name).name: row for name, row in found.items()}, wanted)
    memory.pipe("/bucket/crops/list.txt", b"0.png\nmemory://bucket/none.png\n")
    gone = embed_all(["memory://bucket/crops/list.txt"], tmp_path / "list.parquet", model=MODEL)
    assert (gone.embeddings, gone.failures) == (1, 1)
    (reason,) = failures(tmp_path / "list.parquet").values()
    assert "cannot be fetched" in reason


@pytest.mark.usefixtures("quick")
def test_damage_is_listed_and_does_not_stop_the_run(folder: Path, tmp_path: Path) -> None:
    (folder / "ü" / "2.png").write_bytes(b"no picture")
    (folder / "ü" / "4.png").write_bytes(b"")
    (folder / "list.txt").write_text("ü/0.png\nü/2.png\nü/4.png\nü\nnone.png\n")
    whole = put_in_tar(folder, tmp_path / "whole.tar").read_bytes()
    (folder / "cut.tar").write_bytes(whole[:2000])
    pq.write_table(pa.table({"image": [b"no picture", None]}), folder / "t.parquet")
    sources = [str(folder / name) for name in ("list.txt", "cut.tar", "t.parquet")]
    output = tmp_path / "out.parquet"
    result = embed_all(sources, output, model=MODEL)
    found = failures(output)
    assert result.failures == len(found)
    assert "is not a JPEG" in found[str(folder / "ü/2.png")]
    assert "empty" in found[str(folder / "ü/4.png")]
    assert "not a regular file" in found[str(folder / "ü")]
    assert "No such file" in found[str(folder / "none.png")]
    assert "cut short" in found[str(folder / "cut.tar")]
    assert "is not a JPEG" in found[f"{folder}/t.parquet#0.0"]
    assert "neither bytes nor a path" in found[f"{folder}/t.parquet#0.1"]
    assert str(folder / "ü/0.png") in rows(output)


def test_too_large_a_member_is_not_read(folder: Path, tmp_path: Path) -> None:
    shard = put_in_tar(folder, tmp_path / "x.tar")
    with pytest.MonkeyPatch.context() as patch:
        from passreid.bulk import sources

        patch.setattr(sources, "DEFAULT_LIMITS", passreid.images.ImageLimits(max_bytes=10))
        found = list(read_part(Part("tar", (str(shard),))))
    assert len(found) == 7
    assert all(isinstance(data, ImageError) and "larger" in data.reason for _, data in found)


def test_what_is_done_is_not_done_again(folder: Path, tmp_path: Path, quick: Colours) -> None:
    output = tmp_path / "out.parquet"
    embed_all([str(folder)], output, model=MODEL, per_part=2)
    before = {path: path.read_bytes() for path in output.glob("part-*")}
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
    with pytest.raises(UsageError, match="no folder of embeddings"):
        embed_all([str(folder)], folder, model=MODEL)


def test_what_cannot_be_planned_is_said(folder: Path, tmp_path: Path) -> None:
    for source, message in (
        ("none", "no such file"),
        ("memory://none", "no such object"),
        ("nonsense://x", "cannot be reached"),
    ):
        with pytest.raises(UsageError, match=message):
            plan([source], per_part=1)
    with pytest.raises(UsageError, match="No picture"):
        plan([], per_part=1)
    with pytest.raises(UsageError, match="at least 1"):
        plan([str(folder)], per_part=0)
    table = folder / "t.parquet"
    pq.write_table(pa.table({"x": [b"", b""]}), table)
    with pytest.raises(DatasetError, match="--column: x"):
        plan([str(table)], per_part=1)
    assert plan([str(table)], per_part=1, column="x") == [Part("parquet", (str(table),), 0, "x")]
    table.write_bytes(b"no table")
    with pytest.raises(DatasetError, match="cannot be read as Parquet"):
        plan([str(table)], per_part=1)
    (folder / "l.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(DatasetError, match="as a list"):
        plan([str(folder / "l.txt")], per_part=1)


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
) -> None:
    pytest.importorskip("qdrant_edge")
    from passreid.gallery import Where, identity, open_gallery

    (folder / "again.png").write_bytes((folder / "ü" / "0.png").read_bytes())
    output, path = tmp_path / "out.parquet", tmp_path / "people.gallery"
    for count in ("7 enrolled", "0 enrolled"):
        ran = cli("embed", folder, "--output", output, "--gallery", path)
        assert (ran.code, count in ran.err) == (0, True), ran.err
    embedder = passreid.load()
    assert run.identify(MODEL) == identity(embedder)
    with open_gallery(path, model=identity(embedder)) as gallery:
        crop = str(folder / "ü" / "3.png")
        assert gallery.count() == 7
        (hit,) = gallery.search(embedder([crop])[0], top_k=1)
        assert hit.entry.source == crop
        assert hit.score == pytest.approx(1, abs=1e-2)
        assert gallery.count(Where(sources=(crop,))) == 1


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
