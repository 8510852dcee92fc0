"""An embedder's identity covers what runs; a card of another width is refused."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import passreid
from passreid.backends.pytorch import TorchBackend
from passreid.card import ModelCard
from passreid.checkpoint import load_folder
from passreid.embed import Embedder
from passreid.errors import EmbeddingError
from tests import small


def by_hand(seed: int = 0, **card: Any) -> Embedder:
    a = small.architecture()
    network = TorchBackend(small.network(a, seed=seed), device="cpu")
    return Embedder(network, ModelCard(name="mine", architecture=a, **card))


def test_hand_built_embedders_of_two_networks_are_two_models() -> None:
    assert by_hand(0).identity == by_hand(0).identity
    assert by_hand(0).identity != by_hand(1).identity
    assert re.fullmatch(r"mine@[0-9a-f]{16}\.[0-9a-f]{8}", by_hand(0).identity)


@pytest.mark.parametrize(
    "card",
    [{"mean": (0.4, 0.5, 0.5)}, {"std": (0.5, 0.5, 0.4)}, {"interpolation": "bicubic"}],
)
def test_identity_covers_preprocessing(card: dict[str, Any]) -> None:
    assert by_hand(**card).identity != by_hand().identity


def test_identity_covers_what_shapes_do_not_show() -> None:
    a = small.architecture()
    for change in ({"heads": 4}, {"fusion": "mean"}, {"merge": 1}, {"feature": "normalized"}):
        other = replace(a, **change)
        model = small.network(a) if "fusion" not in change else small.network(other)
        model.architecture = other
        embedder = Embedder(
            TorchBackend(model, device="cpu"), replace(by_hand().card, architecture=other)
        )
        assert embedder.identity != by_hand().identity, change


def test_identity_follows_a_network_that_is_exchanged(tmp_path: Path) -> None:
    loaded = passreid.load(small.folder(tmp_path / "m"), backend="torch")
    other = replace(loaded, network=by_hand(1).network)
    assert other.source == loaded.source and other.identity != loaded.identity


def test_identity_is_the_same_for_every_way_to_run_the_same_weights(tmp_path: Path) -> None:
    folder = small.folder(tmp_path / "m")
    loaded = passreid.load(folder)
    model, card = load_folder(folder)
    assert Embedder(TorchBackend(model), card).identity == loaded.identity
    assert passreid.load(folder, precision="bfloat16").identity == loaded.identity
    assert passreid.load(folder, flip=True).identity == f"{loaded.identity}+flip"
    bundled = passreid.load("passreid-tiny")
    assert passreid.load("passreid-tiny", backend="torch").identity == bundled.identity


def test_a_backend_that_names_no_weights_is_told_by_what_it_returns() -> None:
    class Anonymous(small.Colours):
        weights_digest = ""
        scale = 1.0

        def run(self, pixels: Any) -> Any:
            return super().run(pixels) * np.float32(self.scale)

    one, same, other = Anonymous(), Anonymous(), Anonymous()
    other.scale = 2.0
    assert small.colours(network=one).identity == small.colours(network=same).identity
    assert small.colours(network=one).identity != small.colours(network=other).identity


def test_a_card_of_another_width_is_refused() -> None:
    embedder = by_hand()
    wrong = replace(embedder.card, architecture=small.architecture(fusion="mean"))
    with pytest.raises(EmbeddingError, match=r"'mine' says 64 dimensions, but its network .* 128"):
        Embedder(embedder.network, wrong)(small.picture(0), channel_order="rgb")
