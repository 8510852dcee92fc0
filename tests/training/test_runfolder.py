"""Run folders of several processes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from passreid.errors import TrainingError
from passreid.finetuning.config import FinetuneConfig
from passreid.training.process import Process
from passreid.training.runfolder import RunFolder, begin


@pytest.mark.parametrize(("main", "agree"), [(None, True), (40, False)])
def test_processes_begin_at_one_checkpoint(
    main: int | None, agree: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A machine that does not see the run folder of the others finds no checkpoint there."""

    def gather(found: list[Any], mine: Any) -> None:
        found[:] = [main, mine]

    monkeypatch.setattr(torch.distributed, "broadcast_object_list", lambda _: None)
    monkeypatch.setattr(torch.distributed, "all_gather_object", gather)
    config = FinetuneConfig(data=tmp_path, output=tmp_path)
    other = Process(1, 2, torch.device("cpu"))
    if agree:
        assert begin(RunFolder(tmp_path), config, other, resume=True) is None
        return
    with pytest.raises(TrainingError, match="different checkpoints"):
        begin(RunFolder(tmp_path), config, other, resume=True)
