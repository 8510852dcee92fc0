"""What `--help` says."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from passreid.cli import run
from passreid.cli.app import app


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
