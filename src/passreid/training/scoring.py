"""How well a network under training finds the people of a labelled set."""

from __future__ import annotations

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


def read_watched(root: Path | None) -> ReIDDataset | None:
    """Read the labelled set that a recipe's `watch` names, if it names one.

    Raises:
        DatasetError: It cannot be read, or not one of its queries would count.
    """
    dataset = None if root is None else read_dataset(root)
    if dataset is not None and not _counts(dataset):
        raise DatasetError(
            f"{root}: nothing can be scored on it, no query shows a person whom another camera "
            "shows in the gallery; watch another set."
        )
    return dataset


def _counts(dataset: ReIDDataset) -> bool:
    return len(dataset.unanswerable()) < len(dataset.query)


def scorer(
    card: ModelCard, dataset: ReIDDataset | None, *, precision: str, on_error: OnError = "skip"
) -> Score | None:
    """Return what evaluates a network and logs what it found, or None without queries that count.

    Args:
        card: Supplies size and normalisation; the architecture is the network's own.
        dataset: What it is evaluated on.
        precision: As `TorchBackend` takes it.
        on_error: What to do with crops that cannot be read.
    """
    if dataset is None or not _counts(dataset):
        return None

    def score(model: PartViT) -> dict[str, float]:
        kept = embedding_copy(model)
        described = replace(card, architecture=kept.architecture)
        device = str(next(model.parameters()).device)
        network = TorchBackend(kept, device=device, precision=precision)
        report = evaluate(Embedder(network, described), dataset, on_error=on_error)
        log.info("mAP %.4f  Rank-1 %.4f", report.mAP, report.rank1)
        return {"mAP": report.mAP, "mINP": report.mINP, "rank1": report.rank1}

    return score


def embedding_copy(model: PartViT) -> PartViT:
    """Return the same weights without the identity classifier, which embedding never uses."""
    kept = PartViT(replace(model.architecture, num_classes=0))
    state = {k: v for k, v in model.state_dict().items() if not k.startswith("classifier.")}
    kept.load_state_dict(state)
    return kept.eval()
