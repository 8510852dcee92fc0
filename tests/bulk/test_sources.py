"""Every kind of source: what is read of it, and what is said of damage."""

from __future__ import annotations

import base64
import errno
import os
import tarfile
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import passreid
from passreid.bulk import Bulk, embed_all, run
from passreid.bulk.parts import RowGroup, plan
from passreid.data import filelist
from passreid.data.shards import scan
from passreid.errors import DatasetError, ImageError, UsageError
from passreid.images import content_hash
from tests.bulk.conftest import MODEL, assert_same, expected, failures, put_in_tar, rows
from tests.cli.conftest import cli  # noqa: F401


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
    assert (everything.embeddings, everything.parts) == (35, 7)


@pytest.mark.usefixtures("quick")
def test_object_storage_gives_the_same_rows(folder: Path, tmp_path: Path, memory: Any) -> None:
    put_in_tar(folder, tmp_path / "x.tar")
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
def test_files_a_mac_leaves_beside_pictures_are_none(
    folder: Path, tmp_path: Path, memory: Any
) -> None:
    for name in ("._0.png", "._x.tar", ".hidden/0.png"):
        path = folder / "ü" / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"attributes")
    for number, name in enumerate(("0.png", "ü/._0.png")):
        put = folder / "ü" / name.rpartition("/")[2]
        memory.put(str(put), f"/bucket/{name}")
        with tarfile.open(tmp_path / "x.tar", "a" if number else "w") as tar:
            tar.add(put, name)
    sources = [str(folder), "memory://bucket", str(tmp_path / "x.tar")]
    result = embed_all(sources, tmp_path / "out.parquet", model=MODEL)
    assert (result.embeddings, result.failures) == (9, 0)
    assert [name for _, _, name in scan(str(tmp_path / "x.tar"))] == ["0.png"]


@pytest.mark.usefixtures("quick")
def test_damage_is_listed_and_does_not_stop_the_run(folder: Path, tmp_path: Path) -> None:
    (folder / "ü" / "2.png").write_bytes(b"no picture")
    (folder / "ü" / "4.png").write_bytes(b"")
    (folder / "list.txt").write_text("ü/0.png\nü/2.png\nü/4.png\nü\nnone.png\n")
    whole = put_in_tar(folder, tmp_path / "whole.tar").read_bytes()
    (folder / "cut.tar").write_bytes(whole[:2000])
    pq.write_table(pa.table({"image": [b"no picture", None]}), folder / "t.parquet")
    places = [str(folder / name) for name in ("list.txt", "cut.tar", "t.parquet")]
    output = tmp_path / "out.parquet"
    result = embed_all(places, output, model=MODEL)
    found = failures(output)
    assert result.failures == len(found)
    assert "is not a JPEG" in found[str(folder / "ü/2.png")]
    assert "empty" in found[str(folder / "ü/4.png")]
    assert "is a folder" in found[str(folder / "ü")]
    assert "no such file" in found[str(folder / "none.png")]
    assert "cut short" in found[str(folder / "cut.tar")]
    assert "is not a JPEG" in found[f"{folder}/t.parquet#0.0"]
    assert "neither bytes nor a path" in found[f"{folder}/t.parquet#0.1"]
    assert str(folder / "ü/0.png") in rows(output)


@pytest.mark.usefixtures("quick")
def test_a_row_may_name_what_is_on_its_lists_own_storage(
    folder: Path, tmp_path: Path, memory: Any
) -> None:
    picture = folder / "ü" / "0.png"
    memory.put(str(picture), "/bucket/0.png")
    local = [str(picture), f"file://{picture}", "ü/1.png"]
    stored = ["memory://bucket/0.png", "0.png", str(picture)]
    (folder / "list.txt").write_text("\n".join(local))
    memory.pipe("/bucket/list.txt", "\n".join(stored).encode())
    pq.write_table(pa.table({"path": local}), folder / "t.parquet")
    pq.write_table(pa.table({"path": stored}), tmp_path / "t.parquet")
    memory.put(str(tmp_path / "t.parquet"), "/bucket/t.parquet")
    for number, place in enumerate((str(folder), "memory://bucket")):
        for name in ("list.txt", "t.parquet"):
            output = tmp_path / f"{number}-{name}.parquet"
            result = embed_all([f"{place}/{name}"], output, model=MODEL)
            assert (result.embeddings, result.failures) == (3, 0), (place, name)


ELSEWHERE = [
    "webhdfs://127.0.0.1:9/a.jpg",
    "ftp://127.0.0.1:9/a.jpg",
    "filecache::ftp://127.0.0.1:9/a.jpg",
    "zip://a.jpg::https://127.0.0.1:9/z.zip",
    "simplecache::memory://bucket/0.png",
    "jupyter://x",
    "dbfs://x/a.jpg",
    "github://a:b@/x.jpg",
    "s3://other/a.jpg",
    "s3://other/shard.tar",
    "s3://other/table.parquet",
    "memory://elsewhere/a.jpg",
    "MEMORY://elsewhere/a.jpg",
]


