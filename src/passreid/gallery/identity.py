"""The identity of a model: embeddings of two identities are never mixed in one gallery."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

from passreid.card import ModelCard
from passreid.config import plain
from passreid.embed import Embedder
from passreid.hub import weights_digest

_CHANNELS = "rgb"


def identity(embedder: Embedder) -> str:
    """Name a model so that vectors of two models are never mixed; see `name_model`."""
    return name_model(embedder.card, embedder.source, flip=embedder.flip)


def name_model(card: ModelCard, source: Path | None, *, flip: bool) -> str:
    """Name everything an embedding depends on.

    Precision and backend do not count: they change cosines in the third digit at most.

    Args:
        card: Of the model.
        source: Its folder or weight file; None where it was built by hand.
        flip: Whether embeddings are averaged with those of mirrored images.

    Returns:
        ``name@weights.settings``, with "+flip" where it applies: the card's name, 16 hexadecimal
        digits of the weights' SHA-256, and 8 of the architecture (merging, feature and neck
        included), input size, mean, std, interpolation and channel order.
    """
    network = replace(card.architecture, num_classes=0)  # the classifier embeds nothing
    settings = {
        "architecture": plain(network),
        "mean": card.mean,
        "std": card.std,
        "interpolation": card.interpolation,
        "channels": _CHANNELS,
    }
    text = json.dumps(settings, sort_keys=True).encode()
    weights = "built-by-hand" if source is None else weights_digest(source)
    return f"{card.name}@{weights}.{hashlib.sha256(text).hexdigest()[:8]}{'+flip' * flip}"


def adopt(named: str, model: str) -> bool:
    """Whether an identity of before settings counted is of the same name and weights as a model."""
    name, _, rest = model.rpartition(".")
    flip = "+flip" if rest.endswith("+flip") else ""
    return named == f"{name}{flip}"
