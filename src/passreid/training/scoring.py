"""How well a network under training finds the people of a labelled set."""

from __future__ import annotations

from collections.abc import Sequence
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
from passreid.training.loop import Score, log


def read_watched(root: Path | None) -> tuple[ReIDDataset, ...]:
    """Read the labelled set that a recipe's `watch` names, if it names one.

    Raises:
        DatasetError: It cannot be read, or not one of its queries would count.
    """
    datasets = () if root is None else (read_dataset(root),)
    for dataset in datasets:
        if not _counts(dataset):
            raise DatasetError(
                f"{root}: nothing can be scored on it, no query shows a person whom another camera "
                "shows in the gallery; watch another set."
            )
    return datasets


def _counts(dataset: ReIDDataset) -> bool:
    return len(dataset.unanswerable()) < len(dataset.query)


def scorer(
    card: ModelCard,
    datasets: Sequence[ReIDDataset],
    *,
    precision: str,
    on_error: OnError = "skip",
) -> Score | None:
    """Return what evaluates a network and logs what it found, or None without queries that count.

    Of several sets the network's score is the mean, and each set's own mAP and Rank-1 stand beside
    it under the set's name.

    Args:
        card: Supplies size and normalisation; the architecture is the network's own.
        datasets: What it is evaluated on; those without a query that counts are left out.
        precision: As `TorchBackend` takes it.
        on_error: What to do with crops that cannot be read.
    """
    counted = [dataset for dataset in datasets if _counts(dataset)]
    if not counted:
        return None

    def score(model: PartViT) -> dict[str, float]:
        kept = embedding_copy(model)
        described = replace(card, architecture=kept.architecture)
        device = str(next(model.parameters()).device)
        network = TorchBackend(kept, device=device, precision=precision)
        embedder = Embedder(network, described)
        rows: list[dict[str, float]] = []
        each: dict[str, float] = {}
        for dataset in counted:
            report = evaluate(embedder, dataset, on_error=on_error)
            log.info("%s: mAP %.4f  Rank-1 %.4f", dataset.name, report.mAP, report.rank1)
            rows.append({"mAP": report.mAP, "mINP": report.mINP, "rank1": report.rank1})
            if len(counted) > 1:
                each |= {f"{dataset.name} mAP": report.mAP, f"{dataset.name} rank1": report.rank1}
        return {name: sum(row[name] for row in rows) / len(rows) for name in rows[0]} | each

    return score


def embedding_copy(model: PartViT) -> PartViT:
    """Return the same weights without the identity classifier, which embedding never uses."""
    kept = PartViT(replace(model.architecture, num_classes=0))
    state = {k: v for k, v in model.state_dict().items() if not k.startswith("classifier.")}
    kept.load_state_dict(state)
    return kept.eval()
