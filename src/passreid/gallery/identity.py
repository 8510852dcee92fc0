"""The identity of a model: embeddings of two identities are never mixed in one gallery."""

from __future__ import annotations

from passreid.embed import Embedder
from passreid.storage import sha256


def identity(embedder: Embedder) -> str:
    """Return `Embedder.identity`, which covers everything an embedding depends on."""
    return embedder.identity


def former_identity(embedder: Embedder) -> str | None:
    """Name a model as older versions did, by its weight file alone; None without one."""
    source = embedder.source
    weights = source / "model.safetensors" if source is not None and source.is_dir() else source
    if weights is None or not weights.is_file():
        return None
    return f"{embedder.card.name}@{sha256(weights)[:16]}{'+flip' * embedder.flip}"
