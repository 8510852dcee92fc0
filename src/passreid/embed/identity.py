"""The name of a model that tells its vectors from those of any other."""

from __future__ import annotations

import hashlib
import json
from dataclasses import fields, replace

import numpy as np

from passreid.backends import Backend
from passreid.card import ModelCard
from passreid.images import normalise


def identify(network: Backend, card: ModelCard, *, flip: bool) -> str:
    """Name everything an embedding depends on.

    A network that names no weights is told by what it makes of an image of noise.

    Returns:
        ``name@weights.settings``, with "+flip" where it applies: the card's name, 16 hexadecimal
        digits of the weights' SHA-256, and 8 of the architecture's and preprocessing's.

    Raises:
        CheckpointError: The weights cannot be read.
    """
    weights = getattr(network, "weights_digest", None)
    if not weights:
        size = (1, *card.architecture.image_size, 3)
        noise = np.random.default_rng(0).integers(0, 256, size, dtype=np.uint8)
        pixels = noise if network.normalises else normalise(noise, card.mean, card.std)
        weights = hashlib.sha256(network.run(pixels).tobytes()).hexdigest()
    a = replace(card.architecture, num_classes=0)  # the classifier embeds nothing
    # Without defaults, a field that is new to cards leaves the identities of old ones alone.
    changed = {f.name: getattr(a, f.name) for f in fields(a) if getattr(a, f.name) != f.default}
    text = json.dumps([changed, card.mean, card.std, card.interpolation], sort_keys=True)
    settings = hashlib.sha256(text.encode()).hexdigest()
    return f"{card.name}@{weights[:16]}.{settings[:8]}{'+flip' * flip}"
