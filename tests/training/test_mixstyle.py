"""What MixStyle exchanges between the crops of a batch, and when."""

from __future__ import annotations

import torch
from torch import Tensor

from passreid.card import Architecture
from passreid.model import PartViT
from passreid.training.augment import exchange_statistics, mix_styles


def statistics(maps: Tensor) -> tuple[Tensor, Tensor]:
    return maps.mean(dim=(2, 3)), maps.std(dim=(2, 3), correction=1)


def test_a_map_takes_statistics_between_its_own_and_anothers_and_keeps_its_pattern() -> None:
    torch.manual_seed(0)
    maps = torch.randn(6, 4, 8, 8) * torch.arange(1, 7).view(6, 1, 1, 1) + 3
    mixed = exchange_statistics(maps)
    (mean, deviation), (new_mean, new_deviation) = statistics(maps), statistics(mixed)
    pattern = (maps - mean[..., None, None]) / deviation[..., None, None]
    kept = (mixed - new_mean[..., None, None]) / new_deviation[..., None, None]
    torch.testing.assert_close(kept, pattern, atol=1e-4, rtol=0)
    for row in range(6):
        # One share for all channels, and one other map, explain all means and deviations.
        fits = []
        for other in range(6):
            gap = mean[other] - mean[row]
            share = (new_mean[row] - mean[row]) / gap if other != row else torch.zeros(4)
            expected = deviation[row] + share * (deviation[other] - deviation[row])
            close = torch.allclose(expected, new_deviation[row], atol=1e-3)
            fits.append(close and float(share.max() - share.min()) < 1e-3)
        assert any(fits), row


def test_styles_are_mixed_while_training_alone() -> None:
    torch.manual_seed(0)
    small = Architecture(
        width=64, depth=1, heads=1, image_size=(32, 16), patch_size=8, stride=(8, 8), stem="lite0"
    )
    model = PartViT(small)
    names = set(model.state_dict())
    images = torch.randn(4, 3, 32, 16)
    with torch.no_grad():
        plain = model.train().tokens(images)
        mix_styles(model, 1.0)
        mixed = model.train().tokens(images)
        assert not torch.allclose(mixed, plain, atol=1e-3)
        model.eval()
        torch.testing.assert_close(model.tokens(images), model.tokens(images))
    assert set(model.state_dict()) == names