@pytest.mark.usefixtures("quick")
def test_a_row_on_another_storage_fails_alone_and_contacts_nobody(
    folder: Path, tmp_path: Path, memory: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []
    opens = fsspec.core.url_to_fs

    def open_recorded(place: str) -> Any:
        opened.append(place)
        return opens(place)

    monkeypatch.setattr(fsspec.core, "url_to_fs", open_recorded)
    picture = str(folder / "ü" / "0.png")
    odd = ["x::/etc/passwd.jpg", "file:///etc/passwd.jpg"]  # harmless in a list on this disk
    (folder / "list.txt").write_text("\n".join([picture, *ELSEWHERE]))
    memory.pipe("/bucket/list.txt", "\n".join([picture, *ELSEWHERE, *odd]).encode())
    pq.write_table(pa.table({"path": [picture, *ELSEWHERE]}), folder / "t.parquet")
    pq.write_table(pa.table({"path": [picture, *ELSEWHERE, *odd]}), tmp_path / "t.parquet")
    memory.put(str(tmp_path / "t.parquet"), "/bucket/t.parquet")
    for number, place in enumerate((str(folder), "memory://bucket")):
        for name in ("list.txt", "t.parquet"):
            output = tmp_path / f"{number}-{name}.parquet"
            result = embed_all([f"{place}/{name}"], output, model=MODEL)
            wanted = [*ELSEWHERE, *(odd if number else ())]
            assert (result.embeddings, result.failures) == (1, len(wanted)), (place, name)
            assert all("on another storage" in why for why in failures(output).values())
    assert {place.rpartition("/")[0] for place in opened} == {"memory://bucket"}


@pytest.mark.usefixtures("quick")
def test_a_web_address_in_a_list_is_a_picture_by_whatever_name(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Shards and tables of the web would be read without the check of addresses."""
    asked: list[str] = []

    def download(url: str, *_: Any, **__: Any) -> bytes:
        asked.append(url)
        return (folder / "ü" / "0.png").read_bytes()

    monkeypatch.setattr("passreid.fetch.download", download)
    names = [f"https://pictures.example/{name}" for name in ("a.png", "b.tar", "c.parquet")]
    (folder / "list.txt").write_text("\n".join(names))
    result = embed_all([str(folder / "list.txt")], tmp_path / "out.parquet", model=MODEL)
    assert (result.embeddings, result.failures, asked) == (3, 0, names)


@pytest.mark.usefixtures("quick")
def test_base64_text_is_named_by_its_row_not_by_itself(tmp_path: Path, folder: Path) -> None:
    content = (folder / "ü" / "0.png").read_bytes()
    text = base64.b64encode(content).decode()
    texts = [text, f"data:image/png;base64,{text}", base64.b64encode(content[::-1]).decode() * 9]
    texts += [base64.b64encode(b"\xff\xd8\xff\xe0" + content).decode()]
    pq.write_table(pa.table({"image": texts}), tmp_path / "t.parquet")
    output = tmp_path / "out.parquet"
    assert embed_all([str(tmp_path / "t.parquet")], output, model=MODEL).failures == 4
    found = failures(output)
    for row in (0, 1, 3):
        assert "base64 text; store its bytes" in found[f"{tmp_path}/t.parquet#0.{row}"]
    assert max(map(len, found)) <= 300
    assert (output / "_failures.jsonl").stat().st_size < 2_000


@pytest.mark.usefixtures("quick")
def test_names_that_are_not_utf8_or_not_printable_are_escaped(tmp_path: Path, folder: Path) -> None:
    whole = (folder / "ü" / "0.png").read_bytes()
    crops = tmp_path / "odd"
    crops.mkdir()
    names = [b"caf\xe9", b"\xff\xfe", "张".encode("gb18030"), b"line\nbreak", b"\x1b[31mred"]
    for name in names:
        (crops / os.fsdecode(name + b".png")).write_bytes(whole)
        (crops / os.fsdecode(name + b"-cut.png")).write_bytes(b"no picture")
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        for path in sorted(crops.iterdir()):
            tar.add(path, path.name)
    for number, source in enumerate((crops, tmp_path / "x.tar")):
        output = tmp_path / f"{number}.parquet"
        for _ in range(2):  # the second start goes on from what is there
            result = embed_all([str(source)], output, model=MODEL)
            assert (result.embeddings, result.failures) == (4, 6)
        assert sorted(name.rpartition("/")[2] for name in rows(output)) == sorted(
            (
                r"caf\udce9.png",
                r"\udcff\udcfe.png",
                r"\udcd5\udcc5.png",
                "\x1b[31mred.png",
            )
        )
        found = {name.rpartition("/")[2] for name in failures(output)}
        assert {r"caf\udce9-cut.png", r"line\nbreak.png", r"\x1b[31mred-cut.png"} < found
        assert all(name.isprintable() for name in found)


@pytest.mark.usefixtures("quick")
def test_a_shard_of_a_list_that_is_gone_fails_alone(folder: Path, tmp_path: Path) -> None:
    (folder / "list.txt").write_text("ü/0.png\nnone.tar\n")
    output = tmp_path / "out.parquet"
    result = embed_all([str(folder / "list.txt")], output, model=MODEL)
    assert (result.embeddings, result.failures) == (1, 1)
    assert failures(output) == {f"{folder}/none.tar": "there is no such file"}


@pytest.mark.parametrize("ending", ["tar.gz", "tar"])
def test_compressed_shards_are_refused(folder: Path, tmp_path: Path, ending: str) -> None:
    shard = put_in_tar(folder, tmp_path / f"x.{ending}", "w:gz")
    if ending == "tar":  # compressed, whatever its name says
        (part,) = plan([str(shard)], per_part=1)
        ((_, error),) = part.read()
        assert isinstance(error, ImageError) and "not an uncompressed tar" in error.reason
    else:
        with pytest.raises(DatasetError, match=r"expected a text file .* a shard"):
            plan([str(shard)], per_part=1)


@pytest.mark.parametrize("number", [errno.EIO, None])
def test_only_damage_in_a_table_is_taken_for_damage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int | None
) -> None:
    """Storage that fails in the middle stops the run, or its rows would count as done."""
    table = tmp_path / "t.parquet"
    pq.write_table(pa.table({"image": [b"x"] * 10}), table)

    def fails(*_: Any, **__: Any) -> Any:
        raise OSError(number, "gone") if number else OSError("Couldn't deserialize thrift")

    monkeypatch.setattr(pq.ParquetFile, "iter_batches", fails)
    found = RowGroup(str(table), 0, "image").read()
    if number:
        with pytest.raises(DatasetError, match="gone"):
            list(found)
    else:
        ((name, error),) = found
        assert name == str(table) and isinstance(error, ImageError)
        assert error.reason.startswith("cannot be read as Parquet (Couldn't")


def test_too_large_a_member_is_not_read(folder: Path, tmp_path: Path, memory: Any) -> None:
    shard = put_in_tar(folder, tmp_path / "x.tar")
    memory.put(str(shard), "/bucket/x.tar")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(filelist, "DEFAULT_LIMITS", passreid.images.ImageLimits(max_bytes=10))
        for source in (str(shard), "memory://bucket/x.tar"):
            (part,) = plan([source], per_part=10)
            found = list(part.read())
            assert len(found) == 7
            assert all(
                isinstance(data, ImageError) and "larger" in data.reason for _, data in found
            )


def test_storage_that_fails_inside_a_shard_stops_the_run(
    folder: Path, tmp_path: Path, memory: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory.put(str(put_in_tar(folder, tmp_path / "x.tar")), "/bucket/x.tar")
    (part,) = plan(["memory://bucket/x.tar"], per_part=10)
    assert all(isinstance(data, bytes) for _, data in part.read())

    def refuse(_: Any, paths: list[str], *__: Any, **___: Any) -> list[OSError]:
        return [ConnectionResetError(errno.ECONNRESET, "reset")] * len(paths)

    monkeypatch.setattr(type(memory), "cat_ranges", refuse)
    with pytest.raises(DatasetError, match="reset"):
        list(part.read())


def test_a_storage_that_cannot_be_reached_is_named(
    memory: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> bool:
        raise ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused")

    monkeypatch.setattr(type(memory), "isdir", refuse)
    with pytest.raises(DatasetError, match="memory://bucket: cannot be reached"):
        plan(["memory://bucket"], per_part=1)
    monkeypatch.setattr("fsspec.core.url_to_fs", refuse)
    with pytest.raises(UsageError, match="memory://bucket: cannot be reached"):
        plan(["memory://bucket"], per_part=1)


def test_what_cannot_be_planned_is_said(folder: Path) -> None:
    for source, message in (
        ("none", "no such folder"),
        ("memory://none", "no such object"),
        ("nonsense://x", "cannot be reached"),
        ("jupyter://x", "cannot be reached"),
    ):
        with pytest.raises(UsageError, match=message):
            plan([source], per_part=1)
    with pytest.raises(UsageError, match="No image"):
        plan([], per_part=1)
    with pytest.raises(UsageError, match="at least 1"):
        plan([str(folder)], per_part=0)
    with pytest.raises(UsageError, match="no such folder"):
        plan([str(folder / "none.txt")], per_part=1)
    table = folder / "t.parquet"
    pq.write_table(pa.table({"x": [b"", b""]}), table)
    with pytest.raises(DatasetError, match="--column: x"):
        plan([str(table)], per_part=1)
    assert plan([str(table)], per_part=1, column="x") == [RowGroup(str(table), 0, "x")]
    table.write_bytes(b"no table")
    with pytest.raises(DatasetError, match="cannot be read as Parquet"):
        plan([str(table)], per_part=1)
    (folder / "l.txt").write_bytes(b"\xff\0")
    with pytest.raises(DatasetError, match="expected a text file"):
        plan([str(folder / "l.txt")], per_part=1)
