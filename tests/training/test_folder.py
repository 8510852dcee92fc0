"""Run folders of several processes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from passreid.errors import TrainingError
from passreid.training.folder import RunFolder
from passreid.training.process import Process


@pytest.mark.parametrize(("main", "agree"), [(None, True), (40, False)])
def test_processes_begin_at_one_checkpoint(
    main: int | None, agree: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A machine that does not see the run folder of the others finds no checkpoint there."""

    def gather(found: list[Any], mine: Any) -> None:
        found[:] = [main, mine]

    monkeypatch.setattr(torch.distributed, "all_gather_object", gather)
    other = Process(1, 2, torch.device("cpu"))
    if agree:
        assert RunFolder(tmp_path).newest_of_all(other) is None
        return
    with pytest.raises(TrainingError, match="different checkpoints"):
        RunFolder(tmp_path).newest_of_all(other)
