"""What `--help` says."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from passreid.cli import run
from passreid.cli.app import app
from passreid.data import ReIDDataset
from tests.cli.conftest import Cli


def verbs(within: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    for name in within:
        if not name.startswith("-"):
            verb = within[name]
            if verb.default_command:
                yield (*path, name), verb
            yield from verbs(verb, (*path, name))


def test_every_argument_of_every_verb_is_explained(capsys: pytest.CaptureFixture[str]) -> None:
    run([])  # the verbs are registered with the first command line
    found = list(verbs(app))
    assert len(found) > 25
    for path, verb in found:
        arguments = list(verb.assemble_argument_collection(parse_docstring=True))
        silent = [a.name for a in arguments if a.show and not (a.parameter.help or "").strip()]
        assert not silent, (path, silent)


def test_help_groups_every_verb_by_what_people_want(capsys: pytest.CaptureFixture[str]) -> None:
    run(["--help"])
    shown = capsys.readouterr().out
    for title in ("Start", "Use", "Gallery", "Measure", "Train", "Models"):
        assert f"─ {title} ─" in shown
    commands = shown.split("─ Start ─")[0]
    assert not [name for name in app if not name.startswith("-") and f"│ {name} " in commands]


def test_help_shows_no_default_that_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    run(["rank", "--help"])
    shown = capsys.readouterr().out
    assert "[default: None]" not in shown
    assert "[default: False]" not in shown
    assert "[default: 10]" in shown
    assert shown.index("─ Model ─") < shown.index("--model") < shown.index("--image-size")


def test_short_options_are_the_long_ones(
    cli: Cli, people: ReIDDataset, gallery: Path, tmp_path: Path
) -> None:
    one = people.query[0].path
    short = cli("rank", one, gallery, "-k", 2, "-m", "passreid-tiny", "--json")
    long = cli("rank", one, gallery, "--top", 2, "--model", "passreid-tiny", "--json")
    assert short.code == 0
    assert short.out == long.out
    assert cli("embed", one, "-o", tmp_path / "a.npz").code == 0
    assert (tmp_path / "a.npz").exists()


def test_quiet_prints_results_and_errors_alone(cli: Cli, people: ReIDDataset) -> None:
    pair = [sample.path for sample in people.query[:2]]
    loud, quiet = cli("compare", *pair), cli("compare", *pair, "-q")
    assert loud.err
    assert quiet.err == ""
    assert quiet.out == loud.out
    assert cli("--quiet", "embed", "nothere.jpg").err.startswith("error: ")
