"""The docs tell the truth: commands run, links lead somewhere, named verbs and files exist."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
FENCE = re.compile(r"```(\w+)\n(.*?)```", re.DOTALL)


def fences(language: str) -> list[str]:
    return [body for kind, body in FENCE.findall(README) if kind == language]


def run(command: list[str], folder: Path) -> str:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{shlex.join(command)}\n{done.stdout}{done.stderr}"
    return done.stdout


def test_the_readme_is_short_and_starts_with_a_command() -> None:
    lines = README.splitlines()
    assert len(lines) < 150
    assert any(line == "```bash" for line in lines[:15])


def test_every_command_of_the_readme_runs(tmp_path: Path) -> None:
    commands = [
        shlex.split(line, comments=True) for body in fences("bash") for line in body.splitlines()
    ]
    ours = [command for command in commands if command[:1] == ["passreid"]]
    assert len(ours) >= 6
    for command in ours:
        run([sys.executable, "-m", *command], tmp_path)
    rest = [command for command in commands if command[:1] != ["passreid"]]
    assert rest == [["pip", "install", "."]], "what else the README asks for is tested here"


def test_python_of_the_readme_prints_what_its_comments_say(tmp_path: Path) -> None:
    [body] = fences("python")
    printed = run([sys.executable, "-W", "error", "-c", body], tmp_path)
    assert printed.split("\n")[:3] == ["(3, 384)", "True", "False"]


def test_chinese_readme_has_the_same_commands_and_figures() -> None:
    chinese = (ROOT / "README.zh-CN.md").read_text()
    uncommented = [re.sub(r"#.*", "", body) for _, body in FENCE.findall(chinese)]
    assert uncommented == [re.sub(r"#.*", "", body) for _, body in FENCE.findall(README)]
    assert re.findall(r"\d\d\.\d / \d\d\.\d", chinese) == re.findall(r"\d\d\.\d / \d\d\.\d", README)


@pytest.mark.parametrize(
    ("page", "part"),
    [
        ("how-to/trackers.md", ""),
        ("how-to/own-data.md", ""),
        ("gallery.md", ".boxes("),
        ("scores.md", ""),
    ],
)
def test_the_python_of_a_page_runs(page: str, part: str, tmp_path: Path) -> None:
    pytest.importorskip("faiss")
    found = FENCE.findall((ROOT / "docs" / page).read_text())
    code = "".join(body for language, body in found if language == "python" and part in body)
    assert code
    run([sys.executable, "-W", "error", "-c", code], tmp_path)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text()):
        if not target.startswith(("http://", "https://")):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_verbs_named_in_the_docs_exist(page: Path) -> None:
    from passreid.cli import run
    from passreid.cli.app import app

    run([])  # the verbs are registered with the first command line

    known = set(app)  # also options that stand alone, such as --install-completion
    text = page.read_text()
    code = [
        *re.findall(r"`(passreid [^`]+)`", text),
        *"\n".join(b for _, b in FENCE.findall(text)).splitlines(),
    ]
    verbs = [line.split()[1] for line in code if line.startswith("passreid ")]
    for verb in verbs:
        assert verb in known, f"{page.name}: passreid {verb}"


@pytest.mark.parametrize("path", sorted((ROOT / "recipes").glob("*.toml")), ids=lambda p: p.stem)
def test_recipes_can_be_run(path: Path) -> None:
    from passreid.adapting.recipe import AdaptRecipe
    from passreid.config import build, read_toml
    from passreid.finetuning.recipe import FinetuneRecipe
    from passreid.pretraining.recipe import PretrainRecipe

    values = read_toml(path)
    if "adapt" in path.stem:
        assert build(AdaptRecipe, values, where=path.name).init == "passreid-tiny"
    elif "pretrain" in path.stem:
        assert build(PretrainRecipe, values, where=path.name).preset == "tiny"
    else:
        preset = "hybrid" if "hybrid" in path.stem else "tiny"
        assert build(FinetuneRecipe, values, where=path.name).preset == preset


def test_the_page_of_data_sets_states_the_sizes_that_are_checked() -> None:
    from passreid.data.layouts import LAYOUTS

    page = (ROOT / "docs" / "datasets.md").read_text()
    rows = {row[0].strip("` "): row for line in page.splitlines() if (row := line.split("|")[1:-1])}
    named = {kind: layout.counts for kind, layout in LAYOUTS.items()}
    for kind, layout in LAYOUTS.items():
        named |= {f"{kind}/{name}": counts for name, counts in layout.variants.items()}
    for kind, counts in named.items():
        if kind == "cuhk03-np":  # its two variants have the sizes
            continue
        cells = [cell.strip() for cell in rows[kind][3:]]
        for cell, subset in zip(cells, ("train", "query", "gallery"), strict=True):
            people, images = counts.get(subset, (0, 0))
            stated = f"{people:,} / {images:,}" if people else f"– / {images:,}"
            assert cell == (stated if images else "–"), (kind, subset)
