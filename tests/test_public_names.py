"""What `import passreid` gives, and what it costs."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import passreid
from passreid.config import read_toml
from passreid.errors import MissingExtraError

NAMES = [
    "__version__",
    "AdaptConfig",
    "Calibration",
    "Embedded",
    "Embedder",
    "FinetuneConfig",
    "Labels",
    "Metrics",
    "ModelCard",
    "PassreidError",
    "PretrainConfig",
    "Ranking",
    "ReIDDataset",
    "Report",
    "Sample",
    "Verdict",
    "adapt",
    "calibrate",
    "cosine",
    "evaluate",
    "finetune",
    "load",
    "make_synthetic",
    "measure",
    "open_gallery",
    "pipeline",
    "pretrain",
    "rank",
    "read_dataset",
    "rerank",
    "same_person",
]
ROOT = Path(__file__).parents[1]


def run(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_the_list_of_names() -> None:
    assert sorted(passreid.__all__) == sorted(NAMES)
    assert set(NAMES) <= set(dir(passreid))
    assert sorted(passreid._HOMES) == sorted(set(NAMES) - {"__version__"})


@pytest.mark.parametrize("name", NAMES)
def test_every_name_leads_to_what_it_says(name: str) -> None:
    value = getattr(passreid, name)
    if name != "__version__":
        assert value.__name__ == name
        assert value.__module__.startswith("passreid.")
        assert getattr(passreid, name) is value


def test_type_checkers_see_the_same_names() -> None:
    tree = ast.parse(Path(passreid.__file__).read_text())
    block = next(node for node in tree.body if isinstance(node, ast.If))
    imports = [node for node in block.body if isinstance(node, ast.ImportFrom)]
    seen = {alias.name: str(node.module) for node in imports for alias in node.names}
    assert seen == {name: f"passreid.{home}" for name, home in passreid._HOMES.items()}


def test_no_public_name_is_a_module() -> None:
    rooms = {path.stem for path in Path(passreid.__file__).parent.iterdir()}
    assert not rooms & set(NAMES)


def test_importing_does_no_work() -> None:
    heavy = ["torch", "onnxruntime", "PIL", "numpy", "timm", "rich", "httpx"]
    code = f"import sys, passreid; print([m for m in {heavy} if m in sys.modules])"
    assert run(code) == "[]"
    took = "import time; t = time.process_time(); import passreid; print(time.process_time() - t)"
    assert float(run(took)) < 0.15


def test_using_what_needs_no_torch_does_not_import_it() -> None:
    names = sorted(set(NAMES) - {"adapt", "finetune", "pretrain"})
    code = f"import sys, passreid; [getattr(passreid, n) for n in {names}]"
    assert run(f"{code}; print('torch' in sys.modules)") == "False"


def test_a_name_that_is_none() -> None:
    with pytest.raises(AttributeError, match="module 'passreid' has no attribute 'nonsense'"):
        # The error is asked for: where no checker sees it, mypy complains of the comment.
        _ = passreid.nonsense  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("name", "what"),
    [("adapt", "Adapting"), ("finetune", "Fine-tuning"), ("pretrain", "Pre-training")],
)
def test_training_names_the_extra_it_needs(
    name: str, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    room = f"passreid.{passreid._HOMES[name].split('.')[0]}"
    for module in [m for m in sys.modules if m.startswith((room, "passreid.training"))]:
        if module.count(".") == 1:  # importing it anew replaces this too
            monkeypatch.setattr(passreid, module.split(".")[1], sys.modules[module])
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.delitem(passreid.__dict__, name, raising=False)
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(MissingExtraError, match=rf"{what} needs.*\[torch\]"):
        getattr(passreid, name)


def test_the_version_is_that_of_the_package() -> None:
    assert passreid.__version__ == read_toml(ROOT / "pyproject.toml")["project"]["version"]
