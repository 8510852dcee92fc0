"""Files are written whole or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from passreid import storage
from passreid.errors import OutputError


def test_a_file_appears_with_its_whole_content_and_the_usual_rights(tmp_path: Path) -> None:
    target = tmp_path / "new" / "a.bin"
    with storage.replacing(target) as temporary:
        temporary.write_bytes(b"whole")
        temporary.chmod(0o600)
        assert not target.exists()
    (tmp_path / "plain").touch()
    assert target.read_bytes() == b"whole"
    assert target.stat().st_mode == (tmp_path / "plain").stat().st_mode
    assert [path.name for path in target.parent.iterdir()] == ["a.bin"]


def test_a_failure_leaves_what_was_there_and_nothing_else(tmp_path: Path) -> None:
    target = tmp_path / "a.bin"
    storage.write(target, b"before")
    with pytest.raises(RuntimeError), storage.replacing(target) as temporary:
        temporary.write_bytes(b"half")
        raise RuntimeError("killed")
    assert target.read_bytes() == b"before"
    assert [path.name for path in tmp_path.iterdir()] == ["a.bin"]


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match=r"file/a\.bin: cannot be written"):
        storage.write(tmp_path / "file" / "a.bin", b"")


def test_this_folder_is_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(OutputError, match=r"\.: cannot be written"):
        storage.write(Path(), b"")
    assert not list(tmp_path.iterdir())


def test_a_copy_onto_itself_is_left_alone(tmp_path: Path) -> None:
    storage.write(tmp_path / "a", b"whole")
    (tmp_path / "link").symlink_to("a")
    storage.copy(tmp_path / "a", tmp_path / "link")
    storage.copy(tmp_path / "link", tmp_path / "b")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "b").read_bytes() == b"whole"
    assert not (tmp_path / "b").is_symlink()


def test_a_full_disk_is_an_output_error(tmp_path: Path) -> None:
    with (
        pytest.raises(OutputError, match="No space left on device"),
        storage.replacing(tmp_path / "a"),
    ):
        raise OSError(28, "No space left on device")
    assert not list(tmp_path.iterdir())
