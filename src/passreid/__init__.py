"""passreid: person re-identification with part-aware self-supervised transformers (PASS).

    embedder = passreid.load()                            images -> float32 (N, D)
    passreid.same_person("a.jpg", "b.jpg", embedder)      one person or two
    passreid.evaluate(embedder, passreid.read_dataset(root))

Names are resolved on first use, so that importing costs nothing and needs no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from passreid.adapting.adapt import adapt
    from passreid.adapting.recipe import AdaptConfig
    from passreid.card import ModelCard
    from passreid.compat.modelscope import pipeline
    from passreid.data import ReIDDataset, Sample, make_synthetic, read_dataset
    from passreid.embed import Embedded, Embedder, load
    from passreid.errors import PassreidError
    from passreid.evaluation import calibrate, evaluate
    from passreid.finetuning.finetune import finetune
    from passreid.finetuning.recipe import FinetuneConfig
    from passreid.gallery import open_gallery
    from passreid.labels import Labels
    from passreid.openset import Calibration, Verdict
    from passreid.pretraining.pretrain import pretrain
    from passreid.pretraining.recipe import PretrainConfig
    from passreid.ranking import Metrics, Ranking, measure, rank
    from passreid.report import Report
    from passreid.reranking import rerank
    from passreid.verify import cosine, same_person

__version__ = "0.1.0"

# Public name -> the module it comes from.
_HOMES = {
    "AdaptConfig": "adapting.recipe",
    "Calibration": "openset",
    "Embedded": "embed",
    "Embedder": "embed",
    "FinetuneConfig": "finetuning.recipe",
    "Labels": "labels",
    "Metrics": "ranking",
    "ModelCard": "card",
    "PassreidError": "errors",
    "PretrainConfig": "pretraining.recipe",
    "Ranking": "ranking",
    "ReIDDataset": "data",
    "Report": "report",
    "Sample": "data",
    "Verdict": "openset",
    "adapt": "adapting.adapt",
    "calibrate": "evaluation",
    "cosine": "verify",
    "evaluate": "evaluation",
    "finetune": "finetuning.finetune",
    "load": "embed",
    "make_synthetic": "data",
    "measure": "ranking",
    "open_gallery": "gallery",
    "pipeline": "compat.modelscope",
    "pretrain": "pretraining.pretrain",
    "rank": "ranking",
    "read_dataset": "data",
    "rerank": "reranking",
    "same_person": "verify",
}

__all__ = [
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
    "__version__",
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

# What needs torch, and so gives a hint instead of a traceback where torch is missing.
_TORCH = {"adapt": "Adapting", "finetune": "Fine-tuning", "pretrain": "Pre-training"}


if not TYPE_CHECKING:  # else no checker would see a misspelt name

    def __getattr__(name: str) -> Any:
        if name not in _HOMES:
            raise AttributeError(f"module 'passreid' has no attribute '{name}'")
        try:
            module = importlib.import_module(f"passreid.{_HOMES[name]}")
        except ModuleNotFoundError as error:
            if name not in _TORCH or (error.name or "").startswith("passreid"):
                raise
            from passreid.errors import MissingExtraError

            raise MissingExtraError(_TORCH[name], "torch") from None
        value = globals()[name] = getattr(module, name)
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
