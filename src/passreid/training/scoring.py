"""Score a network in training on labelled sets."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from passreid.backends.pytorch import TorchBackend
from passreid.card import ModelCard
from passreid.data import ReIDDataset, read_dataset
from passreid.embed import Embedder
from passreid.embed.embedder import OnError
from passreid.errors import DatasetError
from passreid.evaluation import evaluate
from passreid.model import PartViT

log = logging.getLogger("passreid")


def read_watched(root: Path | None) -> tuple[ReIDDataset, ...]:
    """Read the labelled set that a recipe's `watch` names, if any.

    Raises:
        DatasetError: It cannot be read, or none of its queries counts.
    """
    datasets = () if root is None else (read_dataset(root),)
    if any(not can_score(dataset) for dataset in datasets):
        raise DatasetError(
            f"{root}: nothing can be scored on it, because no query shows a person whom another "
            "camera shows in the gallery; watch another set."
        )
    return datasets


def can_score(dataset: ReIDDataset) -> bool:
    """Whether at least one query counts."""
    return len(dataset.unanswerable()) < len(dataset.query)


class Scorer:
    """Evaluates a network on labelled sets and logs the scores.

    With several sets, the score is the mean over them, and each set's own mAP and Rank-1 are added
    under its name.

    Args:
        card: Supplies size and normalisation; the architecture is the network's own.
        datasets: Labelled sets, each with a query that counts.
        precision: As for `TorchBackend`.
        on_error: What to do with unreadable crops.
    """

    def __init__(
        self,
        card: ModelCard,
        datasets: Sequence[ReIDDataset],
        *,
        precision: str,
        on_error: OnError = "skip",
    ) -> None:
        self.card, self.datasets = card, datasets
        self.precision, self.on_error = precision, on_error

    def __call__(self, model: PartViT) -> dict[str, float]:
        """Return mAP, mINP and rank1 as fractions."""
        kept = embedding_copy(model)
        device = str(next(model.parameters()).device)
        network = TorchBackend(kept, device=device, precision=self.precision)
        embedder = Embedder(network, replace(self.card, architecture=kept.architecture))
        rows: list[dict[str, float]] = []
        each: dict[str, float] = {}
        for dataset in self.datasets:
            report = evaluate(embedder, dataset, on_error=self.on_error)
            log.info("%s: mAP %.4f  Rank-1 %.4f", dataset.name, report.mAP, report.rank1)
            rows.append({"mAP": report.mAP, "mINP": report.mINP, "rank1": report.rank1})
            if len(self.datasets) > 1:
                each |= {f"{dataset.name} mAP": report.mAP, f"{dataset.name} rank1": report.rank1}
        return {name: sum(row[name] for row in rows) / len(rows) for name in rows[0]} | each

    def card_scores(self, found: Mapping[str, float]) -> dict[str, float]:
        """Name scores for a model card: per cent, each under the name of its set."""
        named = {}
        for dataset in self.datasets:
            prefix = f"{dataset.name} " if len(self.datasets) > 1 else ""
            for key, shown in (("mAP", "mAP"), ("rank1", "Rank-1")):
                if prefix + key in found:
                    named[f"{dataset.name} {shown}"] = round(100 * found[prefix + key], 2)
        return named


def embedding_copy(model: PartViT) -> PartViT:
    """Copy a network without its identity classifier, which embedding does not use."""
    kept = PartViT(replace(model.architecture, num_classes=0))
    state = {k: v for k, v in model.state_dict().items() if not k.startswith("classifier.")}
    kept.load_state_dict(state)
    return kept.eval()
