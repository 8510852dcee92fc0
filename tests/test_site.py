"""The documentation site builds without a warning, and the code of its tutorials runs."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FENCE = re.compile(r"```(\w+)\n(.*?)```", re.DOTALL)


def run(command: list[str], folder: Path) -> str:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{shlex.join(command)}\n{done.stdout}{done.stderr}"
    return done.stdout


@pytest.mark.slow
def test_site_builds_strictly_and_loads_nothing_from_elsewhere(tmp_path: Path) -> None:
    pytest.importorskip("material")
    pytest.importorskip("faiss")
    run([sys.executable, "-m", "mkdocs", "build", "--quiet", "--site-dir", str(tmp_path)], ROOT)
    for page in ("index.html", "reference/python/index.html", "zh/index.html"):
        html = (tmp_path / page).read_text()
        assert not re.search(r"<(?:script|link|img)[^>]+(?:src|href)=\"https?://[^\"]+\.", html)
    assert "passreid gallery search" in (tmp_path / "reference/cli/index.html").read_text()
    assert "/v1/search" in (tmp_path / "reference/http/index.html").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("page", ["tutorial.md", "zh/tutorial.md"])
def test_tutorial_runs_as_written(page: str, tmp_path: Path) -> None:
    pytest.importorskip("faiss")
    blocks = FENCE.findall((ROOT / "docs" / page).read_text())
    commands = [line for kind, body in blocks if kind == "bash" for line in body.splitlines()]
    ours = [shlex.split(line) for line in commands if line.startswith("passreid ")]
    assert len(ours) == 4
    for command in ours:
        run([sys.executable, "-m", *command], tmp_path)
    code = next(body for kind, body in blocks if kind == "python")
    assert "0007" in run([sys.executable, "-W", "error", "-c", code], tmp_path)


def test_notebook_runs_and_finds_the_person(tmp_path: Path) -> None:
    notebook = json.loads((ROOT / "examples" / "quickstart.ipynb").read_text())
    cells = ["".join(c["source"]) for c in notebook["cells"] if c["cell_type"] == "code"]
    printed = run([sys.executable, "-W", "error", "-c", "\n".join(cells)], tmp_path)
    first = next(line for line in printed.splitlines() if line.startswith("person"))
    assert first.split()[1] == printed.split("looked for person ")[1].split()[0]
