"""The loss against loops over pairs of views, written from the formula."""

from __future__ import annotations

import math
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from passreid.pretraining.loss import SINKHORN_ROUNDS, PartDistillation, even_shares

STUDENT_TEMP, TEACHER_TEMP = 0.1, 0.04


def logits(areas: int, crops: int, batch: int, views: int | None, seed: int) -> list[Tensor]:
    """Logits of CLS and of the parts; `views` overrides how many there are (the teacher's 2)."""
    generator = torch.Generator().manual_seed(seed)
    shapes = [(1, views or 2 + max(areas, 1) * crops, batch, 7)]
    if areas:
        shapes.append((areas, views or 2 + crops, batch, 7))
    return [torch.randn(*s, generator=generator) / 4 for s in shapes]


def slow_terms(
    student: list[Tensor], teacher: list[Tensor], centers: Tensor
) -> dict[tuple[int, int, int], float]:
    """Loop over branches, teacher views, student views, images and prototypes."""
    terms = {}
    said_by, taught_by = ([head for kind in side for head in kind] for side in (student, teacher))
    for branch, (said, taught) in enumerate(zip(said_by, taught_by, strict=True)):
        for q in range(2):
            for v in range(len(said)):
                if v == q:
                    continue
                total = 0.0
                for image in range(said.shape[1]):
                    raw = (taught[q, image] - centers[branch]) / TEACHER_TEMP
                    wanted = [math.exp(x) for x in (raw - raw.max()).tolist()]
                    given = [math.exp(x) for x in (said[v, image] / STUDENT_TEMP).tolist()]
                    for p, s in zip(wanted, given, strict=True):
                        total -= p / sum(wanted) * math.log(s / sum(given))
                terms[branch, q, v] = total / said.shape[1]
    return terms


@pytest.mark.parametrize("areas", [0, 1, 3, 4])
@pytest.mark.parametrize(("crops", "batch"), [(1, 1), (2, 3), (3, 2)])
def test_matches_loops_over_pairs(areas: int, crops: int, batch: int) -> None:
    student = logits(areas, crops, batch, None, seed=1)
    teacher = logits(areas, crops, batch, 2, seed=2)
    loss = PartDistillation(1 + areas, 7, student_temp=STUDENT_TEMP)
    loss.centers.copy_(torch.randn(1 + areas, 7) / 8)
    result = loss(student, loss.targets(teacher, TEACHER_TEMP))
    expected = slow_terms(student, teacher, loss.centers)
    assert len(expected) == 2 * (1 + max(areas, 1) * crops) + areas * 2 * (1 + crops)
    assert float(result.loss) == pytest.approx(sum(expected.values()) / len(expected), rel=1e-5)
    ours = [branch for kind in result.terms for branch in kind]
    for (branch, q, v), value in expected.items():
        assert float(ours[branch][q, v]) == pytest.approx(value, rel=1e-5)
    for branch_terms in ours:
        assert branch_terms[:, :2].diagonal().isnan().all()
        assert int(branch_terms.isnan().sum()) == 2


def test_released_views_give_44_terms() -> None:
    loss = PartDistillation(4, 7)
    student, teacher = logits(3, 3, 2, None, seed=1), logits(3, 3, 2, 2, seed=2)
    terms = loss(student, loss.targets(teacher, TEACHER_TEMP)).terms
    assert [int(branch.isfinite().sum()) for kind in terms for branch in kind] == [20, 8, 8, 8]


def test_without_local_views_only_the_two_global_ones_meet() -> None:
    loss = PartDistillation(1, 7)
    both = logits(0, 0, 2, 2, seed=1)
    terms = loss(both, loss.targets(both, TEACHER_TEMP)).terms
    assert int(terms[0].isfinite().sum()) == 2


def test_no_gradient_reaches_the_teacher_or_the_same_view() -> None:
    student = [x.requires_grad_() for x in logits(2, 1, 2, None, seed=3)]
    teacher = logits(2, 1, 2, 2, seed=4)
    loss = PartDistillation(3, 7)
    result = loss(student, loss.targets(teacher, TEACHER_TEMP))
    result.loss.backward()
    assert not any(terms.requires_grad for terms in result.terms)
    for kind in student:
        assert kind.grad is not None
        assert torch.isfinite(kind.grad).all()
        assert (kind.grad.flatten(2).norm(dim=2) > 0).all()


