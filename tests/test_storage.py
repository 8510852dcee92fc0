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


def test_a_full_disk_is_an_output_error(tmp_path: Path) -> None:
    with (
        pytest.raises(OutputError, match="No space left on device"),
        storage.replacing(tmp_path / "a"),
    ):
        raise OSError(28, "No space left on device")
    assert not list(tmp_path.iterdir())
