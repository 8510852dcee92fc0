"""Views through the transformer against one view and one token set at a time."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from passreid.model import PartViT
from passreid.pretraining.heads import Heads
from passreid.pretraining.network import ViewNetwork, _last_block, resample_positions
from tests.pretraining.tiny import recipe

BATCH = 3


def network(**changes: object) -> ViewNetwork:
    torch.manual_seed(0)
    built = ViewNetwork(recipe(**changes)).double()
    with torch.no_grad():
        for parameter in built.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return built.train()


def batch(areas: int, crops: int) -> tuple[Tensor, Tensor]:
    torch.manual_seed(1)
    local = max(areas, 1) * crops * BATCH
    return (
        torch.randn(2 * BATCH, 3, 32, 16, dtype=torch.float64),
        torch.randn(local, 3, 16, 8, dtype=torch.float64),
    )


def slow_tokens(net: ViewNetwork, image: Tensor, chosen: list[int]) -> Tensor:
    """One image, its tokens written out: `chosen` are 0 for CLS and i for part i."""
    vit = net.vit
    assert vit.pos_embed is not None and vit.cls_token is not None
    table = vit.pos_embed[0]
    names = [vit.cls_token[0, 0]]
    if vit.reg_token is not None:
        names += list(vit.reg_token[0])
    sequence = [names[token] + table[token] for token in chosen]
    rows, columns = image.shape[1] // 8, image.shape[2] // 8
    grid = table[1 + net.areas :].T.reshape(1, -1, 4, 2)
    scale = ((rows + 0.1) / 4, (columns + 0.1) / 2)
    grid = F.interpolate(grid, scale_factor=scale, mode="bicubic")[0]
    weight, bias = vit.patch_embed.proj.weight, vit.patch_embed.proj.bias
    for row in range(rows):
        for column in range(columns):
            pixels = image[:, 8 * row : 8 * row + 8, 8 * column : 8 * column + 8]
            sequence.append((weight * pixels).sum(dim=(1, 2, 3)) + bias + grid[:, row, column])
    x = torch.stack(sequence)[None]
    for block in vit.blocks:
        x = block(x)
    return torch.as_tensor(vit.norm(x)[0, : len(chosen)])


@pytest.mark.parametrize(("areas", "crops"), [(0, 2), (1, 1), (3, 2), (4, 3)])
def test_each_view_as_if_it_were_alone(areas: int, crops: int) -> None:
    net = network(areas=areas, crops=crops)
    whole, local = batch(areas, crops)
    ours, seen = net.global_tokens(whole), net.local_tokens(local)
    assert ours.shape == (2 * BATCH, 1 + areas, 32)
    for number, image in enumerate(whole):
        torch.testing.assert_close(ours[number], slow_tokens(net, image, list(range(1 + areas))))
    assert seen.shape == (max(areas, 1), crops * BATCH, 2 if areas else 1, 32)
    for number, image in enumerate(local):
        area, place = divmod(number, crops * BATCH)
        chosen = [0, area + 1] if areas else [0]
        torch.testing.assert_close(seen[area, place], slow_tokens(net, image, chosen))


@pytest.mark.parametrize(("areas", "crops"), [(0, 2), (3, 2)])
def test_logits_of_each_kind_view_and_image(areas: int, crops: int) -> None:
    net = network(areas=areas, crops=crops)
    whole, local = batch(areas, crops)
    said = net(whole, local)
    ours, seen = net.global_tokens(whole), net.local_tokens(local)
    cls, *parts = said.logits
    assert cls.shape == (1, 2 + max(areas, 1) * crops, BATCH, 40)
    assert torch.equal(said.cls, ours[:, 0])
    for image in range(BATCH):
        for view in range(2):
            row = ours[view * BATCH + image]
            torch.testing.assert_close(cls[0, view, image], net.heads[0](row[None, :1])[0, 0])
            if areas:
                expected = net.heads[1](row[1:, None])[:, 0]
                torch.testing.assert_close(parts[0][:, view, image], expected)
        for area in range(max(areas, 1)):
            for crop in range(crops):
                row = seen[area, crop * BATCH + image]
                view = 2 + area * crops + crop
                torch.testing.assert_close(cls[0, view, image], net.heads[0](row[None, :1])[0, 0])
                if areas:
                    mine = row[1].expand(areas, 1, -1)
                    expected = net.heads[1](mine)[area, 0]
                    torch.testing.assert_close(parts[0][area, 2 + crop, image], expected)
    assert len(said.logits) == (2 if areas else 1)


def test_teachers_forward_has_global_views_only() -> None:
    net = network()
    whole, local = batch(3, 3)
    alone, both = net(whole).logits, net(whole, local).logits
    for few, many in zip(alone, both, strict=True):
        assert few.shape[1] == 2
        torch.testing.assert_close(few, many[:, :2])


def test_exact_positions_are_those_of_inference() -> None:
    net = network(positions="exact")
    model = PartViT(net.architecture).double().eval()
    model.vit.load_state_dict(net.vit.state_dict())
    whole, _ = batch(3, 3)
    torch.testing.assert_close(net.global_tokens(whole), model.tokens(whole))
    released = network(positions="released")
    assert (released.global_tokens(whole) - model.tokens(whole)).abs().max() > 1e-3


def test_resampling_keeps_a_constant_and_the_rows_apart() -> None:
    table = torch.arange(4.0).repeat_interleave(2)[None, :, None]
    for how in ("released", "exact"):
        rows = resample_positions(table, (4, 2), (8, 4), how).view(8, 4)
        assert torch.allclose(rows, rows[:, :1].expand(8, 4), atol=1e-5)
        assert (rows[:, 0].diff() > 0).all()
        ones = resample_positions(torch.ones(1, 8, 1), (4, 2), (2, 1), how)
        torch.testing.assert_close(ones, torch.ones(1, 2, 1))
    exact = F.interpolate(table.view(1, 1, 4, 2), size=(6, 3), mode="bicubic")
    assert torch.equal(resample_positions(table, (4, 2), (6, 3), "exact").view(1, 1, 6, 3), exact)
    assert resample_positions(table, (4, 2), (4, 2), "exact") is table


def test_recomputed_blocks_give_the_same_gradients() -> None:
    gradients, runs = [], []
    for recompute in (False, True):
        net = network(checkpoint_blocks=recompute, drop_path=0.0)
        runs.append(0)

        def count(*_: object) -> None:
            runs[-1] += 1

        net.vit.blocks[0].register_forward_pre_hook(count)
        said = net(*batch(3, 3))
        torch.cat([x.flatten() for x in said.logits]).square().sum().backward()
        gradients.append({n: p.grad for n, p in net.named_parameters() if p.grad is not None})
    plain, again = gradients
    assert plain.keys() == again.keys()
    assert all(torch.equal(plain[name], again[name]) for name in plain)
    assert runs[1] == 2 * runs[0]


def test_the_short_last_block_is_the_whole_one_with_its_dropped_paths() -> None:
    torch.manual_seed(0)
    blocks: Any = ViewNetwork(recipe(), drop_path=0.5).train().vit.blocks
    assert [getattr(block.drop_path1, "drop_prob", 0.0) for block in blocks] == [0.0, 0.5]
    x = torch.randn(16, 9, 32)
    for seed in range(3):
        torch.manual_seed(seed)
        whole = blocks[-1](x)[:, :4]
        torch.manual_seed(seed)
        torch.testing.assert_close(_last_block(blocks[-1], x, 4), whole)


def test_heads_are_those_of_the_recipe() -> None:
    for head in network(norm_last_layer=False, head_batch_norm=True).heads:
        assert isinstance(head, Heads)
        assert head.lengths.requires_grad and len(head.norms) == 2
        assert [weight.shape[1] for weight in head.weights] == [24, 24, 8]
        assert head.directions.shape[1:] == (40, 8)


def test_every_parameter_takes_part() -> None:
    net = network()
    said = net(*batch(3, 3))
    torch.cat([x.flatten() for x in said.logits]).square().sum().backward()
    still = [n for n, p in net.named_parameters() if p.requires_grad and p.grad is None]
    assert not still