def test_centers_follow_the_mean_of_raw_logits_once_a_step() -> None:
    loss = PartDistillation(3, 7, center_momentum=0.9)
    loss.centers.normal_()
    before = loss.centers.clone()
    first, second = logits(2, 1, 2, 2, seed=5), logits(2, 1, 2, 2, seed=6)
    loss.observe(first, share=0.5)
    loss.observe(second, share=0.5)
    loss.update_centers()
    for branch in range(3):
        rows = [x[0] if branch == 0 else y[branch - 1] for x, y in (first, second)]
        mean = torch.cat([r.reshape(-1, 7) for r in rows]).mean(dim=0)
        expected = 0.9 * before[branch] + 0.1 * mean
        torch.testing.assert_close(loss.centers[branch], expected)
    again = loss.centers.clone()
    loss.observe(first)
    loss.update_centers()
    torch.testing.assert_close(loss.centers, 0.9 * again + 0.1 * torch.cat(first).mean(dim=(1, 2)))


def slow_shares(logits: Tensor, temperature: float) -> list[list[float]]:
    """Rounds of scaling prototypes and views of one head, in plain numbers."""
    table = [[math.exp(x / temperature) for x in row] for row in logits.flatten(0, 1).tolist()]
    table = [[x / sum(row) for x in row] for row in table]
    for _ in range(SINKHORN_ROUNDS):
        sums = [sum(column) for column in zip(*table, strict=True)]
        table = [[x / total for x, total in zip(row, sums, strict=True)] for row in table]
        table = [[x / sum(row) for x in row] for row in table]
    return table


def test_even_shares_match_the_plain_rounds() -> None:
    teacher = logits(2, 1, 5, 2, seed=7)[1]
    shares = even_shares(teacher, 0.3)
    for head in range(2):
        expected = torch.tensor(slow_shares(teacher[head], 0.3)).view(2, 5, 7)
        torch.testing.assert_close(shares[head], expected, rtol=1e-4, atol=1e-6)


def test_sinkhorn_keeps_views_off_one_prototype() -> None:
    teacher = torch.randn(1, 2, 64, 7, generator=torch.Generator().manual_seed(0)) / 8
    teacher[..., 3] += 1  # everything likes the same prototype
    kept = PartDistillation(1, 7).targets([teacher], 0.1)[0]
    even = PartDistillation(1, 7, centering="sinkhorn").targets([teacher], 0.1)[0]
    assert float(kept.mean(dim=(1, 2))[0, 3]) > 0.99
    torch.testing.assert_close(even.mean(dim=(1, 2)), torch.full((1, 7), 1 / 7), rtol=0.1, atol=0)
    torch.testing.assert_close(even.sum(dim=-1), torch.ones(1, 2, 64))


def test_even_shares_of_two_processes_are_those_of_one(monkeypatch: pytest.MonkeyPatch) -> None:
    teacher = logits(2, 1, 5, 2, seed=8)[1]
    meeting, sums = threading.Barrier(2, timeout=60), dict[int, Tensor]()

    def all_reduce(tensor: Tensor) -> None:
        sums[threading.get_ident()] = tensor.clone()
        meeting.wait()
        tensor.copy_(torch.stack(list(sums.values())).sum(dim=0))
        meeting.wait()

    whole = even_shares(teacher, 0.3)
    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    monkeypatch.setattr(dist, "all_reduce", all_reduce)
    with ThreadPoolExecutor(2) as pool:
        parts = list(pool.map(lambda part: even_shares(part, 0.3), teacher.split([2, 3], dim=2)))
    torch.testing.assert_close(torch.cat(parts, dim=2), whole)


def test_even_shares_bear_logits_a_softmax_makes_zeros_of() -> None:
    teacher = torch.zeros(1, 2, 3, 4)
    teacher[..., 0] = 100
    assert torch.isfinite(even_shares(teacher, 0.04)).all()
