"""Install hints name a command that works from where passreid came from."""

from __future__ import annotations

import importlib.metadata
import json
from pathlib import Path

import pytest

import passreid.errors
from passreid.errors import MissingExtraError, install_command


def test_hint_in_a_checkout_names_its_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = Path(__file__).parents[1]
    monkeypatch.chdir(root)
    assert install_command("serve") == "pip install '.[serve]'"
    monkeypatch.chdir(tmp_path)
    assert install_command("serve") == f"pip install '{root}[serve]'"
    assert str(MissingExtraError("Serving", "serve")).startswith("Serving needs an optional part")


@pytest.mark.parametrize(
    ("recorded", "command"),
    [
        (
            {"url": "https://example.org/p.git", "vcs_info": {"vcs": "git"}},
            "pip install 'passreid[onnx] @ git+https://example.org/p.git'",
        ),
        ({"url": "file:///src/passreid", "dir_info": {}}, "pip install '/src/passreid[onnx]'"),
        (None, "in the folder of passreid's sources, pip install '.[onnx]'"),
    ],
)
def test_hint_of_an_installed_package_names_what_pip_recorded(
    recorded: dict[str, object] | None,
    command: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    installed = tmp_path / "site-packages" / "passreid" / "errors.py"
    monkeypatch.setattr(passreid.errors, "__file__", str(installed))

    class Installed:
        def read_text(self, name: str) -> str | None:
            assert name == "direct_url.json"
            return json.dumps(recorded) if recorded else None

    monkeypatch.setattr(importlib.metadata, "distribution", lambda name: Installed())
    assert install_command("onnx") == command
