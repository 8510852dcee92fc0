"""A drawn data set and a way to run a command line in this process."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from passreid.cli import run
from passreid.data import ReIDDataset, make_synthetic


class Ran(NamedTuple):
    code: int
    out: str
    err: str


Cli = Callable[..., Ran]


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Cli:
    def call(*arguments: object) -> Ran:
        capsys.readouterr()
        code = run([str(argument) for argument in arguments])
        return Ran(code, *capsys.readouterr())

    return call


@pytest.fixture(scope="session")
def people(tmp_path_factory: pytest.TempPathFactory) -> ReIDDataset:
    root = tmp_path_factory.mktemp("drawn") / "people"
    return make_synthetic(root, people=8, cameras=2, per_camera=2)


@pytest.fixture(scope="session")
def gallery(people: ReIDDataset) -> Path:
    return people.gallery[0].path.parent
