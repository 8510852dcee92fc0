"""The identity of a model: embeddings of two identities are never mixed in one gallery."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace

from passreid.config import plain
from passreid.embed import Embedder
from passreid.hub import weights_digest

_CHANNELS = "rgb"


def identity(embedder: Embedder) -> str:
    """Name everything an embedding depends on, so that vectors of two models are never mixed.

    Precision and backend do not count: they change cosines in the third digit at most.

    Returns:
        ``name@digest``, with "+flip" where embeddings are averaged with those of mirrored images.
        The digest covers the weights, the architecture (merging, feature and neck included), input
        size, mean, std, interpolation and channel order.
    """
    card = embedder.card
    covered = {
        "weights": _weights(embedder),
        "architecture": plain(replace(card.architecture, num_classes=0)),  # embeds nothing
        "mean": card.mean,
        "std": card.std,
        "interpolation": card.interpolation,
        "channels": _CHANNELS,
    }
    text = json.dumps(covered, sort_keys=True).encode()
    return _named(embedder, hashlib.sha256(text).hexdigest()[:16])


def former_identity(embedder: Embedder) -> str:
    """Name a model as older versions did, by its weights alone."""
    return _named(embedder, _weights(embedder))


def _weights(embedder: Embedder) -> str:
    return "" if embedder.source is None else weights_digest(embedder.source)


def _named(embedder: Embedder, digest: str) -> str:
    return f"{embedder.card.name}@{digest}{'+flip' * embedder.flip}"
